"""A user's own method, schedule, certifier, noise and threat model go through every command; certtrain stays."""

import csv
import importlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from paper_files import make_paper

from certtrain.certificates import CertificateLog
from certtrain.cli.main import main
from certtrain.smoothing.confidence import lower_bound
from certtrain.testing.certifiers import CertifierSuite
from certtrain.testing.noises import NoiseSuite

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


def test_a_noise_from_training_to_prediction(own_code, capsys):
    """Neither Gaussian nor uniform: training, certificates, attack, audit, table, plot, report and prediction."""
    assert main(["train", "experiment=toy/noisy", "name=noisy", *CONF]) == 0
    run = Path("runs/noisy")
    found = json.loads((run / "result.json").read_text())["validation"]
    assert (found["certifier"], found["claim"]["threat"]) == ("toy_laplace", "l1")
    assert found["acr"] > 0

    own = ["run=noisy", "trust=toy_parts", *CONF]
    assert main(["certify", *own, "indices=first_40", "falsify.examples=10", "falsify.steps=5"]) == 0
    log = run / "certificates" / "toy_laplace_n200_first_40.tsv"
    card, before = json.loads(log.with_suffix(".json").read_text()), log.read_bytes()
    assert "constant in the open l1 ball" in card["claim"]["says"]
    assert "votes under toy Laplace noise" in card["claim"]["says"]
    assert card["made_by"] == "toy_parts.ToySmoothing"
    assert set(card["noise_selftest"]) == {"mean", "mean_size"}
    assert card["falsification"]["attacked"] == 10
    assert not card["falsification"]["failed"]
    rows = CertificateLog(log).read()
    p = lower_bound(rows.columns["count_top"], 200, 0.001)
    expected = np.where(p < 0.5, 0, -0.2 / np.sqrt(2) * np.log(2 * (1 - np.maximum(p, 0.5))))
    assert rows.radius == pytest.approx(expected)
    assert rows.radius.max() > 0.1
    log.write_bytes(b"".join(before.splitlines(keepends=True)[:9]))
    log.with_suffix(".json").write_text(json.dumps({**card, "status": "running"}))
    assert main(["certify", *own, "indices=first_40"]) == 0
    assert CertificateLog(log).read().radius.tolist() == rows.radius.tolist()
    capsys.readouterr()
    assert main(["certify", *own, "indices=first_5", "radii=[9]"]) == 2  # its reach is its own
    assert "n = 200 draws at alpha = 0.001 and sigma = 0.2 certify radii up to" in capsys.readouterr().err

    assert main(["audit", str(run)]) == 0
    assert "toy_parts.ToySmoothing is not a certifier of certtrain" in " ".join(capsys.readouterr().out.split())
    assert main(["plot", str(run), "--output", "curve.png"]) == 0
    assert main(["report", str(run), "--trust", "toy_parts", "--output", "page.html"]) == 0
    assert "toy Laplace noise" in Path("page.html").read_text()
    row = {"data": "digits", "network": "MLP", "norm": "l1", "sigma": 0.2, "verifier": "toy_laplace"}
    make_paper(Path("experiments/toy"), {"noisy": row}, family="smoothing")
    capsys.readouterr()
    assert main(["table", "experiments/toy", "--format", "csv"]) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if "toy,noisy" in line]
    assert any("certified" in line and "toy_laplace" in line for line in table)
    np.save("input.npy", np.full((1, 8, 8), 0.3, dtype=np.float32))
    capsys.readouterr()
    assert main(["predict", *own, "input=input.npy"]) == 0
    assert re.search(r"l1 radius|abstain", capsys.readouterr().out)


class TestToyNoise(NoiseSuite):
    """A user's own noise under the suite that ours are under."""

    tight_between = False  # of two classes that are not all it proves less than there is

    @pytest.fixture(autouse=True)
    def chosen(self, own_code):
        self.kind = importlib.import_module("toy_parts").ToyLaplace

    def cdf(self, noise, z):
        tail = np.exp(-np.abs(z) / noise.scale) / 2
        return np.where(z > 0, 1 - tail, tail)


class TestToySmoothing(CertifierSuite):
    """A user's own certifier under the suite that ours are under."""

    @pytest.fixture(autouse=True)
    def chosen(self, own_code):
        self.kind = importlib.import_module("toy_parts").ToySmoothing

    def make(self):
        return self.kind(0.25, ["0.02", "0.1"], n0=10, n=200)
