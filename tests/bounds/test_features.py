"""Where a network's features are."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from certtrain.bounds import NativeEngine
from certtrain.bounds.auto_lirpa import AutoLirpaEngine
from certtrain.bounds.features import feature_network
from certtrain.bounds.union import United
from certtrain.errors import UserError
from certtrain.models import InputContract, lenet, resnet_small
from certtrain.models.two_logits import TwoLogits
from certtrain.threat import Linf


class Branches(nn.Module):
    """Its last layer is behind a sum of two branches, and a call of a function."""

    def __init__(self):
        super().__init__()
        self.one, self.other, self.head = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(F.relu(self.one(x) + self.other(x)))


class Heads(nn.Module):
    """The sum of two last layers: neither has every path through it."""

    def __init__(self):
        super().__init__()
        self.body, self.one, self.other = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x):
        h = torch.relu(self.body(x))
        return self.one(h) + self.other(h)


PLAIN = nn.Sequential(nn.Flatten(), nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))


@pytest.mark.parametrize(
    ("network", "name", "size"),
    [
        (PLAIN, "2", 5),
        (nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1), TwoLogits()), "1", 5),
        (Branches(), "relu", 4),
    ],
)
def test_where_they_are(network, name, size):
    x, y, threat = torch.rand(6, 3), torch.zeros(6, dtype=torch.int64), Linf(0.1)
    engine = NativeEngine(network)
    assert engine.features() == (name, size)
    part, where = feature_network(network)
    assert where == engine.features()
    node = engine.bounds(x, y, threat, ("ibp",), at=(name,)).at[name]
    assert torch.allclose(part(x), node.clean, atol=1e-6)
    assert torch.allclose(node.logits(node.clean), network(x), atol=1e-6)
    inside = part((x + 0.1 * (2 * torch.rand_like(x) - 1)).clamp(0, 1))
    assert bool((node.lower <= inside + 1e-6).all() and (inside <= node.upper + 1e-6).all())


@pytest.mark.parametrize("make", [lenet, resnet_small])
def test_the_part_of_a_convolutional_network_is_made_of_its_own_layers(make):
    contract = InputContract((1, 28, 28), 10, (0.1,), (0.3,))
    given = {"input_shape": contract.shape, "num_classes": 10, "mean": [0.1], "std": [0.3]}
    network = make(**given).eval()
    taken = []
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    last.register_forward_pre_hook(lambda module, args: taken.append(args[0]))
    x = torch.rand(2, 1, 28, 28)
    network(x)
    last._forward_pre_hooks.clear()
    part, where = feature_network(network)
    assert torch.equal(part.eval()(x), taken[0])
    assert where.size == last.in_features
    assert {id(p) for p in part.parameters()} <= {id(p) for p in network.parameters()}


@pytest.mark.parametrize("network", [nn.Sequential(nn.Linear(3, 2)), Heads()])
def test_a_network_without_them(network):
    for ask in (NativeEngine(network).features, lambda: feature_network(network)):
        with pytest.raises(UserError, match="no linear layer behind others"):
            ask()


def test_engines_without_bounds_inside_say_so():
    for engine in (AutoLirpaEngine(PLAIN), United(NativeEngine(PLAIN))):
        with pytest.raises(UserError, match="has no bounds inside the network"):
            engine.features()
