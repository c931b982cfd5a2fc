"""`certtrain predict`: class and certified radius of one input, refused when it is not what the network takes."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import certtrain
from certtrain.cli.main import main
from certtrain.cli.predict import content_index
from certtrain.data import Digits


@pytest.fixture
def image(runs):
    """The first test digit, exactly as the network was trained on it, and its class."""
    data = Digits("unused")
    data.setup()
    np.save("digit.npy", data.test.x[0].numpy())
    pixels = (data.test.x[0, 0] * 255).round().byte().numpy()
    Image.fromarray(pixels, mode="L").save("digit.png")
    Image.fromarray(pixels, mode="L").convert("RGB").save("colour.png")
    return int(data.test.y[0])


@pytest.mark.parametrize("file", ["digit.npy", "digit.png", "colour.png"])
def test_a_bound_certificate(image, capsys, file):
    assert main(["predict", "run=bounds", f"input={file}", "radii=[0.001,0.05]", "certifier.crown.attack_steps=2"]) == 0
    shown = capsys.readouterr().out
    assert re.search(rf"crown: class {image}, certified l-inf radius 0\.(001|05)", shown)
    assert "deterministic" in shown


def test_a_smoothed_certificate(image, capsys):
    assert main(["predict", "run=noise", "input=digit.npy", "n=2000"]) == 0
    shown = capsys.readouterr().out
    found = re.search(rf"smoothing: class {image}, certified l2 radius (0\.\d+)", shown)
    assert 0 < float(found[1]) < 0.1 * 3.0  # sigma times the quantile that 2,000 draws at alpha 0.001 can reach
    assert "sigma 0.1, n 2,000, confidence 0.999" in shown


def test_a_radius_that_nothing_proves(image, capsys):
    assert main(["predict", "run=bounds", "input=digit.npy", "certifier=ibp", "radii=[0.9]"]) == 0
    assert "not certified at any of the radii" in capsys.readouterr().out


def test_the_noise_is_that_of_no_split(image, capsys, monkeypatch):
    from certtrain.certifiers import SmoothingCertifier

    splits, certify = [], SmoothingCertifier.certify

    def watched(self, network, batch):
        splits.append(self.split)
        return certify(self, network, batch)

    monkeypatch.setattr(SmoothingCertifier, "certify", watched)
    assert main(["predict", "run=noise", "input=digit.npy", "n=200"]) == 0
    assert splits == ["predict"]


def test_the_noise_depends_on_the_content(image):
    x = torch.from_numpy(np.load("digit.npy"))[None]
    other = x.clone()
    other[0, 0, 0, 0] = torch.nextafter(other[0, 0, 0, 0], torch.tensor(1.0))
    assert content_index(x) == content_index(x.clone()) != content_index(other)
    assert 0 <= content_index(x) < 2**63


def test_load_gives_the_same_network(image, runs):
    network = certtrain.load(runs / "bounds")
    assert not network.training
    data = Digits("unused")
    data.setup()
    assert (network(data.test.x).argmax(1) == data.test.y).float().mean() > 0.5


def promised() -> bytes:
    """A .npy file whose header promises a terabyte."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": (1, 2**37)})
    return stream.getvalue()


@pytest.mark.parametrize(
    ("make", "file", "expected"),
    [
        (lambda: Image.new("L", (9, 8)).save("a.png"), "a.png", "9 x 8 pixels"),
        (lambda: Path("b.png").write_text("no image"), "b.png", "cannot be read as an image"),
        (lambda: np.save("c.npy", np.zeros((8, 8))), "c.npy", "(1, 8, 8)"),
        (lambda: np.save("d.npy", np.full((1, 8, 8), 1.5)), "d.npy", "outside [0, 1]"),
        (lambda: np.save("e.npy", np.full((1, 8, 8), np.nan)), "e.npy", "outside [0, 1]"),
        (lambda: Path("f.npy").write_text("x"), "f.npy", "not a .npy array"),
        (lambda: np.save("g.npy", np.array(["a"])), "g.npy", "not a .npy array"),
        (lambda: np.save("h.npy", np.zeros((1, 8, 8), dtype=complex)), "h.npy", "of complex128"),
        (lambda: np.save("i.npy", np.zeros((1, 8, 8), dtype=np.uint8)), "i.npy", "of uint8"),
        (lambda: np.save("j.npy", np.zeros((1, 8, 8), dtype=object)), "j.npy", "not a .npy array"),
        (lambda: np.savez("k.npz", np.zeros((1, 8, 8))) or Path("k.npz").rename("k.npy"), "k.npy", "not a .npy array"),
        (lambda: Path("l.npy").write_bytes(b""), "l.npy", "not a .npy array"),
        (lambda: Image.new("L", (8, 8)).save("m.png") or Path("m.png").rename("m.npy"), "m.npy", "not a .npy array"),
        (lambda: np.save("n.npy", np.full((1, 8, 8), -1e-9)), "n.npy", "outside [0, 1]"),
        (lambda: np.save("o.npy", np.full((1, 8, 8), 1e300)), "o.npy", "outside [0, 1]"),
        (lambda: np.save("p.npy", np.zeros((0, 8, 8))), "p.npy", "(0, 8, 8)"),
        (lambda: Path("q.npy").write_bytes(promised()), "q.npy", "not a .npy array"),
        (lambda: np.save("r.NPY", np.zeros((1, 8, 8))) or Path("r.NPY.npy").rename("r.NPY"), "r.NPY", None),
        (lambda: Path("s.csv").write_text("a\n1\n"), "s.csv", "does not say how"),
        (lambda: None, "nothing.png", "no file nothing.png"),
        (lambda: Image.new("L", (8, 8)).save("with, comma=1.png"), "with, comma=1.png", None),
    ],
)
def test_inputs(runs, capsys, make, file, expected):
    make()
    status = main(["predict", "run=bounds", f"input={file}", "certifier=ibp", "certifier.ibp.attack_steps=0"])
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    if expected is None:
        assert status == 0
    else:
        assert status == 2
        assert expected in shown
        assert "fix" in shown


def test_which_run(runs, capsys):
    assert main(["predict", "input=x.png"]) == 2
    assert "certtrain predict run=" in capsys.readouterr().err
