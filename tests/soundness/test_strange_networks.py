"""Networks that are not one function of each input: every certifier refuses them, and refuses no other.

What makes a network strange is put at a random place of a random network, at magnitudes down to 1e-7.
"""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from certtrain.bounds import NativeEngine
from certtrain.bounds.base import Bounds
from certtrain.certifiers import BoundCertifier, SmoothingCertifier
from certtrain.certifiers.anytime import AnytimeCertifier
from certtrain.certifiers.cascade import CascadeCertifier
from certtrain.data.batch import Batch
from certtrain.errors import UserError
from certtrain.models.invariance import check_function

WIDTH = 6


class Layer(nn.Module):
    """Adds `size` times a function of the batch."""

    def __init__(self, function, size=1.0):
        super().__init__()
        self.function, self.size = function, size

    def forward(self, x):
        return x + self.size * self.function(x)


class Remembers(Layer):
    """Its buffer is a mean of all that it saw."""

    def __init__(self, size):
        super().__init__(lambda x: self.seen, size)
        self.register_buffer("seen", torch.zeros(WIDTH))

    def forward(self, x):
        self.seen.lerp_(x.mean(0), 0.1)
        return super().forward(x)


class Counts(Layer):
    """Counts its calls in an attribute, which no state_dict shows."""

    def __init__(self, size):
        super().__init__(lambda x: self.calls, size)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


class BackToTraining(nn.Module):
    """Puts a part of itself into training mode, by its forward or by what eval() calls."""

    def __init__(self, layer, *, when):
        super().__init__()
        self.layer, self.when = layer.train(), when

    def forward(self, x):
        if self.when == "forward":
            self.layer.train()
        return self.layer(x)

    def train(self, mode=True):
        return super().train(mode or self.when == "eval")


def fixed_generator(x):
    """The same numbers at every call, which depend on the place in the batch."""
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)


STRANGE = {
    "mean over the batch": lambda size: Layer(lambda x: x.mean(0), size),
    "batch-centred": lambda size: Layer(lambda x: -x.mean(0, keepdim=True), 1.0),
    "largest of the batch": lambda size: Layer(lambda x: x.amax(0), size),
    "product over the batch": lambda size: Layer(lambda x: (x @ x.T).softmax(1) @ x, size),
    "neighbour": lambda size: Layer(lambda x: x.roll(1, 0), size),
    "sorted": lambda size: Layer(lambda x: x.sort(0).values, size),
    "place": lambda size: Layer(lambda x: torch.arange(len(x)).to(x)[:, None], size),
    "size of the batch": lambda size: Layer(lambda x: float(len(x)), size),
    "in large batches": lambda size: Layer(lambda x: float(len(x) > EXAMPLES_SEEN), size),
    "noise": lambda size: Layer(torch.randn_like, size),
    "uniform noise": lambda size: Layer(lambda x: torch.rand(x.shape), size),
    "functional dropout": lambda size: Layer(lambda x: F.dropout(x, 0.5), size),
    "noise of Python": lambda size: Layer(lambda x: random.random(), size),
    "noise of numpy": lambda size: Layer(lambda x: float(np.random.rand()), size),
    "fixed generator": lambda size: Layer(fixed_generator, size),
    "buffer": Remembers,
    "counter": Counts,
    "no running statistics": lambda size: nn.BatchNorm1d(WIDTH, track_running_stats=False),
    "back to training": lambda size: BackToTraining(nn.BatchNorm1d(WIDTH), when="forward"),
    "dropout that stays": lambda size: BackToTraining(nn.Dropout(0.1), when="eval"),
}
EXAMPLES_SEEN = 12

PLAIN = {
    "dropout": lambda: nn.Dropout(0.5),
    "batch norm": lambda: nn.BatchNorm1d(WIDTH),
    "layer norm": lambda: nn.LayerNorm(WIDTH),
    "group norm": lambda: nn.GroupNorm(2, WIDTH),
    "sorted features": lambda: Layer(lambda x: x.sort(1).values),
    "steep": lambda: Layer(lambda x: torch.tanh(1e3 * x)),
    "large numbers": lambda: Layer(lambda x: 1e20 * x),
    "no numbers": lambda: Layer(lambda x: (x - 0.5).sqrt()),
    "float32 inside": lambda: Layer(lambda x: (x.float() @ torch.ones(WIDTH, WIDTH)).to(x.dtype)),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH)),
}


