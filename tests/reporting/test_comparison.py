"""Differences, intervals and verdicts, against values worked out by hand."""

import copy
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paper_files import ENTRY, ROWS, SMOOTHED, make_paper, make_run
from scipy.stats import binomtest

from certtrain.certificates import CertificateLog, Certificates
from certtrain.certificates.card_check import indices_sha256
from certtrain.reporting.brief import brief
from certtrain.reporting.collected import collect
from certtrain.reporting.comparison import clopper_pearson_mean, compare, notes_of
from certtrain.reporting.paper_tables import cells, csv_text, latex, markdown
from certtrain.reporting.published import read_paper


def lines(folder, *roots, **options):
    return compare(read_paper(folder), collect(roots), **options)


def by_name(found, row="small"):
    return {line.quantity: line for line in found if line.row.name == row}


@pytest.fixture
def paper(tmp_path):
    return make_paper(tmp_path / "p")


def test_mean_deviation_difference_and_cost(paper, tmp_path):
    shares = (0.90, 0.91, 0.89)
    for seed, share in enumerate(shares):
        make_run(tmp_path / "runs", "p/small", seed, {"ibp": {**ENTRY, "certified": {"0.1": 0.95, "0.3": share}}})
    found = by_name(lines(paper, tmp_path / "runs"))
    line = found["certified@0.3"]
    assert line.ours == pytest.approx(0.90)
    assert line.sd == pytest.approx(statistics.stdev(shares))
    assert line.difference == pytest.approx(-0.01)
    assert (line.verdict, line.allowed, line.seeds, line.n) == ("within", 0.02, 3, 10000)
    assert line.hours == pytest.approx(1.01)
    assert line.hardware == "2 cores a CPU"
    assert found["PGD@0.3"].ours == 0.93
    assert found["certified@0.1"].verdict == "no target"


@pytest.mark.parametrize(
    ("share", "verdict"), [(0.95, "within"), (0.91, "within"), (0.89, "within"), (0.8899, "short"), (0.0, "short")]
)
def test_within_means_not_below_by_more_than_the_tolerance(paper, tmp_path, share, verdict):
    make_run(tmp_path / "runs", "p/small", 0, {"ibp": {**ENTRY, "certified": {"0.3": share}}})
    assert by_name(lines(paper, tmp_path / "runs"))["certified@0.3"].verdict == verdict


EVERY_20TH = {**ENTRY, "n": 500, "indices_sha256": indices_sha256(range(0, 10000, 20))}


@pytest.mark.parametrize(
    ("n", "images"), [(100, range(100)), (10000, range(1, 10001)), (500, range(0, 10000, 20)), (500, range(500))]
)
def test_a_comparison_across_index_sets_is_refused(paper, tmp_path, n, images):
    entry = {**ENTRY, "n": n, "indices_sha256": indices_sha256(images), "certified": {"0.3": 0.91}}
    make_run(tmp_path / "runs", "p/small", 0, {"ibp": entry})
    found = lines(paper, tmp_path / "runs")
    for line in (by_name(found)[name] for name in ("clean", "certified@0.3")):
        assert (line.verdict, line.published, line.difference, line.allowed) == ("other images", None, None, None)
    assert by_name(found)["PGD@0.3"].verdict == "no target"
    [note] = [note for note in notes_of(found) if "not compared" in note]
    assert note.startswith(f"small: ours on {n:,} images, published on 10,000 (indices=all)")
    tables = [(read_paper(paper), [line for line in found if line.ours is not None])]
    for form in (markdown, latex, csv_text):
        assert "other images" in form(tables)
        assert "91.00 & 91.00" not in form(tables)
    assert "(91.00)" not in brief(tables)


def on_every_20th(**figures):
    rows = copy.deepcopy(ROWS)
    rows["small"]["published"]["on"] = {"every_20th": {"n": 500, **figures}}
    return rows


def test_figures_on_other_images_are_compared_with_ours_on_the_same(tmp_path):
    rows = on_every_20th(certified={"0.3": 0.94}, clean=0.97, tolerance={"certified": 0.03, "reason": "seeds"})
    paper = make_paper(tmp_path / "p", rows)
    make_run(tmp_path / "runs", "p/small", 0, {"ibp": ENTRY, "some": EVERY_20TH})
    found = [line for line in lines(paper, tmp_path / "runs") if line.row.name == "small"]
    told = {(line.n, line.quantity): (line.published, line.allowed, line.verdict) for line in found if line.published}
    assert told == {
        (10000, "clean"): (0.98, 0.005, "within"),
        (10000, "certified@0.3"): (0.91, 0.02, "within"),
        (500, "clean"): (0.97, 0.0, "within"),
        (500, "certified@0.3"): (0.94, 0.03, "short"),
    }
    assert "small: ours and the published figures on the same 500 images, indices=every_20th" in notes_of(found)


def test_a_mean_over_seeds_is_never_of_different_images(tmp_path):
    paper = make_paper(tmp_path / "p")
    make_run(tmp_path / "runs", "p/small", 0)
    make_run(tmp_path / "runs", "p/small", 1, {"ibp": EVERY_20TH})
    found = [line for line in lines(paper, tmp_path / "runs") if line.quantity == "certified@0.3" and line.ours]
    assert [(line.n, line.seeds, line.verdict) for line in found] == [(10000, 1, "within"), (500, 1, "other images")]


