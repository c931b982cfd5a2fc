"""Binary classifiers of one logit: the margin of the logit against 0, from training to export."""

import json
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn

import certtrain
from certtrain.attacks import ATTACKS
from certtrain.bounds import NativeEngine
from certtrain.bounds.auto_lirpa import AutoLirpaEngine
from certtrain.certifiers import BoundCertifier, SmoothingCertifier
from certtrain.certifiers.cascade import CascadeCertifier
from certtrain.cli import main as cli
from certtrain.data import BreastCancer
from certtrain.data.batch import Batch
from certtrain.errors import UserError
from certtrain.methods import Standard
from certtrain.models import InputContract, TwoLogits
from certtrain.models.two_logits import READ_AS, reads_one_logit
from certtrain.threat import threat_of


def one_logit(outputs=1, inputs=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, outputs))


def test_the_margin_is_that_of_the_logit_and_the_loss_that_of_its_sigmoid():
    net, x = one_logit(), torch.rand(9, 4)
    z = net(x)
    logits = nn.Sequential(net, TwoLogits())(x)
    assert torch.equal(logits, torch.cat([torch.zeros_like(z), z], 1))
    assert torch.equal(logits.argmax(1), (z[:, 0] > 0).long())
    y = torch.arange(9) % 2
    torch.testing.assert_close(F.cross_entropy(logits, y), F.binary_cross_entropy_with_logits(z[:, 0], y.float()))


@pytest.mark.parametrize("engine", [NativeEngine, AutoLirpaEngine])
@pytest.mark.parametrize("method", ["ibp", "crown_ibp", "crown"])
def test_its_bounds_are_those_of_two_logits_written_out(engine, method):
    """A last layer of (w, b) and one of ((0, w), (0, b)) are the same classifier."""
    net = one_logit()
    written = one_logit(2)
    written[0].load_state_dict(net[0].state_dict())
    with torch.no_grad():
        written[2].weight.copy_(torch.cat([torch.zeros(1, 8), net[2].weight]))
        written[2].bias.copy_(torch.cat([torch.zeros(1), net[2].bias]))
    x, y = torch.rand(9, 4), torch.arange(9) % 2
    adapted = nn.Sequential(net, TwoLogits())
    found, expected = (
        engine(one).bounds(x, y, threat_of("linf", 0.1), (method,)).margins[method] for one in (adapted, written)
    )
    torch.testing.assert_close(found, expected)


def test_the_contract_says_how_many_logits_there_are():
    two, three = (InputContract((4,), classes, (0.0,), (1.0,)) for classes in (2, 3))
    assert reads_one_logit(two.classifier(one_logit()))
    assert not reads_one_logit(two.classifier(one_logit(2)))
    for contract, outputs in ((three, 1), (three, 2), (two, 3), (three, 4)):
        with pytest.raises(UserError, match=f"{outputs} logits? for {contract.num_classes} classes"):
            contract.classifier(one_logit(outputs))
    assert list(two.classifier(one_logit()).state_dict()) == [f"0.{name}" for name in one_logit().state_dict()]


@pytest.mark.parametrize(
    "certifier",
    [
        BoundCertifier(("ibp",), [0.1], NativeEngine),
        CascadeCertifier(("ibp",), [0.1], NativeEngine),
        SmoothingCertifier(0.1, [0.1]),
    ],
)
def test_certifiers_say_what_to_do_with_one_logit(certifier):
    x, y = torch.rand(6, 4), torch.arange(6) % 2
    with pytest.raises(UserError, match="K = 1") as caught:
        certifier.certify(one_logit(), Batch(x, y, torch.arange(6)))
    assert "TwoLogits()" in caught.value.fix
    assert len(certifier.certify(nn.Sequential(one_logit(), TwoLogits()), Batch(x, y, torch.arange(6)))) == 6


@pytest.mark.parametrize("certifier", [BoundCertifier(("ibp",), [0.1], NativeEngine), SmoothingCertifier(0.1, [0.1])])
def test_labels_beyond_the_logits_are_refused(certifier):
    with pytest.raises(UserError, match="labels between 0 and 5 for a network of 3 logits"):
        certifier.certify(one_logit(3), Batch(torch.rand(6, 4), torch.arange(6), torch.arange(6)))