def around(layer, seed):
    """A random network with the layer at a random place; in training mode, as after training."""
    torch.manual_seed(seed)
    body = [nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU()]
    body.insert(seed % 5, layer)
    return nn.Sequential(*body, nn.Linear(WIDTH, 3)).train()


def certifiers():
    return [
        BoundCertifier(("ibp",), [0.01], NativeEngine, attack_steps=0),
        CascadeCertifier(("ibp",), [0.01], NativeEngine, attack_steps=0),
        SmoothingCertifier(0.1, [0.01], n0=10, n=20),
        AnytimeCertifier(0.1, [0.01], n0=10, n=100),
    ]


def batch(n=20):
    x = torch.rand(n, WIDTH, generator=torch.Generator().manual_seed(7))
    return Batch(x, torch.zeros(n, dtype=torch.int64), torch.arange(n))


@pytest.mark.parametrize("kind", STRANGE)
def test_strange_networks_are_refused(kind):
    for seed in range(8):
        network = around(STRANGE[kind](10.0 ** -(seed % 8)), seed)
        modes, random_state = [m.training for m in network.modules()], torch.get_rng_state()
        before = {name: value.clone() for name, value in network.state_dict().items()}
        with pytest.raises(UserError) as caught:
            check_function(network, batch().x)
        assert "model" in caught.value.where
        assert [m.training for m in network.modules()] == modes
        assert torch.equal(torch.get_rng_state(), random_state)
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("kind", STRANGE)
def test_every_certifier_refuses_them(kind):
    for seed, certifier in enumerate(certifiers()):
        with pytest.raises(UserError):
            certifier.certify(around(STRANGE[kind](0.1), seed), batch())


@pytest.mark.parametrize("kind", PLAIN)
def test_others_are_not_refused(kind):
    for seed in range(5):
        network = around(PLAIN[kind](), seed)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        assert check_function(network, batch().x) == 3
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def sometimes(trigger, size=0.5):
    """A mean over the batch that only shows at inputs whose first feature is above the trigger."""
    return Layer(lambda x: torch.where(x[:, :1] > trigger, x.mean(0), 0), size)


def test_what_shows_for_one_example_only_is_found_where_that_one_is_certified():
    one = batch(50)
    one.x[:, 0] *= 0.9
    one.x[23, 0] = 0.99
    network = nn.Sequential(sometimes(0.95), nn.Linear(WIDTH, 3))
    check_function(network, one.x)  # which does not look at that one
    for kind in (BoundCertifier, CascadeCertifier):
        with pytest.raises(UserError, match="in other batches"):
            kind(("ibp",), [0.01], Anything, attack_steps=0).certify(network, one)


class Anything(NativeEngine):
    """Bounds whatever it is given, so that nothing but the check stands between."""

    def __init__(self, network):
        self.network = network

    def bounds(self, x, y, threat, methods):
        clean = self.network(x)
        return Bounds(clean, {method: clean.new_ones(len(x), 2) for method in methods}, ())


@pytest.mark.parametrize("kind", [SmoothingCertifier, AnytimeCertifier])
def test_what_shows_under_noise_only_is_found_by_smoothing(kind):
    network = nn.Sequential(sometimes(1.3), nn.Linear(WIDTH, 3))
    check_function(network, batch().x)
    with pytest.raises(UserError, match="rest of the batch"):
        kind(0.5, [0.1], n0=100, n=200).certify(network, batch())


def test_what_shows_after_many_calls_is_found_by_smoothing():
    class Late(nn.Linear):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x) * (-1 if self.calls > 20 else 1)

    check_function(Late(WIDTH, 3), batch().x)
    with pytest.raises(UserError, match="at a later call"):
        SmoothingCertifier(0.5, [0.1], n0=10, n=200, batch_size=64).certify(Late(WIDTH, 3), batch())