def test_figures_whose_images_nobody_states_are_not_compared(tmp_path):
    rows = copy.deepcopy(ROWS)
    del rows["small"]["published"]["n"]
    make_run(tmp_path / "runs", "p/small", 0)
    found = lines(make_paper(tmp_path / "p", rows), tmp_path / "runs")
    assert by_name(found)["clean"].verdict == "other images"
    assert any("published on images that are not known" in note for note in notes_of(found))


def test_rows_that_were_not_run_say_so_beside_their_target(paper, tmp_path):
    found = lines(paper, tmp_path)
    assert {line.verdict for line in found} == {"not run"}
    assert by_name(found)["certified@0.3"].published == 0.91
    assert by_name(found)["certified@0.3"].ours is None
    assert list(by_name(found, "large")) == ["certified@0.3"]


def test_a_recalled_figure_is_shown_and_not_judged(tmp_path):
    rows = copy.deepcopy(ROWS)
    rows["small"]["published"]["provenance"] = "recalled"
    make_run(tmp_path / "runs", "p/small", 0)
    found = by_name(lines(make_paper(tmp_path / "p", rows), tmp_path / "runs"))
    assert (found["clean"].verdict, found["clean"].published) == ("recalled", 0.98)


def test_only_the_rows_own_verifier_is_compared(tmp_path):
    rows = copy.deepcopy(ROWS)
    rows["small"]["verifier"] = ["ibp", "crown"]
    tests = {"ibp": ENTRY, "crown": {**ENTRY, "certifier": "crown"}, "crown_ibp": {**ENTRY, "certifier": "crown_ibp"}}
    make_run(tmp_path / "runs", "p/small", 0, tests)
    found = [line for line in lines(make_paper(tmp_path / "p", rows), tmp_path / "runs") if line.row.name == "small"]
    assert [(line.quantity, line.verifier, line.published) for line in found] == [
        ("clean", "IBP", 0.98),
        ("certified@0.1", "IBP", None),
        ("certified@0.3", "IBP", 0.91),
        ("PGD@0.3", "IBP", None),
        ("certified@0.3", "CROWN", None),
    ]
    every = lines(tmp_path / "p", tmp_path / "runs", every_certifier=True)
    assert "CROWN-IBP" in {line.verifier for line in every}


def smoothing_paper(tmp_path, **published):
    target = {"clean": 0.9, "acr": 1.0, "n": 4, "draws": 1000, "source": "logs", "provenance": "log", **published}
    row = {"data": "d", "network": "n", "norm": "l2", "sigma": 0.5, "verifier": "smoothing", "published": target}
    row["tolerance"] = {"acr": 0.05, "clean": 0.1, "reason": "seeds"}
    return make_paper(tmp_path / "p", {"s": row}, family="smoothing")


def test_acr_interval_comes_from_the_logs_rows(tmp_path):
    paper = smoothing_paper(tmp_path)
    path = make_run(tmp_path / "runs", "p/s", 0, {"smoothing": SMOOTHED})
    radius = np.array([1.0, 0.5, 0.0, 2.0])
    correct = np.array([True, True, False, True])
    rows = Certificates(np.arange(4), np.zeros(4, int), np.where(correct, 0, 1), radius, correct, np.zeros(4))
    assert by_name(lines(paper, tmp_path / "runs"), "s")["ACR"].interval is None
    (path / "certificates").mkdir()
    CertificateLog(path / "certificates" / "smoothing.tsv").append(rows)
    low, high = by_name(lines(paper, tmp_path / "runs"), "s")["ACR"].interval
    values = np.where(correct, radius, 0)
    assert (low + high) / 2 == pytest.approx(values.mean())
    assert (high - low) / 2 == pytest.approx(1.96 * values.std(ddof=1) / 2, rel=1e-3)


def test_acr_is_judged_and_other_draws_are_noted(tmp_path):
    paper = smoothing_paper(tmp_path, draws=100_000)
    make_run(tmp_path / "runs", "p/s", 0, {"smoothing": SMOOTHED})
    found = lines(paper, tmp_path / "runs")
    assert by_name(found, "s")["ACR"].verdict == "short"
    assert notes_of(found) == ["s: ours with n = 1,000 draws, published with 100,000"]


@given(st.integers(1, 400), st.data())
def test_interval_is_that_of_clopper_and_pearson(n, data):
    k = data.draw(st.integers(0, n))
    exact = binomtest(k, n).proportion_ci(0.95, method="exact")
    assert clopper_pearson_mean(k / n, n) == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_seeds_that_are_no_better_than_a_guess_are_marked(paper, tmp_path):
    for seed, more in enumerate(({}, {"guessing": "it answers class 3 for every example"})):
        make_run(tmp_path / "runs", "p/small", seed, {"ibp": {**ENTRY, **more}})
    found = lines(paper, tmp_path / "runs")
    line = by_name(found)["certified@0.3"]
    assert line.guesses == 1
    assert cells(line)["ours"].endswith(" !")
    assert any("1 of 2 seed(s)" in note for note in notes_of(found))
    [bare] = [note for note in [brief([(read_paper(paper), found)])] if "no better than a guess" in note]
    assert "!" in bare
