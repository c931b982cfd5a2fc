"""A network small enough to bound on paper, and an engine that answers with those formulas."""

import math
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from certtrain.bounds import Bounds, FusedLoss, PreActivation
from certtrain.data.batch import Batch


@dataclass
class PaperEngine:
    """Bounds of `paper_network` at x = 1/2 for eps <= 1/2, worked out on paper.

    The hidden inputs are x - 1/2 in [-e, e] and x in [1/2 - e, 1/2 + e]; the margin of class 0 is
    m = 2 relu(x) - relu(x - 1/2). IBP: 2 (1/2 - e) - e = 1 - 3e. CROWN-IBP: relu(x) = x is exact and relu(x - 1/2) lies
    below its chord (x - 1/2 + e)/2, so m >= 3x/2 + 1/4 - e/2, at x = 1/2 - e: 1 - 2e.
    """

    network: nn.Module
    calls: list = field(default_factory=list)
    name = "paper"
    version = "1"
    methods = ("ibp", "crown_ibp")

    def bounds(self, x, y, threat, methods=("ibp", "crown_ibp"), closest=None):
        e = float(threat.eps)
        self.calls.append((e, methods))
        assert (x == 0.5).all()
        assert (y == 0).all()
        column = torch.ones(len(x), 1)
        margins = {"ibp": column * (1 - 3 * e), "crown_ibp": column * (1 - 2 * e)}
        lower, upper = column * torch.tensor([[-e, 0.5 - e]]), column * torch.tensor([[e, 0.5 + e]])
        return Bounds(self.network(x), {m: margins[m] for m in methods}, (PreActivation("1", lower, upper),))

    def fused_loss(self, x, y, threat, method="crown_ibp"):
        e = float(threat.eps)
        ibp = self.bounds(x, y, threat, ("ibp",))
        self.calls[-1] = (e, ("fused", method))
        top, bottom = math.exp(-(1 - 3 * e)), math.exp(-(1 + 2 * e))
        loss = torch.full((len(x),), math.log(1 + bottom + 0.8 * (top - bottom)))
        return FusedLoss(ibp.clean, ibp.margins, ibp.pre_activations, loss)


class RefusingEngine:
    """Fails when it is asked for anything."""

    name, version, methods = "refusing", "1", ("ibp", "crown_ibp")

    def bounds(self, x, y, threat, methods=()):
        raise AssertionError("no bound was needed")

    fused_loss = bounds


@pytest.fixture
def paper_network():
    """z = (2 relu(x) - relu(x - 1/2), 0): at x = 1/2 the logits are (1, 0)."""
    network = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0], [1.0]]))
        network[0].bias.copy_(torch.tensor([-0.5, 0.0]))
        network[2].weight.copy_(torch.tensor([[-1.0, 2.0], [0.0, 0.0]]))
        network[2].bias.zero_()
    return network


@pytest.fixture
def paper_engine(paper_network):
    return PaperEngine(paper_network)


@pytest.fixture
def refusing_engine():
    return RefusingEngine()


@pytest.fixture
def paper_batch():
    return Batch(torch.full((3, 1), 0.5), torch.zeros(3, dtype=torch.int64), torch.arange(3))
