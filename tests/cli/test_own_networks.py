"""Any nn.Module class by name, with its own arguments: certified from a file, and trained."""

import json

import pytest
import torch
from torch import nn

import certtrain
from certtrain.cli import main as cli
from certtrain.models.assemble import Normalized

CODE = '''
import torch
from torch import nn


class Net(nn.Module):
    """None of our arguments; takes normalised inputs."""

    def __init__(self, width, classes=10):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU())
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        return self.head(self.layers(x))


class NormalizeLayer(nn.Module):
    """As of Cohen et al.: numbers that are no buffers."""

    def __init__(self, means, sds):
        super().__init__()
        self.means, self.sds = torch.tensor(means), torch.tensor(sds)

    def forward(self, x):
        return (x - self.means) / self.sds


def whole(width, means=(0.25,)):
    return nn.Sequential(NormalizeLayer(means, [0.5]), Net(width))


def noise(width):
    return "no network"
'''
CERTIFY = ["data=digits", "certifier=ibp", "certifier.ibp.attack_steps=2", "radii=[0.01]", "indices=first_20"]
OWN = ["model._target_=my_net.Net", "model.width=8"]


@pytest.fixture
def my_net(in_tmp, monkeypatch):
    (in_tmp / "my_net.py").write_text(CODE)
    monkeypatch.syspath_prepend(in_tmp)
    import my_net

    torch.manual_seed(0)
    yield my_net
    import sys

    del sys.modules["my_net"]


def certify(*arguments):
    return cli.main(["certify", *arguments, *CERTIFY])


def card(name):
    [path] = (p for p in (certtrain_runs() / name / "certificates").glob("*.json") if "counter" not in p.name)
    return json.loads(path.read_text())


def loaded(run):
    return certtrain.load(run, trust=["my_net"])


def certtrain_runs():
    from pathlib import Path

    return Path("runs")


def test_a_class_without_our_arguments_at_mean_0_and_std_1(my_net):
    theirs = my_net.Net(8)
    torch.save({"net": theirs.state_dict(), "epoch": 3}, "theirs.pth")
    assert certify("checkpoint=theirs.pth", *OWN) == 0
    assert card("theirs")["normalisation"] == "left to my_net.Net"
    assert card("theirs")["training"]["normalisation"].startswith("assumed from data=digits: mean [0.0], std [1.0]")
    result = json.loads((certtrain_runs() / "theirs" / "result.json").read_text())
    assert result["model"] == "my_net.Net"
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(loaded("theirs")(x), theirs(x))


def test_a_normalisation_is_added_in_front_and_told(my_net, capsys):
    theirs = my_net.Net(8)
    torch.save(theirs.state_dict(), "theirs.pth")
    assert certify("checkpoint=theirs.pth", *OWN, "data.mean=[0.25]", "data.std=[0.5]") == 0
    network = loaded("theirs")
    assert isinstance(network, Normalized)
    x = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(network(x), theirs((x - 0.25) / 0.5))
    said = "mean [0.25], std [0.5]; added in front of my_net.Net, which has none"
    assert said in card("theirs")["warnings"][0]
    assert said in " ".join(capsys.readouterr().out.split())


def test_a_normalising_layer_of_another_program_is_left_alone(my_net, capsys):
    theirs = my_net.whole(8)
    torch.save(theirs.state_dict(), "theirs.pth")
    whole = ["model._target_=my_net.whole", "model.width=8"]
    assert certify("checkpoint=theirs.pth", *whole, "data.mean=[0.25]", "data.std=[0.5]", "name=same") == 0
    assert certify("checkpoint=theirs.pth", *whole, "name=unstated") == 0
    for name in ("same", "unstated"):
        assert card(name)["normalisation"] == "by my_net.whole's own NormalizeLayer: mean [0.25], std [0.5]"
        x = torch.rand(3, 1, 8, 8)
        assert torch.equal(loaded(name)(x), theirs(x))
    capsys.readouterr()
    assert certify("checkpoint=theirs.pth", *whole, "data.mean=[0.3]", "name=other") == 2
    assert "data.mean=[0.25] data.std=[0.5]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model._target_=my_net.Net", "model.widht=8"], ["widht", "did you mean width?"]),
        (["model._target_=my_net.Nett", "model.width=8"], ["my_net.Nett"]),
        (["model._target_=my_net.noise", "model.width=8"], ["is a str, not a torch.nn.Module"]),
        (["model._target_=my_net.Net", "model.width=9"], ["does not fit the model", "of another shape"]),
    ],
)
def test_mistakes(my_net, capsys, arguments, words):
    torch.save(my_net.Net(8).state_dict(), "theirs.pth")
    assert certify("checkpoint=theirs.pth", *arguments) == 2
    shown = capsys.readouterr().err
    assert [word for word in words if word not in shown] == []
    assert "Traceback" not in shown


def test_a_sequential_fits_a_network_of_ours(my_net):
    layers = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    torch.save({"state_dict": [layers.state_dict()]}, "theirs.pth")
    assert certify("checkpoint=theirs.pth", "model=mlp", "model.hidden=[8]") == 0
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(certtrain.load("theirs")(x), layers(x.flatten(1)))


def test_it_trains_and_resumes(my_net, tiny):
    rest = [word for word in tiny if not word.startswith(("model", "epochs"))]
    train = ["train", *OWN, *rest, "method=standard", "data.mean=[0.25]", "val_size=0"]
    assert cli.main([*train, "epochs=1"]) == 0
    [run] = certtrain_runs().iterdir()
    assert run.name.startswith("digits_my_net.Net_standard-seed0-")
    assert "_target_" not in run.name
    assert isinstance(loaded(run), Normalized)
    assert cli.main(["train", f"resume={run.name}", "epochs=2", "trust=my_net"]) == 0
    assert json.loads((run / "result.json").read_text())["epochs"] == 2
