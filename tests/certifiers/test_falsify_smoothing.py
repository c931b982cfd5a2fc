"""The standing check of smoothing: it passes true radii, catches false ones, and what it finds lies inside the ball."""

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import nn

from certtrain.certificates import Certificates
from certtrain.certifiers import AnytimeCertifier, SmoothingCertifier
from certtrain.certifiers.falsify_smoothing import against, smoothed_attack
from certtrain.data.batch import Batch
from certtrain.smoothing.distribution import Gaussian


@pytest.fixture
def linear():
    """sign(w x + b): the smoothed radius is |w x + b| / |w| whatever sigma."""
    layer = nn.Linear(6, 2).requires_grad_(False)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([torch.zeros(6), torch.tensor([1.0, -2, 0.5, 0, 1, 1])]))
        layer.bias.copy_(torch.tensor([0.0, -0.3]))
    return layer


@pytest.fixture
def batch(linear):
    x = torch.rand(40, 6, generator=torch.Generator().manual_seed(0))
    return Batch(x, linear(x).argmax(1), torch.arange(40) * 3)


def stretched(rows, factor):
    return Certificates(
        rows.index, rows.label, rows.predict, rows.radius * factor, rows.correct, rows.seconds, rows.columns
    )


@pytest.mark.parametrize("two_sided", [False, True])
def test_true_radii_pass_and_stretched_ones_are_caught(linear, batch, two_sided):
    certifier = SmoothingCertifier(0.25, [0.1], n=2000, two_sided=two_sided)
    rows = certifier.certify(linear, batch)
    held = rows.correct & (rows.radius > 0)
    assert held.sum() > 10
    seen = []
    found = certifier.falsify(linear, batch, rows, steps=10, progress=seen.append)
    assert (found.attacked, len(found.hits), found.failed) == (held.sum(), 0, False)
    assert seen[-1] == held.sum()
    assert found.allowed == binom.isf(1e-6, held.sum(), 0.001 + 1e-7)

    found = certifier.falsify(linear, batch, stretched(rows, 2.0), steps=10)
    assert found.failed
    assert len(found.hits) > 0.5 * held.sum()
    for hit in found.hits:
        i = batch.index.tolist().index(hit.index)
        assert hit.label == int(batch.y[i])
        assert hit.predict != hit.label
        assert hit.margin < 0
        exact = np.linalg.norm(hit.x.astype(float) - batch.x[i].numpy().astype(float))
        assert exact <= hit.radius
        assert hit.distance == pytest.approx(exact)
        truth = abs(float(linear(batch.x[i : i + 1])[0, 1])) / float(linear.weight[1].norm())
        assert exact > truth * 0.999  # not refuted inside the true radius
        assert sum(hit.details["votes"]) == 20_000
    assert found.summary()["settings"]["screening"]["suspects"] >= len(found.hits)


def test_anytime_radii_pass_too(linear, batch):
    certifier = AnytimeCertifier(0.25, [0.1, 0.3], n=5000)
    rows = certifier.certify(linear, batch)
    assert (rows.radius > 0).sum() > 10
    assert not certifier.falsify(linear, batch, rows, steps=10).failed


def test_a_network_without_gradients_is_attacked_too(batch):
    class Hard(nn.Module):
        def forward(self, x):
            return torch.nn.functional.one_hot((x[:, 0] > 0.5).long(), 2).float()

    rows = SmoothingCertifier(0.25, [0.1], n=500).certify(Hard(), batch)
    assert not SmoothingCertifier(0.25, [0.1]).falsify(Hard(), batch, rows, steps=3).failed


@pytest.mark.parametrize("steps", [1, 2, 17])
def test_every_point_lies_in_the_ball(linear, batch, steps):
    radius = torch.linspace(1e-6, 30, 40)
    points = smoothed_attack(linear, batch, radius, Gaussian(0.25), seed=0, split="test", steps=steps)
    distance = (points.double() - batch.x.double()).norm(dim=1)
    assert (distance <= radius.double()).all()
    assert (distance > 0.99 * radius.double())[5:].all()


def test_the_attack_finds_the_boundary_of_a_curved_classifier():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(4)
    x = torch.rand(30, 2)
    certifier = SmoothingCertifier(0.25, [0.1], n=5000)
    batch = Batch(x, torch.zeros(30, dtype=torch.int64), torch.arange(30))
    predict = torch.as_tensor(certifier.certify(network, batch).predict)
    batch = Batch(x, predict.clamp_min(0), torch.arange(30))
    rows = certifier.certify(network, batch)
    assert not certifier.falsify(network, batch, rows, steps=20).failed
    assert certifier.falsify(network, batch, stretched(rows, 3.0), steps=20).failed


def test_p_values_by_hand():
    counts = np.array([[400, 500, 100], [500, 300, 200]])
    p = against(counts, np.array([0, 0]), 1000, two_sided=False)
    assert p == pytest.approx(binom.cdf([400, 500], 1000, 0.5))
    p = against(counts, np.array([0, 0]), 1000, two_sided=True)
    assert p == pytest.approx(np.minimum(1, 2 * binom.cdf([400, 500], [900, 800], 0.5)))


def test_rows_of_another_batch(linear, batch):
    rows = SmoothingCertifier(0.25, [0.1], n=200).certify(linear, batch)
    with pytest.raises(ValueError, match="not those of the batch"):
        SmoothingCertifier(0.25, [0.1]).falsify(linear, Batch(*(c[:5] for c in batch)), rows, steps=2)
