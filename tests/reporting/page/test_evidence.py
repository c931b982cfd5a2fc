"""What is read from a run, also from one that is damaged."""

import json

import numpy as np
import pytest
from makers import bound_rows, card_of, certificate, vote_rows, write_found, write_run

from certtrain.reporting.page.evidence import read_evidence, read_metrics
from certtrain.runs.directory import RunDirectory


def read(run):
    return read_evidence(RunDirectory(run))


def test_a_run_in_full(tmp_path):
    bounds, votes = bound_rows(), vote_rows()
    run = write_run(tmp_path, {"v": (votes, card_of(votes, "smoothing")), "b": (bounds, card_of(bounds, "ibp"))})
    write_found(run, "b", np.zeros((2, 1, 2, 2)), [3, 1])
    found = read(run)
    assert (found.name, found.status, found.overrides, found.problems) == ("run", "complete", ("eps=0.1",), ())
    assert [c.name for c in found.certificates] == ["v", "b"]  # as result.json has them
    v, b = found.certificates
    assert (v.probabilistic, b.probabilistic, v.claim.threat, b.claim.threat) == (True, False, "l2", "linf")
    assert all(c.shown and c.complete and not c.falsified and c.mismatch is None for c in (v, b))
    assert [one.index for one in b.counterexamples] == [1, 3]
    assert b.counterexamples[0].x.shape == (1, 2, 2)


@pytest.mark.parametrize("where", ["card", "summary", "entry"])
def test_falsified_wherever_it_is_said(tmp_path, where):
    rows = bound_rows()
    card = card_of(rows, "ibp")
    run = write_run(tmp_path, {"b": (rows, card)})
    record = {"failed": True, "hits": 1, "attacked": 2}
    if where == "card":
        (run / "certificates" / "b.json").write_text(json.dumps(card | {"falsification": record}))
    elif where == "summary":
        changed = card | {"summary": card["summary"] | {"falsified": True}}
        (run / "certificates" / "b.json").write_text(json.dumps(changed))
    else:
        result = json.loads((run / "result.json").read_text())
        result["test"]["b"]["falsification"] = record
        (run / "result.json").write_text(json.dumps(result))
    [found] = read(run).certificates
    assert found.falsified
    assert not found.shown


def test_figures_that_the_rows_contradict_are_not_shown():
    rows = bound_rows()
    card = card_of(rows, "ibp")
    card["summary"]["certified"]["0.1"] = 0.99
    found = certificate(rows, summary=card["summary"])
    assert found.mismatch.startswith("certified at 0.1: 0.99 stated, ")
    assert not found.shown
    assert "no figures follow" in certificate(rows, summary=card["summary"] | {"norm": "l2", "certified": {}}).mismatch


def test_unfinished_and_without_log_or_card(tmp_path):
    rows = bound_rows()
    card = card_of(rows, "ibp", status="running")
    del card["summary"]
    run = write_run(tmp_path, {"b": (rows, card)}, status="interrupted")
    found = read(run)
    assert found.status == "interrupted"
    assert not found.certificates[0].complete
    (run / "certificates" / "b.tsv").unlink()
    assert "no log beside" in read(run).certificates[0].problems[0]
    result = json.loads((run / "result.json").read_text())
    result["test"] = {"gone": card_of(rows, "ibp")["summary"], "odd": {"norm": 3}, "odder": 7}
    (run / "result.json").write_text(json.dumps(result))
    by_name = {c.name: c for c in read(run).certificates}
    assert by_name["gone"].shown
    assert "no card" in by_name["gone"].problems[0]
    for name in ("odd", "odder"):
        assert not by_name[name].shown
        assert "not those of a certificate" in by_name[name].problems[1]


def test_damaged_files_are_named_and_the_rest_is_read(tmp_path):
    rows = bound_rows()
    run = write_run(
        tmp_path, {"b": (rows, card_of(rows, "ibp")), "c": (rows, card_of(rows, "crown"))}, metrics="step\n"
    )
    for name in ("config.yaml", "environment.json", "certificates/b.json", "certificates/c.tsv"):
        (run / name).write_text("{\n")
    write_found(run, "c", np.zeros((1, 1, 2, 2)), [0])
    (run / "certificates" / "c.counterexamples.npz").write_bytes(b"no archive")
    (run / "result.json").write_text('{"status": "complete", "test": []}')
    found = read(run)
    assert len(found.problems) == 2
    assert found.config == found.environment == {}
    assert [len(c.problems) for c in found.certificates] == [1, 2]
    (run / "result.json").write_text("[")
    assert read(run).status == "no result"
    assert len(read(run).problems) == 3


def test_metrics(tmp_path):
    path = tmp_path / "metrics.csv"
    assert read_metrics(path) == {}
    path.write_text("step,epoch,a,b\n1,0,0.5,\n2,0,nan,3\n3,0,x,inf\n2,1,0.25,4\n4,1,0.1")
    found = read_metrics(path)
    assert {name: (s.tolist(), v.tolist()) for name, (s, v) in found.items()} == {
        "a": ([1, 2, 4], [0.5, 0.25, 0.1]),
        "b": ([2], [4]),
    }
