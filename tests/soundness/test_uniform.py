"""Attempts to break what smoothing with uniform noise claims in l1, by the standing attack."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from certtrain.certificates import Certificates
from certtrain.certifiers.falsify_smoothing import smoothed_attack
from certtrain.certifiers.uniform import UniformCertifier
from certtrain.data.batch import Batch
from certtrain.smoothing.uniform import Uniform


def curved():
    """(B, 3) to two classes, whose boundary bends and is crossed along the first input above all."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2))
    with torch.no_grad():
        network[0].weight.mul_(torch.tensor([6.0, 0.6, 0.6]))
        network[0].bias.copy_(-network[0].weight.sum(1) / 2)
        network[2].weight.mul_(4)
        network[2].bias.zero_()
    return network


def steep():
    """(B, 3) to two classes: linear, and l1 changes of the first input are by far the shortest way across."""
    network = nn.Linear(3, 2)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[0.0, 0, 0], [1, 0.05, -0.05]]))
        network.bias.copy_(torch.tensor([0.0, -0.5]))
    return network


def certified(network, **options):
    """The certificates of points whose class is the smoothed classifier's own."""
    made = UniformCertifier(0.25, ["0.1"], n=2000, **options)
    x = torch.rand(30, 3, generator=torch.Generator().manual_seed(1))
    batch = Batch(x, torch.zeros(30, dtype=torch.int64), torch.arange(30) * 7)
    batch = batch._replace(y=torch.as_tensor(made.certify(network, batch).predict).clamp_min(0))
    return made, batch, made.certify(network, batch)


def inflated(rows: Certificates, factor: float) -> Certificates:
    return replace(rows, radius=rows.radius * factor)


@pytest.mark.parametrize(
    ("network", "share", "two_sided"), [(curved, 0.3, False), (steep, 0.8, False), (steep, 0.8, True)]
)
def test_true_radii_stand_and_doubled_ones_fall(network, share, two_sided):
    network = network()
    made, batch, rows = certified(network, two_sided=two_sided)
    held = int((rows.correct & (rows.radius > 0)).sum())
    assert held > 10
    found = made.falsify(network, batch, rows, steps=20)
    assert (found.attacked, len(found.hits), found.failed) == (held, 0, False)
    assert found.settings["ball"].startswith("l1,")

    found = made.falsify(network, batch, inflated(rows, 2), steps=20)
    assert found.failed
    assert len(found.hits) >= share * held
    for hit in found.hits:
        i = batch.index.tolist().index(hit.index)
        exact = np.abs(hit.x.astype(np.float64) - batch.x[i].numpy().astype(np.float64)).sum()
        assert rows.radius[i] < exact == pytest.approx(hit.distance)
        assert exact <= hit.radius
        assert hit.margin < 0


@pytest.mark.parametrize("steps", [1, 17])
@pytest.mark.parametrize("size", [3, 784])
def test_every_point_lies_in_the_l1_ball(size, steps):
    """Of radii beyond the input range, too, which smoothing's claims do not stop at."""
    torch.manual_seed(2)
    network = nn.Sequential(nn.Linear(size, 8), nn.Tanh(), nn.Linear(8, 2))
    batch = Batch(torch.rand(20, size), torch.zeros(20, dtype=torch.int64), torch.arange(20))
    radius = torch.linspace(1e-6, 30, 20)
    points = smoothed_attack(network, batch, radius, Uniform(0.25), seed=0, split="test", steps=steps)
    distance = (points.double() - batch.x.double()).abs().sum(1)
    assert (distance <= radius.double()).all()
    assert (distance > 0.99 * radius.double())[2:].all()
