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
from certtrain.errors import UserError
from certtrain.methods import IBP, Gaussian, Ramp, Weight
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


def test_a_script_trains_as_the_command_does(data, tmp_path):
    """But for the last bits, of torch's fused optimiser."""
    from certtrain.cli.main import main

    arguments = ["train", "data=digits", "data.augment=null", "data.batch_size=128", "val_size=0", "model=mlp"]
    arguments += ["model.hidden=[32]", "method=ibp", "eps=0.02", "radii=[0.02]", "epochs=2", "schedule.warmup=0.5"]
    arguments += ["schedule.ramp=1", "schedule.lr.kind=constant", "optimizer.lr=0.01", "method.init=ibp", "trainer=cpu"]
    assert main([*arguments, "name=run", f"runs_dir={tmp_path}"]) == 0
    steps, made = data.steps_per_epoch(), network(data)
    options = {"kappa": Weight(1.0, 0.25, "step"), "regulariser": "auto", "init": "ibp"}
    torch.manual_seed(0)
    certtrain.fit(made, IBP("0.02", Ramp(steps // 2, steps), **options), data, epochs=2, lr=0.01)
    expected = certtrain.load(tmp_path / "run")
    for one, other in zip(made.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_smoothing_and_a_budget_for_all(data, tmp_path):
    made = network(data)
    certtrain.fit(made, Gaussian(0.2), data, epochs=3, lr=1e-2)
    fixed = SmoothingCertifier(0.2, ["0.1"], n=200, budget="dataset")
    staged = AnytimeCertifier(0.2, ["0.1"], n=1000)
    found = {c.name: (certtrain.certify(made, c, data.test, indices="first_40"), c) for c in (fixed, staged)}
    assert fixed.alpha_each == 0.001 / 40
    assert certtrain.summarise(*found["smoothing"])["acr"] > 0
    assert "acr" not in certtrain.summarise(*found["anytime"])
    assert certtrain.plot(found, tmp_path / "curve.png").exists()


def test_certifying_leaves_the_network_as_it_was(data):
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 10))
    layout = [parameter.stride() for parameter in network.parameters()]
    certtrain.certify(network, SmoothingCertifier(0.25, ["0.1"], n0=2, n=10), data.test, indices="first_3")
    assert [parameter.stride() for parameter in network.parameters()] == layout
    network[0].weight.view(-1)  # which a layout of channels last refuses


def test_importing_certtrain_imports_no_torch():
    code = "import sys, certtrain; certtrain.__version__; assert 'torch' not in sys.modules; certtrain.nothing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "has no attribute 'nothing'" in done.stderr


def test_the_pages_lines_are_the_examples():
    root = Path(__file__).resolve().parents[1]
    example, page = (root / "examples" / "python_api.py").read_text(), (root / "docs" / "lightning.md").read_text()
    block = page.split("in ten lines, without Hydra:")[1].split("```python\n")[1].split("```")[0]
    for line in block.splitlines():
        assert line in example or f"print({line})" in example, line


def test_a_loader_a_dataset_and_tensors_will_do(data):
    from torch.utils.data import DataLoader, TensorDataset

    x, y = data.train.x[:256], data.train.y[:256]
    forms = ((x, y), TensorDataset(x, y), DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True))
    for form in forms:
        made = network(data)
        parts = certtrain.fit(made, Gaussian(0.1), form, epochs=4, lr=1e-2)
        assert parts["train/loss"] < 2.2
    certifier = BoundCertifier(["ibp"], ["0.01"], NativeEngine, attack_steps=0)
    found = certtrain.certify(made, certifier, (data.test.x, data.test.y), indices="first_20")
    same = certtrain.certify(made, certifier, data.test, indices="first_20")
    assert (found.radius == same.radius).all()
    with pytest.raises(UserError, match="a label 9, and the network has 3 logits"):
        certtrain.fit(mlp(data.input_shape, 3, [0.0], [1.0], hidden=[4]), Gaussian(0.1), (x, y), epochs=1)
    with pytest.raises(TypeError, match="own"):
        certtrain.fit(made, Gaussian(0.1), data, epochs=1, batch_size=3)


def test_batch_norm_and_a_last_batch_of_one_are_refused_at_once():
    torch.manual_seed(0)
    made = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2))
    before = {name: value.clone() for name, value in made.state_dict().items()}
    pair = torch.rand(9, 2), torch.arange(9) % 2
    with pytest.raises(UserError, match="a single example") as caught:
        certtrain.fit(made, Gaussian(0.1), pair, epochs=1, batch_size=4)
    assert "another data.batch_size" in caught.value.fix
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
    certtrain.fit(made, Gaussian(0.1), pair, epochs=1, batch_size=5)
    images = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2), torch.nn.Flatten())
    certtrain.fit(images, Gaussian(0.1), (torch.rand(9, 1, 1, 2), pair[1]), epochs=1, batch_size=4)  # two values each
