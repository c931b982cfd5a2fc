"""The functions for scripts: they train, certify and plot what the commands would."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import certtrain
from certtrain.bounds import NativeEngine
from certtrain.certifiers import AnytimeCertifier, BoundCertifier, SmoothingCertifier
from certtrain.data import Digits
from certtrain.data.batch import Batch
from certtrain.methods import IBP, Gaussian, Ramp
from certtrain.models import mlp


@pytest.fixture(scope="module")
def data():
    found = Digits(val_size=0, batch_size=128, augment=None)
    found.setup()
    return found


def network(data):
    torch.manual_seed(0)
    return mlp(data.input_shape, data.num_classes, data.mean, data.std, hidden=[32])


def test_bounds(data, tmp_path):
    made, steps = network(data), data.steps_per_epoch()
    before = [parameter.clone() for parameter in made.parameters()]
    parts = certtrain.fit(made, IBP("0.02", Ramp(steps, steps)), data, epochs=4, lr=1e-2)
    assert parts["train/loss"] < 2.0
    assert not made.training
    assert any((a != b).any() for a, b in zip(before, made.parameters()))
    certifier = BoundCertifier(["ibp"], ["0.01", "0.02"], NativeEngine, attack_steps=2)
    certificates = certtrain.certify(made, certifier, data.test)
    index = torch.arange(300, 320)
    alone = certifier.certify(made, Batch(data.test.x[index], data.test.y[index], index))
    assert (certificates.select(index.numpy()).radius == alone.radius).all()
    summary = certtrain.summarise(certificates, certifier)
    assert summary["n"] == 360
    assert 0.3 < summary["certified"]["0.02"] <= summary["certified"]["0.01"] <= summary["clean"]
    figure = certtrain.plot({"ibp": (certificates, certifier)}, tmp_path / "curve.png")
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_smoothing_and_a_budget_for_all(data, tmp_path):
    made = network(data)
    certtrain.fit(made, Gaussian(0.2), data, epochs=3, lr=1e-2)
    fixed = SmoothingCertifier(0.2, ["0.1"], n=200, budget="dataset")
    staged = AnytimeCertifier(0.2, ["0.1"], n=1000)
    found = {c.name: (certtrain.certify(made, c, data.test, indices="first_40"), c) for c in (fixed, staged)}
    assert fixed.alpha_each == 0.001 / 40
    assert certtrain.summarise(*found["smoothing"])["acr"] > 0
    assert certtrain.summarise(*found["anytime"])["acr"] is None
    assert certtrain.plot(found, tmp_path / "curve.png").exists()


def test_importing_certtrain_imports_no_torch():
    code = "import sys, certtrain; certtrain.__version__; assert 'torch' not in sys.modules; certtrain.nothing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "has no attribute 'nothing'" in done.stderr


def test_the_readmes_lines_are_the_examples():
    root = Path(__file__).resolve().parents[1]
    example, readme = (root / "examples" / "python_api.py").read_text(), (root / "README.md").read_text()
    block = readme.split("in ten lines, without Hydra:")[1].split("```python\n")[1].split("```")[0]
    for line in block.splitlines():
        assert line in example or f"print({line})" in example, line
