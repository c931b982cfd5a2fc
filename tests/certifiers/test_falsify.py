"""The attack on bound certificates: sound ones stand, others fall, at points of the exact ball."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from small_networks import network
from torch import nn

from certtrain.bounds import Bounds, NativeEngine
from certtrain.certifiers import BoundCertifier
from certtrain.data import Batch


def examples(net: nn.Module, n: int = 40) -> Batch:
    x = torch.rand(n, 4, generator=torch.Generator().manual_seed(0))
    return Batch(x, net(x).argmax(1), torch.arange(n) + 7)


class TooHigh(NativeEngine):
    """Bounds that are above the truth."""

    def bounds(self, x, y, threat, methods=("ibp",)):
        found = super().bounds(x, y, threat, methods)
        return Bounds(found.clean, {m: v + 10 for m, v in found.margins.items()}, found.pre_activations)


def attack(engine, norm, net=None):
    net = net or network()
    data = examples(net)
    certifier = BoundCertifier(["ibp"], ["0.01", "1/3"], engine, norm=norm, attack_steps=0)
    found = certifier.certify(net, data)
    seen = []
    return data, found, certifier.falsify(net, data, found, steps=40, progress=seen.append), seen


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_sound_certificates_stand(norm):
    _, found, outcome, seen = attack(NativeEngine, norm)
    assert outcome.attacked == int((found.radius > 0).sum()) > 5
    assert (outcome.hits, outcome.allowed, outcome.failed) == ((), 0, False)
    assert seen[-1] == outcome.attacked
    assert outcome.settings["steps"] == 40


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_bounds_that_are_too_high_are_caught_by_points_of_the_exact_ball(norm):
    net = network().train()
    data, found, outcome, _ = attack(TooHigh, norm, net)
    assert outcome.failed
    assert net.training
    for hit in outcome.hits:
        row = hit.index - 7
        assert (hit.label, hit.radius) == (int(data.y[row]), found.radius[row])
        assert hit.predict != hit.label
        radius = next(r for r in (Fraction("0.01"), Fraction(1, 3)) if float(r) == hit.radius)
        offsets = [Fraction(a) - Fraction(b) for a, b in zip(hit.x.tolist(), data.x[row].tolist())]
        if norm == "linf":
            assert max(map(abs, offsets)) <= radius
        else:
            assert sum(offset**2 for offset in offsets) <= radius**2
        assert ((hit.x >= 0) & (hit.x <= 1)).all()
        z = net.double()(torch.from_numpy(hit.x)[None])[0].detach()
        net.float()
        margin = float(z[hit.label] - max(z[j] for j in range(3) if j != hit.label))
        assert margin <= 0
        assert hit.margin == pytest.approx(margin, abs=1e-12)
        assert hit.distance <= hit.radius


def test_only_certified_rows_are_attacked_and_each_at_its_own_radius():
    net = network()
    data = examples(net)
    certifier = BoundCertifier(["ibp"], ["0.01", "1/3"], TooHigh, attack_steps=0)
    found = certifier.certify(net, data)
    found.radius[:] = np.where(np.arange(40) % 2, 1e-9, 0.0)  # so small that nothing can be broken
    outcome = certifier.falsify(net, data, found, steps=40)
    assert (outcome.attacked, outcome.hits) == (20, ())


def test_a_margin_that_is_no_number_refutes():
    class Hole(nn.Module):
        def forward(self, x):
            z = torch.stack([-x[:, 1], x[:, 1]], 1)
            return torch.where((x[:, :1] > 0.55), torch.nan, z) + 0 * x[:, :1].sqrt()

    class Blind(NativeEngine):
        def __init__(self, net):
            self.net = net

        def bounds(self, x, y, threat, methods=("ibp",)):
            return Bounds(self.net(x), {"ibp": torch.ones(len(x), 1, dtype=x.dtype)}, ())

    data = Batch(torch.full((3, 2), 0.5), torch.ones(3, dtype=torch.long), torch.arange(3))
    certifier = BoundCertifier(["ibp"], ["0.1"], Blind, attack_steps=0)
    found = certifier.certify(Hole(), data)
    assert (found.radius == 0.1).all()
    assert certifier.falsify(Hole(), data, found, steps=20).failed


def test_rows_of_other_examples_are_refused():
    net = network()
    data = examples(net)
    certifier = BoundCertifier(["ibp"], ["0.05"], NativeEngine, attack_steps=0)
    found = certifier.certify(net, data)
    with pytest.raises(ValueError, match="not those of the batch"):
        certifier.falsify(net, data._replace(index=data.index + 1), found, steps=1)
