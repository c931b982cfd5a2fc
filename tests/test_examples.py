"""What the examples and the README say about a user's own parts works."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OWN = ROOT / "examples" / "own_parts"


def certtrain(*arguments, folder=OWN, status=0):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "certtrain", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr + done.stdout
    return done.stdout + done.stderr


@pytest.mark.parametrize("path", sorted(OWN.glob("*.py")), ids=lambda path: path.name)
def test_each_part_is_short(path):
    assert len(path.read_text().splitlines()) <= 40


def test_a_lightning_script(tmp_path, monkeypatch):
    """Trains, validates by certificates, chooses a checkpoint by them, certifies; the page shows its lines."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    lightning_script = importlib.import_module("lightning_script")
    found = lightning_script.main(epochs=1, every=1, indices="first_20", folder=tmp_path)
    assert 0 <= found["0.1"] <= found["0.05"] <= 1
    assert list(tmp_path.glob("epoch=*.ckpt"))
    [metrics] = tmp_path.rglob("metrics.csv")
    assert "val/certified@0.1" in metrics.read_text().splitlines()[0]
    script = (ROOT / "examples" / "lightning_script.py").read_text()
    shown = (
        (ROOT / "docs" / "lightning.md").read_text().split("## `L.Trainer`")[1].split("```python\n")[1].split("```")[0]
    )
    assert [line for line in shown.splitlines() if line not in script] == []


@pytest.mark.slow
def test_own_network_and_method_by_a_config_folder_of_ones_own(tmp_path):
    common = ["--config-dir", "conf", "data=digits", "trainer=cpu", f"runs_dir={tmp_path}", "epochs=2", "n=200"]
    certtrain("train", *common, "model=two_branches", "method=smoothed_labels", "sigma=0.25", "radii=[0.1]", "name=own")
    assert "loss_smoothed" in (tmp_path / "own" / "metrics.csv").read_text().splitlines()[0]
    printed = certtrain(
        *("certify", f"run={tmp_path / 'own'}", "n=300", "indices=first_40", "falsify.examples=4", "falsify.steps=2"),
        "trust=own_network",
    )
    assert "smoothed accuracy" in printed
    refused = certtrain(
        *("certify", f"run={tmp_path / 'own'}", "--config-dir", "conf", "certifier=exact_linear", "norm=l2"),
        "trust=own_network",
        status=2,
    )
    assert "the network is not linear" in refused


@pytest.mark.slow
def test_own_certifier_is_exact_for_a_linear_network(tmp_path):
    common = ["data=digits", "trainer=cpu", f"runs_dir={tmp_path}", "epochs=2", "name=linear", "radii=[0.05,0.1]"]
    certtrain("train", *common, "model=mlp", "model.hidden=[]", "method=standard", "norm=l2", "falsify.examples=0")
    run = tmp_path / "linear"
    certtrain("certify", f"run={run}", "certifier=exact_linear", "--config-dir", "conf", "norm=l2")
    certtrain("certify", f"run={run}", "certifier=ibp", "norm=l2", "falsify.examples=0", "certifier.ibp.attack_steps=0")
    test = json.loads((run / "result.json").read_text())["test"]
    assert test["exact_linear"]["certified"] == test["ibp"]["certified"]  # IBP is exact for one layer
    card = json.loads((run / "certificates" / "exact_linear.json").read_text())
    assert card["engine"]["name"] == "own_certifier.ExactLinear"
    audited = " ".join(certtrain("audit", run).split())
    assert "own_certifier.ExactLinear is not a certifier of certtrain; its rows are only added up" in audited
    assert "2 of 2 pass" in audited
