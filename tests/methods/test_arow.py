"""ARoW and MART: values by hand, and what they are with a weight of 0."""

import math

import pytest
import torch
import torch.nn.functional as F

from certtrain.errors import UserError
from certtrain.methods import Ramp, Streams
from certtrain.methods.arow import ARoW, weighted_divergence
from certtrain.methods.inner_attack import InnerAttack
from certtrain.methods.mart import MART, boosted_cross_entropy
from certtrain.methods.pgd import PGD
from certtrain.methods.trades import TRADES
from certtrain.testing.methods import small_batch, small_network

RAMP, STREAMS, AFTER = Ramp(2, 4), Streams(0), 9


def objective(method, network, batch):
    return method(network, None, batch, AFTER, STREAMS)


def points(method, network, batch):
    return method.prepare(network, None, batch, AFTER, STREAMS).points[0]


def test_the_weighted_divergence_by_hand():
    """KL((3/4, 1/4) || (1/2, 1/2)), times 1/2 for either class by the attacked, 3/4 for class 1 by the clean."""
    clean, attacked = torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2)
    apart = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    for y in (0, 1):
        found = weighted_divergence(clean, attacked, attacked, torch.tensor([y]))
        assert found.tolist() == pytest.approx([apart / 2])
    assert weighted_divergence(clean, attacked, clean, torch.tensor([1])).tolist() == pytest.approx([0.75 * apart])


def test_arow_is_smoothed_cross_entropy_and_its_weight_times_the_divergence_that_it_attacks():
    network, batch = small_network(), small_batch(32)
    clean, y = network(batch.x), batch.y
    smoothed = F.cross_entropy(clean, y, label_smoothing=0.3)
    none = objective(ARoW(0.1, RAMP, weight=0, smoothing=0.3), network, batch)
    assert torch.equal(none.loss, smoothed)
    method = ARoW(0.1, RAMP, weight=3.0, smoothing=0.3)
    x = points(method, network, batch)
    assert torch.equal(x, points(TRADES(0.1, RAMP), network, batch))
    attacked = network(x)
    apart = weighted_divergence(clean, attacked, attacked, y).mean()
    found = objective(method, network, batch)
    assert found.loss.item() == pytest.approx((smoothed + 3 * apart).item(), rel=1e-5)
    assert found.parts["loss_divergence"].item() == pytest.approx(apart.item(), rel=1e-5)
    assert torch.equal(objective(ARoW(0.1, RAMP, 0, 0.0), network, batch).loss, F.cross_entropy(clean, y))


def test_smoothing_by_hand():
    """-(1 - s) log p_y - s/K sum_j log p_j at p = (3/4, 1/4), s = 0.2."""
    logits, y = torch.tensor([[math.log(3), 0.0]]), torch.tensor([0])
    by_hand = -0.8 * math.log(0.75) - 0.1 * (math.log(0.75) + math.log(0.25))
    assert F.cross_entropy(logits, y, label_smoothing=0.2).item() == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("y", "by_hand"),
    [(0, math.log(2) + math.log(4 / 3)), (1, math.log(4) + math.log(2)), (2, math.log(4) + math.log(2))],
)
def test_the_boosted_cross_entropy_by_hand(y, by_hand):
    """p = (1/2, 1/4, 1/4): -log p_y - log(1 - p_j) with j the strongest other class."""
    logits = torch.tensor([[math.log(2), 0.0, 0.0]])
    assert boosted_cross_entropy(logits, torch.tensor([y])).tolist() == pytest.approx([by_hand])


def test_a_rival_that_is_certain_leaves_the_boosted_cross_entropy_finite():
    logits = torch.tensor([[0.0, 500.0, -3.0]], requires_grad=True)
    loss = boosted_cross_entropy(logits, torch.tensor([0]))
    assert loss.tolist() == pytest.approx([500.0 + 500.0 - math.log(1 + math.exp(-3))])
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert torch.isfinite(gradient).all()


def test_mart_is_the_boosted_cross_entropy_at_pgds_inputs_and_its_weight_times_the_divergence():
    network, batch = small_network(), small_batch(32)
    method, y = MART(0.1, RAMP, weight=2.0), batch.y
    x = points(method, network, batch)
    assert torch.equal(x, points(PGD(0.1, RAMP), network, batch))
    clean, attacked = network(batch.x), network(x)
    boosted, apart = boosted_cross_entropy(attacked, y).mean(), weighted_divergence(clean, attacked, clean, y).mean()
    assert objective(method, network, batch).loss.item() == pytest.approx((boosted + 2 * apart).item(), rel=1e-5)
    assert torch.equal(objective(MART(0.1, RAMP, weight=0), network, batch).loss, boosted)


@pytest.mark.parametrize("make", [ARoW, MART])
def test_what_is_refused(make):
    with pytest.raises(UserError, match=r"method\.weight = -1"):
        make(0.1, RAMP, weight=-1)
    with pytest.raises(UserError, match="adversarial training in l2, which is not a box"):
        make(0.1, RAMP, norm="l2")
    with pytest.raises(UserError, match=r"attack\.steps = 0 with a method that needs an attack"):
        make(0.1, RAMP, attack=InnerAttack(steps=0))
    with pytest.raises(TypeError, match="regulariser"):  # of bounds, which there are none of
        make(0.1, RAMP, regulariser=0.5)


@pytest.mark.parametrize("smoothing", [-0.1, 1, math.nan, True, "much"])
def test_a_smoothing_out_of_its_range_is_refused(smoothing):
    with pytest.raises(UserError, match=r"smoothing = .* is not in \[0, 1\)"):
        ARoW(0.1, RAMP, smoothing=smoothing)
