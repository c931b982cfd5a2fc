"""A log is read, drawn, compared, tabulated, exported and reported only where it is the one that its card is about."""

import json

import numpy as np
import pytest
from claims import LINF
from paper_files import SMOOTHED, make_paper, make_run

from certtrain.audit.sources import read_lines
from certtrain.certificates import CertificateLog, Certificates, read_card, write_card
from certtrain.certificates.card_check import disagreement, indices_sha256, read_whole
from certtrain.errors import UserError
from certtrain.export.claims import read_claims
from certtrain.reporting.collected import collect
from certtrain.reporting.comparison import compare
from certtrain.reporting.page.evidence import read_evidence
from certtrain.reporting.paper_tables import footnotes
from certtrain.reporting.published import read_paper
from certtrain.runs.directory import RunDirectory

N = 12


def certificates(columns=None):
    n = N
    return Certificates(
        np.arange(n), np.zeros(n), np.zeros(n), np.full(n, 0.5), np.ones(n, bool), np.zeros(n), columns or {}
    )


def write(folder, name="votes", columns=None, **more):
    """A log of N rows and its card in a folder of certificates; the log's path."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, log = certificates(columns or {"n": np.full(N, 100), "count_top": np.full(N, 99)}), folder / f"{name}.tsv"
    CertificateLog(log).append(rows)
    card = {"status": "complete", "claim": SMOOTHED["claim"], "n": N, "indices_sha256": indices_sha256(range(N))}
    write_card(folder / f"{name}.json", card | {"log_sha256": CertificateLog(log).sha256(), "radii": ["0.5"]} | more)
    return log


def cut(log):
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:5]))


def other_rows(log):
    log.write_text(log.read_text().replace("\n3\t", "\n33\t"))


def other_radius(log):
    log.write_text(log.read_text().replace("\t0.5\t", "\t0.75\t"))


def torn(log):
    log.write_text(log.read_text()[:-3])


def running(log):
    card = log.with_suffix(".json")
    write_card(card, read_card(card) | {"status": "running"})
    cut(log)


CHANGES = {cut: "holds 4 rows, and its card says 12", other_rows: "other examples", other_radius: "another sha256"}
CHANGES |= {torn: "holds 11 rows", running: "is not complete: it holds 4 of 12 examples"}
changes = pytest.mark.parametrize(("change", "words"), CHANGES.items(), ids=[change.__name__ for change in CHANGES])


def test_a_whole_log_is_read(tmp_path):
    log = write(tmp_path)
    assert len(read_whole(log, read_card(log.with_suffix(".json")))) == N
    assert len(read_whole(log, {})) == N
    assert disagreement(certificates(), {"status": "complete"}) is not None  # a card states all of it


@changes
def test_plot_and_compare_refuse_it(tmp_path, change, words):
    log = write(tmp_path)
    assert len(read_lines([log.with_suffix(".json")])[0].examples) == N
    change(log)
    for path in (log, log.with_suffix(".json")):
        with pytest.raises(UserError, match=words) as refused:
            read_lines([path])
        assert str(log) in refused.value.what


def test_a_run_with_one_cut_log_is_refused(tmp_path):
    log = write(tmp_path / "certificates")
    write(tmp_path / "certificates", "others")
    assert len(read_lines([tmp_path])) == 2
    cut(log)
    with pytest.raises(UserError, match="holds 4 rows"):
        read_lines([tmp_path])


@changes
def test_a_table_has_no_interval_of_it_and_says_why(tmp_path, change, words):
    row = {"family": "smoothing", "data": "d", "network": "n", "norm": "l2", "verifier": "smoothing"}
    paper = read_paper(make_paper(tmp_path / "p", {"s": row}))
    run = make_run(tmp_path / "runs", "p/s", 0, {"smoothing": {**SMOOTHED, "n": N, "acr": 0.5}})
    log = write(run / "certificates", "smoothing")

    def acr():
        lines = compare(paper, collect([tmp_path / "runs"]))
        return next(line for line in lines if line.quantity == "ACR")

    assert acr().interval == (0.5, 0.5)
    assert acr().note == ""
    change(log)
    assert acr().interval is None
    assert any("no interval of the ACR" in note and words in note for note in footnotes([acr()]))


@changes
def test_a_page_shows_no_figure_of_it(tmp_path, change, words):
    log = write(tmp_path / "certificates")
    entry = {
        "claim": SMOOTHED["claim"],
        "clean": 1.0,
        "certified": {"0.5": 1.0},
        "acr": 0.5,
        "acr_grid": None,
        "abstained": 0,
    }
    entry |= {"invalid": 0, "error": 0, "n": N, "certifier": "smoothing", "indices_sha256": "x", "settings": {}}
    result = {"status": "complete", "test": {"votes": entry}}
    (tmp_path / "result.json").write_text(json.dumps(result))
    [before] = read_evidence(RunDirectory(tmp_path)).certificates
    change(log)
    [after] = read_evidence(RunDirectory(tmp_path)).certificates
    assert before.disagreement is None
    assert words in after.disagreement
    assert not after.shown


@changes
def test_no_property_is_exported_with_its_claims(tmp_path, change, words):
    about = {"checkpoint_sha256": "c", "dataset": "d", "split": "test"}
    status = {"status@0.5": ["verified"] * N}
    log = write(tmp_path, "ibp", status, claim=LINF.to_dict(), **about)
    assert len(read_claims(tmp_path, **about).logs) == 1
    change(log)
    if change is running:  # what is proved so far is proved
        assert len(read_claims(tmp_path, **about).logs[0].rows) == 4
        return
    with pytest.raises(UserError, match=words):
        read_claims(tmp_path, **about)
