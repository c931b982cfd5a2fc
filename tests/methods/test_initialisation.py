"""Shi's IBP initialisation: measured deviations, and which layers it touches."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from certtrain.bounds import NativeEngine
from certtrain.errors import UserError
from certtrain.methods.initialisation import ibp_init
from certtrain.models.normalize import Normalize
from certtrain.threat import threat_of


class Residual(nn.Module):
    """stem -> (left + right) -> after -> relu(a + b) -> last; a bias is added too, which is no branch."""

    def __init__(self) -> None:
        super().__init__()
        # Defined out of the order of execution: `head` runs last.
        self.head = nn.Linear(300, 3)
        self.stem, self.left, self.right = nn.Linear(300, 300), nn.Linear(300, 300), nn.Linear(300, 300)
        self.after, self.shifted, self.rectified = nn.Linear(300, 300), nn.Linear(300, 300), nn.Linear(300, 300)
        self.unused = nn.Linear(3, 3)
        self.shift = nn.Parameter(torch.ones(300))

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = self.after(self.left(x) + self.right(x))
        x = self.shifted(F.relu(x) + self.shift)
        x = self.rectified(F.relu(x + torch.add(x, x)))
        out = self.head(F.relu(x))
        self.unused(out)
        return out


@pytest.mark.parametrize(
    ("layer", "deviation"),
    [(nn.Conv2d(64, 64, 3), 4.35e-3), (nn.Linear(32768, 16), 7.65e-5), (nn.Conv2d(8, 512, 3, groups=2), 0.06963)],
)
def test_measured_deviation_is_the_published_one(layer, deviation):
    torch.manual_seed(0)
    network = nn.Sequential(layer, nn.Flatten(1, -1), nn.Linear(4, 2))
    bias, last = layer.bias.clone(), network[2].weight.clone()
    ibp_init(network)
    assert layer.weight.std().item() == pytest.approx(deviation, rel=0.02)
    assert layer.weight.mean().abs().item() < 4 * deviation / math.sqrt(layer.weight.numel())
    assert torch.equal(layer.bias, bias)
    assert torch.equal(network[2].weight, last)


def test_the_layer_that_a_sum_of_branches_feeds_gets_half():
    torch.manual_seed(0)
    network = Residual()
    before = copy.deepcopy(network)
    ibp_init(network)
    sigma = math.sqrt(2 * math.pi) / 300
    for name in ("stem", "left", "right", "shifted", "rectified"):
        assert getattr(network, name).weight.std().item() == pytest.approx(sigma, rel=0.02), name
    assert network.after.weight.std().item() == pytest.approx(sigma / 2, rel=0.02)
    assert torch.equal(network.head.weight, before.head.weight)
    assert torch.equal(network.unused.weight, before.unused.weight)
    assert torch.equal(network.shift, before.shift)


def test_a_last_layer_after_a_sum_is_halved_but_not_drawn():
    class Short(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.last(torch.add(self.a(x), self.b(x)))

    network = Short()
    before = network.last.weight.clone()
    ibp_init(network)
    assert torch.equal(network.last.weight, before / 2)


def test_batch_norm_and_normalisation_are_left_alone_and_a_reused_layer_is_drawn_once():
    shared = nn.Linear(64, 64)
    network = nn.Sequential(
        Normalize([0.5], [0.2], (64,)), shared, nn.BatchNorm1d(64), nn.ReLU(), shared, nn.ReLU(), nn.Linear(64, 2)
    )
    torch.manual_seed(5)
    ibp_init(network)
    assert shared.weight.std().item() == pytest.approx(math.sqrt(2 * math.pi) / 64, rel=0.05)
    assert (network[2].weight == 1).all()
    drawn = shared.weight.clone()
    torch.manual_seed(5)
    ibp_init(network)
    assert torch.equal(shared.weight, drawn)


def test_boxes_keep_their_size_through_the_layers():
    torch.manual_seed(0)
    layers = [module for _ in range(8) for module in (nn.Linear(400, 400), nn.ReLU())]
    network = nn.Sequential(*layers, nn.Linear(400, 2))
    x, threat = torch.full((4, 400), 0.5), threat_of(eps=0.1)

    def growth():
        boxes = NativeEngine(network).bounds(x, torch.zeros(4, dtype=torch.int64), threat, ("ibp",)).pre_activations
        radii = [((box.upper - box.lower) / 2).mean().item() for box in boxes]
        return radii[-1] / radii[0]

    assert growth() > 100
    ibp_init(network)
    assert 0.7 < growth() < 1.4


@pytest.mark.parametrize("wrap", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_a_parametrised_weight_is_refused_by_name(wrap):
    network = nn.Sequential(nn.Linear(4, 4), wrap(nn.Linear(4, 4)), nn.Linear(4, 2))
    with pytest.raises(UserError, match="weight of 1 is parametrised"):
        ibp_init(network)


def test_an_untraceable_network_is_refused():
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(UserError, match="Branching cannot be traced"):
        ibp_init(Branching())
