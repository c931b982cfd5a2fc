"""SABR's identities, its boxes, and what its attack leaves alone."""

import copy

import pytest
import torch
from torch import nn

from certtrain.bounds import NativeEngine
from certtrain.data.batch import Batch
from certtrain.errors import UserError
from certtrain.methods import IBP, Ramp, Streams, Weight
from certtrain.methods.inner_attack import InnerAttack
from certtrain.methods.regions import SmallBox
from certtrain.methods.sabr import SABR
from certtrain.testing.methods import small_batch, small_network
from certtrain.threat import Linf

RAMP, NOISE, AFTER = Ramp(start=2, length=4), Streams(0), 9
ROBUST = {"kappa": Weight(0.0, 0.0)}


@pytest.mark.parametrize("step", [0, 3, 4, AFTER])
def test_the_whole_box_is_ibp(step):
    network, batch = small_network(), small_batch()
    engine, options = NativeEngine(network), {"regulariser": 0.5, "l1": 0.01}
    small = SABR(0.1, RAMP, share=1.0, **options)(network, engine, batch, step, NOISE)
    whole = IBP(0.1, RAMP, **options)(network, engine, batch, step, NOISE)
    assert small.parts.keys() == whole.parts.keys()
    assert small.loss.item() == pytest.approx(whole.loss.item(), rel=1e-6)


@pytest.mark.parametrize("share", [0.01, 0.4, 0.9])
def test_small_boxes_lie_in_the_ball_and_hold_the_attack(share):
    network, batch = small_network(), small_batch(size=32)
    method = SABR(0.1, RAMP, share=share)
    inputs = method.prepare(network, NativeEngine(network), batch, AFTER, NOISE)
    lower, upper = Linf(0.1).box(batch.x)
    assert bool((inputs.lower >= lower - 1e-6).all())
    assert bool((inputs.upper <= upper + 1e-6).all())
    assert torch.allclose(inputs.upper - inputs.lower, share * (upper - lower), atol=1e-6)
    start = NOISE.uniform(batch.x, batch.index, AFTER, "attack")
    worst = method.region.attack(network, batch.x, batch.y, (lower, upper), start)
    assert bool((worst >= inputs.lower - 1e-6).all())
    assert bool((worst <= inputs.upper + 1e-6).all())
    assert (inputs.x is batch.x, inputs.y is batch.y) == (True, True)


def test_on_a_linear_network_the_small_box_at_the_worst_corner_has_the_balls_own_bound():
    """The attack ends in a corner, whose margin is the least over the ball; by hand: 1 - 2 * 0.25 = 0.5."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False)).double()
    network[1].weight.data = torch.tensor([[1.0], [-1.0]]).double()
    batch = Batch(torch.full((3, 1), 0.5).double(), torch.zeros(3, dtype=torch.int64), torch.arange(3))
    attack = InnerAttack(steps=8, step_size=2.0, decay=1.0)
    found = SABR(0.25, RAMP, share=0.3, attack=attack, **ROBUST)(network, NativeEngine(network), batch, AFTER, NOISE)
    by_hand = torch.nn.functional.softplus(torch.tensor(-0.5).double())  # CE([0, -m], 0) at m = 0.5
    assert found.loss.item() == pytest.approx(by_hand.item(), rel=1e-9)


def test_a_smaller_box_never_has_the_larger_loss():
    network, batch = small_network(), small_batch(size=32)
    losses = [
        SABR(0.1, RAMP, share=share, **ROBUST)(network, NativeEngine(network), batch, AFTER, NOISE).loss.item()
        for share in (0.05, 0.3, 0.7, 1.0)
    ]
    assert losses == sorted(losses)
    assert losses[0] < 0.9 * losses[-1]


def test_the_attack_finds_more_loss_than_the_input_and_where_it_starts():
    network, batch = small_network(), small_batch(size=64)
    box = Linf(0.2).box(batch.x)

    def loss(x):
        return torch.nn.functional.cross_entropy(network.eval()(x), batch.y).item()

    start = NOISE.uniform(batch.x, batch.index, 0, "attack")
    found = loss(InnerAttack()(network, batch.x, batch.y, box, start))
    assert found > loss(InnerAttack(steps=0)(network, batch.x, batch.y, box, start))
    assert found > loss(batch.x)


def test_the_attack_leaves_statistics_gradients_modes_and_generators_alone():
    network, batch = small_network(batch_norm=True).train(), small_batch()
    before, generator = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    SABR(0.1, RAMP).prepare(network, NativeEngine(network), batch, AFTER, NOISE)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(module.training for module in network.modules())


def test_before_the_ramp_nothing_is_attacked():
    network, batch, calls = small_network(), small_batch(), []
    network.register_forward_hook(lambda *_: calls.append(1))
    SABR(0.1, RAMP).prepare(network, None, batch, 0, NOISE)
    assert calls == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"share": 0}, "share = 0"),
        ({"share": 1.5}, "share = 1.5"),
        ({"share": True}, "share = True"),
        ({"norm": "l2"}, "small boxes in l2"),
        ({"attack": {"steps": 8}}, "is not an attack"),
    ],
)
def test_what_makes_no_small_box_is_refused(options, words):
    with pytest.raises(UserError, match=words):
        SABR(0.1, RAMP, **options)


@pytest.mark.parametrize(("key", "value"), [("steps", -1), ("step_size", 0)])
def test_what_makes_no_attack_is_refused(key, value):
    with pytest.raises(UserError, match=f"attack.{key} = {value}"):
        InnerAttack(**{key: value})


def test_a_small_box_need_not_hold_the_input():
    """The clean logits are those of the input, the bounds those of the box."""
    network, batch = small_network().double().eval(), small_batch()
    x = batch.x.double()
    bounds = NativeEngine(network).bounds(x, batch.y, SmallBox(corners=(x * 0 + 0.9, x * 0 + 0.95)), ("ibp", "crown"))
    assert torch.allclose(bounds.clean, network(x))
    point = network(x * 0 + 0.92)
    margins = point.gather(1, batch.y[:, None]) - point
    for least in bounds.margins.values():
        assert bool((least.amin(1) <= margins.scatter(1, batch.y[:, None], torch.inf).amin(1)).all())
