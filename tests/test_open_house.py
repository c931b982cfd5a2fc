"""A user's own method, schedule, certifier and threat model go through every command; certtrain stays as it is."""

import csv
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from certtrain.certificates import CertificateLog
from certtrain.cli import main

PARTS = Path(__file__).parent / "open_house"
CONF = ["--config-dir", str(PARTS / "conf")]
TRAIN = [
    *["train", "data=digits", "model=mlp", "model.hidden=[]", "method=toy_method", "trainer=cpu", "val_size=0.1"],
    *CONF,
]
TRAIN += ["radii=[0.1,0.5]", "validation.examples=30", "optimizer.lr=0.01", "schedule.lr.kind=constant"]


@pytest.fixture(autouse=True)
def own_code(in_tmp, monkeypatch):
    monkeypatch.syspath_prepend(str(PARTS))
    yield
    sys.modules.pop("toy_parts", None)


@pytest.fixture
def run(own_code):
    assert main([*TRAIN, "epochs=2", "name=toy"]) == 0
    return Path("runs/toy")


def test_from_training_to_prediction(run, capsys):
    found = json.loads((run / "result.json").read_text())["validation"]
    assert (found["certifier"], found["claim"]["threat"]) == ("toy_exact", "toy-l1")
    assert 0 < found["certified"]["0.1"] <= found["clean"]
    assert found["acr"] > 0
    assert "val/acr" in (run / "metrics.csv").read_text().splitlines()[0]
    with (run / "metrics.csv").open() as file:
        faded = [float(row["schedule/softness"]) for row in csv.DictReader(file) if row["schedule/softness"]]
    assert faded == sorted(faded, reverse=True)
    assert faded[-1] == pytest.approx(0.1 * (1 - 2 / 10))  # after two epochs of a ramp of ten
    assert main(["train", "resume=toy", "epochs=3", "trust=toy_parts", *CONF]) == 0

    assert main(["certify", "run=toy", "indices=first_50", "trust=toy_parts", *CONF]) == 0
    printed = capsys.readouterr().out
    assert "deterministic, toy l1" in printed
    assert re.search(r"mean certified radius \d\.\d{4}", printed)
    log = run / "certificates" / "toy_exact_first_50.tsv"
    card, before = json.loads(log.with_suffix(".json").read_text()), log.read_bytes()
    assert card["claim"]["says"].startswith("The toy network classifies every input of the toy l1 ball")
    assert "Proved by bounds" not in card["claim"]["says"]
    assert card["made_by"] == "toy_parts.ToyExact"
    entry = card["summary"]
    rows = CertificateLog(log).read()
    assert entry["acr"] == pytest.approx(np.where(rows.correct, rows.radius, 0).mean(), abs=1e-11)
    assert main(["certify", "run=toy", "indices=first_50", "trust=toy_parts", *CONF]) == 0
    assert log.read_bytes() == before

    assert main(["audit", str(run)]) == 0
    assert "toy_parts.ToyExact is not a certifier of certtrain" in " ".join(capsys.readouterr().out.split())
    assert main(["plot", str(run), "--output", "curve.png"]) == 0
    assert main(["report", str(run), "--trust", "toy_parts", "--output", "page.html"]) == 0
    page = Path("page.html").read_text()
    assert "toy l1 radius" in page
    assert "The toy network classifies" in page
    np.save("input.npy", np.full((1, 8, 8), 0.3, dtype=np.float32))
    capsys.readouterr()
    assert main(["predict", "run=toy", "input=input.npy", "trust=toy_parts", *CONF]) == 0
    assert re.search(
        r"certified toy l1 radius \d\.\d{4} \(inputs in \[0, 1\]\); deterministic", capsys.readouterr().out
    )


def test_a_log_that_was_cut_is_completed(run):
    assert main(["certify", "run=toy", "indices=first_20", "trust=toy_parts", *CONF]) == 0
    log = run / "certificates" / "toy_exact_first_20.tsv"
    card, whole = log.with_suffix(".json"), log.read_bytes()
    log.write_bytes(b"".join(whole.splitlines(keepends=True)[:9]))
    card.write_text(json.dumps({**json.loads(card.read_text()), "status": "running"}))
    assert main(["certify", "run=toy", "indices=first_20", "trust=toy_parts", *CONF]) == 0
    assert len(log.read_bytes().splitlines()) == len(whole.splitlines())


def test_a_sweep_compares_them(capsys):
    assert main([*TRAIN, "epochs=1", "-m", "optimizer.lr=0.01,0.02"]) == 0
    printed = capsys.readouterr().out
    assert "best by val/acr: " in printed


def test_without_trust_nothing_of_it_is_built(run, capsys):
    assert main(["certify", "run=toy", "certifier=ibp", "radii=[0.1]", "norm=linf", "indices=first_5"]) == 0
    capsys.readouterr()
    assert main(["train", "resume=toy", "epochs=4", *CONF]) == 2
    assert "trust=toy_parts" in " ".join(capsys.readouterr().err.split())
