"""A batch bounded again and again: the same certificates, less work, whatever the order of radii."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from certtrain.bounds import NativeEngine, crown
from certtrain.certifiers import BoundCertifier, CascadeCertifier
from certtrain.certifiers.reuse import Reuse, takes_intermediates
from certtrain.data import Batch
from certtrain.threat import threat_of

RADII = ["0.02", "0.025", "0.03", "0.035", "0.04"]


class Plain:
    """The native engine without what it can do besides."""

    name, version, methods = NativeEngine.name, NativeEngine.version, NativeEngine.methods

    def __init__(self, network):
        self.engine = NativeEngine(network)

    def bounds(self, *args):
        return self.engine.bounds(*args)


def network(seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU())
    net.append(nn.Linear(12, 3))
    with torch.no_grad():
        net[0].bias.copy_(-net[0].weight.sum(1) / 2)
        for layer in (net[2], net[4], net[6]):
            layer.bias.zero_()
            layer.weight.mul_(2)
    return net.eval()


def examples(net, n=30):
    x = torch.rand(n, 6, generator=torch.Generator().manual_seed(1))
    return Batch(x, net(x).argmax(1), torch.arange(n))


@pytest.fixture
def counted(monkeypatch):
    """How many neurons CROWN bounded."""
    count, refined = [0], crown._refined

    def counting(run, lines, source, lower, upper, unsettled):
        count[0] += int(unsettled.sum())
        return refined(run, lines, source, lower, upper, unsettled)

    monkeypatch.setattr(crown, "_refined", counting)
    return count


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("size", [None, 7])
def test_a_grid_of_radii_takes_less_and_certifies_the_same(counted, norm, size):
    net = network()
    found = {}
    for engine in (Plain, NativeEngine):
        counted[0] = 0
        radii = [float(r) * (1 if norm == "linf" else 2) for r in RADII]
        certifier = BoundCertifier(["crown"], radii, engine, norm=norm, attack_steps=0, batch_size=size)
        found[engine] = certifier.certify(net, examples(net)), counted[0]
    (plain, all_of_them), (reused, fewer) = found.values()
    assert len(set(plain.radius)) > 2
    assert np.array_equal(reused.radius, plain.radius)
    assert fewer < 0.95 * all_of_them


def test_bisection_takes_less_and_certifies_the_same(counted):
    net = network()
    found = {}
    for engine in (Plain, NativeEngine):
        counted[0] = 0
        options = {"attacks": [], "bisect": "0.0005", "bisect_up_to": "0.08"}
        cascade = CascadeCertifier(["ibp", "crown"], ["0.03"], engine, **options)
        found[engine] = cascade.certify(net, examples(net)), counted[0]
    (plain, all_of_them), (reused, fewer) = found.values()
    assert np.abs(reused.columns["largest_eps"] - plain.columns["largest_eps"]).max() <= 0.0005
    assert fewer < 0.8 * all_of_them


def test_one_radius_keeps_nothing():
    net = network().double()
    data, engine = examples(net.float()), NativeEngine(net.double())
    reuse = Reuse(engine, data.x.double(), net(data.x.double()), again=False)
    reuse.bounds(torch.arange(3), data.y[:3], threat_of(eps=0.1), ("crown",))
    assert reuse._kept is None


def test_an_engine_with_bounds_of_its_own_is_asked_for_them():
    class Own(NativeEngine):
        def bounds(self, *args):
            return super().bounds(*args)

    class Both(Own):
        def bounds(self, *args):
            return super().bounds(*args)

        def bounds_inside(self, *args):
            return super().bounds_inside(*args)

    class Same(Both):
        pass

    taken = [takes_intermediates(engine) for engine in (NativeEngine, Own, Both, Same, Plain, int)]
    assert taken == [True, False, True, True, False, False]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_any_rows_at_any_radii_in_any_order(norm, seed):
    """Another stage may prove a radius above the one that is kept: that one is then not used."""
    net, draw = network(seed).double(), random.Random(seed)
    data = examples(copy := network(seed))
    assert copy is not net
    x, engine = data.x.double(), NativeEngine(net)
    with torch.no_grad():
        logits = net(x)
        reuse = Reuse(engine, x, logits, again=True)
        for _ in range(25):
            rows = torch.tensor(draw.sample(range(len(x)), draw.randint(1, 9)))
            eps = torch.tensor([draw.choice([0.0, 0.01, 0.03, 0.031, 0.05, 0.09, 0.2]) for _ in rows]).double()
            threat = threat_of(norm, eps, outward=True)
            found = reuse.bounds(rows, data.y[rows], threat, ("crown",)).margins["crown"]
            alone = engine.bounds(x[rows], data.y[rows], threat, ("crown",)).margins["crown"]
            assert (found - alone).abs().max() < 0.02
            assert ((found > 0).all(1) | ~(alone > 0.01).all(1)).all()
