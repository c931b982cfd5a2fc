"""published.yaml is read whole, and what it lacks is named by row and key."""

import copy

import pytest
from paper_files import ROWS, make_paper

from certtrain.certificates.card_check import indices_sha256
from certtrain.errors import UserError
from certtrain.reporting.published import read_paper


def test_a_row_says_what_the_file_says(tmp_path):
    paper = read_paper(make_paper(tmp_path / "zhang2020"))
    row = paper.rows["small"]
    assert (paper.name, paper.title) == ("zhang2020", "A paper")
    assert (row.experiment, row.eps, row.verifiers, row.family) == ("zhang2020/small", "0.3", ("ibp",), "bounds")
    assert row.published.certified == {"0.3": 0.91}
    assert row.tolerance.certified == 0.02
    assert paper.rows["large"].published is None


def test_radii_are_kept_in_their_canonical_text(tmp_path):
    rows = copy.deepcopy(ROWS)
    rows["small"] |= {"eps": "0.30"}
    rows["small"]["published"]["certified"] = {"3/10": 0.91, "0.1": None}
    row = read_paper(make_paper(tmp_path / "p", rows)).rows["small"]
    assert row.eps == "0.3"
    assert row.published.certified == {"0.3": 0.91}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"verifier": None}, "verifier"),
        ({"colour": "red"}, "colour"),
        ({"family": "luck"}, "family 'luck'"),
        ({"eps": "wide"}, "wide"),
        ({"published": {**ROWS["small"]["published"], "clean": 98.0}}, "98.0 is not a fraction"),
        ({"published": {**ROWS["small"]["published"], "certified": {"0.3": 91}}}, "certified at 0.3 = 91"),
        ({"published": {**ROWS["small"]["published"], "provenance": "hearsay"}}, "hearsay"),
        ({"published": {"clean": 0.9}}, "provenance"),
        ({"tolerance": {"clean": 0.1}}, "reason"),
        ({"published": None, "tolerance": "sampling_error"}, "needs published figures"),
        ({"published": {**ROWS["small"]["published"], "tuned": "luck"}}, "tuned 'luck'"),
        ({"published": {**ROWS["small"]["published"], "n": 0}}, "n = 0"),
        ({"published": {**ROWS["small"]["published"], "indices": "some"}}, "indices 'some' do not name 10,000"),
        ({"published": {**ROWS["small"]["published"], "on": {"first_10": {"n": 11}}}}, "'first_10' do not name 11"),
        ({"published": {**ROWS["small"]["published"], "on": {"every_20th": {"clean": 0.9}}}}, "every_20th need n"),
        ({"published": {**ROWS["small"]["published"], "on": {"every_20th": {"n": 5, "acc": 0.9}}}}, "acc"),
        ({"published": {**ROWS["small"]["published"], "on": {"every_20th": {"n": 5, "clean": 90}}}}, "clean = 90"),
    ],
)
def test_what_a_row_lacks_is_named(tmp_path, change, message):
    rows = copy.deepcopy(ROWS)
    rows["small"] |= change
    if change == {"verifier": None}:
        del rows["small"]["verifier"]
    with pytest.raises(UserError) as caught:
        read_paper(make_paper(tmp_path / "p", rows))
    assert message in str(caught.value)


def test_the_sampling_error_need_not_be_written(tmp_path):
    rows = copy.deepcopy(ROWS)
    rows["small"]["tolerance"] = "sampling_error"
    tolerance = read_paper(make_paper(tmp_path / "p", rows)).rows["small"].tolerance
    assert tolerance.certified == pytest.approx(2 * (0.91 * 0.09 / 10000) ** 0.5)
    assert "10,000 test images" in tolerance.reason


def test_points_have_no_recipe_and_name_their_mistakes(tmp_path):
    folder = make_paper(tmp_path / "p")
    figures = "{source: s, provenance: recalled, certified: {0.3: 0.9}}"
    point = f"{{data: MNIST, norm: linf, eps: 3/10, method: IBP, published: {figures}}}"
    text = (folder / "published.yaml").read_text("utf-8") + f"method: IBP\nbenchmark: Bench\npoints:\n  - {point}\n"
    (folder / "published.yaml").write_text(text, "utf-8")
    paper = read_paper(folder)
    assert (paper.benchmark, paper.rows["small"].method, paper.points[0].eps) == ("Bench", "IBP", "0.3")
    assert paper.points[0].published.is_recalled("certified@0.3")
    (folder / "published.yaml").write_text(text.replace("method: IBP, published", "colour: red, published"), "utf-8")
    with pytest.raises(UserError, match="point 1 of"):
        read_paper(folder)


def test_no_file_names_the_neighbours(tmp_path):
    make_paper(tmp_path / "zhang2020")
    with pytest.raises(UserError, match=r"there is no .*published\.yaml") as caught:
        read_paper(tmp_path / "zhang2021")
    assert "zhang2020" in caught.value.fix


def test_figures_belong_to_the_images_that_a_rule_names(tmp_path):
    """`on` stands bare in a file, where YAML 1.1 reads true."""
    folder = make_paper(tmp_path / "p")
    text = (folder / "published.yaml").read_text(encoding="utf-8")
    more = "      on:\n        every_20th: {n: 500, clean: 0.97, source: the same}\n"
    (folder / "published.yaml").write_text(text.replace("    tolerance:\n", more + "    tolerance:\n", 1), "utf-8")
    figures = read_paper(folder).rows["small"].published
    assert figures.of(indices_sha256(range(10000))) is figures
    found = figures.of(indices_sha256(range(0, 10000, 20)))
    assert (found.indices, found.n, found.clean, dict(found.certified)) == ("every_20th", 500, 0.97, {})
    assert (found.provenance, found.seeds, found.verifier, found.source) == ("paper", 1, "IBP", "the same")
    for images in (range(500), range(0, 9980, 20), range(9999)):
        assert figures.of(indices_sha256(images)) is None


@pytest.mark.parametrize("text", ["rows: 5", "[]", "a: [", "\x00"])
def test_no_yaml_or_no_rows(tmp_path, text):
    (tmp_path / "published.yaml").write_text(text)
    with pytest.raises(UserError):
        read_paper(tmp_path)