@pytest.mark.parametrize("engine", [NativeEngine, AutoLirpaEngine])
def test_engines_and_attacks_refuse_one_logit(engine):
    x, y, network = torch.rand(6, 4), torch.zeros(6, dtype=torch.int64), one_logit()  # which its engine does not keep
    for call in ("bounds", "fused_loss"):
        with pytest.raises(UserError, match="K = 1"):
            getattr(engine(network), call)(x, y, threat_of("linf", 0.1))
    for attack in ATTACKS.values():
        with pytest.raises(UserError, match="K = 1"):
            attack(one_logit(), x, y, threat_of("linf", 0.1), steps=1, restarts=1)


def test_from_python_a_network_of_one_logit_is_trained_in_place_and_certified():
    data = BreastCancer(batch_size=64)
    network = one_logit(inputs=30)
    before = network[0].weight.detach().clone()
    parts = certtrain.fit(network, Standard(), data, epochs=6, lr=0.02)
    assert not torch.equal(network[0].weight, before)
    assert parts["train/loss"] < 0.6
    found = certtrain.certify(network, BoundCertifier(("crown",), [0.001], NativeEngine), data.test)
    assert np.mean(found.correct) > 0.85
    assert np.mean(found.radius > 0) > 0.5
    with pytest.raises(UserError, match="3 logits for 2 classes"):
        certtrain.fit(one_logit(3, 30), Standard(), data, epochs=1)


NET = """
from torch import nn
from certtrain.models import Normalize


def binary(input_shape, num_classes, mean, std, outputs=1):
    return nn.Sequential(Normalize(mean, std, input_shape), nn.Linear(30, 8), nn.ReLU(), nn.Linear(8, outputs))
"""


@pytest.fixture
def own_model(in_tmp, monkeypatch):
    """A model of the user's, by a file of configuration of theirs."""
    (in_tmp / "my_binary.py").write_text(NET)
    (in_tmp / "mine" / "model").mkdir(parents=True)
    (in_tmp / "mine" / "model" / "binary.yaml").write_text("_target_: my_binary.binary\noutputs: 1\n")
    monkeypatch.syspath_prepend(in_tmp)
    yield
    sys.modules.pop("my_binary", None)


TRAIN = ["train", "--config-dir", "mine", "data=breast_cancer", "model=binary", "method=ibp", "eps=0.01", "epochs=3"]
TRAIN += ["radii=[0.001,0.01]", "schedule.warmup=1", "schedule.ramp=1", "trainer=cpu", "name=one", "data.batch_size=64"]


def test_from_the_command_line_to_the_card(own_model, in_tmp, capsys):
    assert cli.main([*TRAIN, "optimizer.lr=0.01"]) == 0
    assert (
        cli.main(["certify", "run=one", "trust=my_binary", "certifier=crown", "falsify.examples=3", "falsify.steps=2"])
        == 0
    )
    card = json.loads((in_tmp / "runs" / "one" / "certificates" / "crown.json").read_text())
    assert card["logits"] == READ_AS
    assert card["input_contract"]["num_classes"] == 2
    network = certtrain.load(in_tmp / "runs" / "one", trust=["my_binary"])
    assert network(torch.rand(3, 30)).shape == (3, 2)
    torch.save({k.removeprefix("0."): v for k, v in network.state_dict().items()}, "weights.pt")
    imported = ["certify", "--config-dir", "mine", "checkpoint=weights.pt", "model=binary", "data=breast_cancer"]
    assert cli.main([*imported, "certifier=crown", "radii=[0.001,0.01]", "name=again", "falsify.examples=0"]) == 0
    logs = [(in_tmp / "runs" / name / "certificates" / "crown.tsv").read_text() for name in ("one", "again")]
    columns = [[line.split("\t")[:4] for line in log.splitlines()] for log in logs]
    assert columns[0] == columns[1]
    assert yaml.safe_load((in_tmp / "runs" / "again" / "config.yaml").read_text())["model"]["outputs"] == 1


def test_another_number_of_logits_is_refused_before_anything_is_trained(own_model, in_tmp, capsys):
    assert cli.main([*TRAIN, "model.outputs=5"]) == 2
    assert "5 logits for 2 classes" in capsys.readouterr().err
