"""Windowed coefficients against the dense backward pass, which they must equal."""

import copy

import pytest
import torch
from torch import nn

from certtrain.bounds import NativeEngine, crown
from certtrain.bounds.forward import propagate
from certtrain.bounds.graph import Graph
from certtrain.bounds.interval import InputSet
from certtrain.bounds.patches import Plan, plan
from certtrain.models import Normalize
from certtrain.threat import threat_of


class Skip(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return torch.relu(self.conv(x) + x)


def net(seed=0, activation=nn.ReLU):
    """Strides that lose the end, dilation, groups, 'same' with an even kernel, BatchNorm, constants, a sum."""
    torch.manual_seed(seed)
    layers = [
        nn.Conv2d(2, 4, 3, stride=2, padding=(1, 0)),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, (2, 3), dilation=(2, 1), padding=1, groups=2),
        nn.ReLU(),
        nn.Conv2d(4, 4, 2, padding="same", bias=False),
        nn.ReLU(),
        Skip(),
        nn.Conv2d(4, 3, 2),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(3, 3, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(4),
    ]
    layers = [activation() if isinstance(layer, nn.ReLU) else layer for layer in layers]
    network = nn.Sequential(Normalize([0.3, 0.6], [0.2, 0.4]), *layers)
    network(torch.rand(4, 2, 13, 12))
    return network.double().eval()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.GELU, nn.Sigmoid])
def test_windows_equal_the_dense_pass(norm, training, activation, monkeypatch):
    network = net(activation=activation).train(training)
    x, y = torch.rand(3, 2, 13, 12, dtype=torch.float64), torch.tensor([0, 1, 3])
    threat = threat_of(norm, torch.tensor([0.05, 0.1, 0.02], dtype=torch.float64))
    monkeypatch.setattr(crown, "CHUNK_ELEMENTS", 20_000)
    peer = copy.deepcopy(network)
    found = NativeEngine(network).bounds(x, y, threat, ("crown",)).margins["crown"]
    found.sum().backward()
    monkeypatch.setattr(crown, "plan", lambda run, step: Plan([], step, 1))
    expected = NativeEngine(peer).bounds(x, y, threat, ("crown",)).margins["crown"]
    expected.sum().backward()
    torch.testing.assert_close(found, expected)
    for mine, theirs in zip(network.parameters(), peer.parameters()):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_windows_reach_the_input_or_stop_where_they_must():
    network = net()
    run = propagate(Graph(network), InputSet.of(torch.rand(1, 2, 13, 12).double(), threat_of("linf", 0.1)))
    named = {step.name: index for index, step in enumerate(run.steps)}
    assert plan(run, named["4"]).end == 0  # through two convolutions, BatchNorm and normalisation
    assert plan(run, named["8.add"]).steps == []
    assert plan(run, named["9"]).end == named["8.add"]
    assert plan(run, named["14"]).steps == []
