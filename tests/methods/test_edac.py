"""EDAC: its extra step by hand, and what it leaves alone."""

import math

import pytest
import torch
from torch import nn

from certtrain.data.batch import Batch
from certtrain.errors import UserError
from certtrain.methods import Context, Ramp, Streams
from certtrain.methods.edac import EDAC, certainty
from certtrain.methods.inner_attack import InnerAttack
from certtrain.methods.pgd import PGD
from certtrain.testing.methods import small_batch, small_network

RAMP, STREAMS, AFTER = Ramp(2, 4), Streams(0), 9
CORNER = InnerAttack(steps=1, step_size=10.0, keep_best=False)


def context(network, step=AFTER, lr=0.1):
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    return Context(network, None, optimizer, (), step, 0, STREAMS)


def test_the_certainty_by_hand():
    """The standard deviations of (1, 3) and (0, 0), with n - 1: sqrt(2) and 0."""
    assert certainty(torch.tensor([[1.0, 3.0], [0.0, 0.0]])).item() == pytest.approx(math.sqrt(2) / 2)


def test_the_step_by_hand():
    """z = (x, -x) at x* = 1/2 - 1/4: s |w1 - w2| x* / sqrt(2), whose slope in w1 is s x* / sqrt(2)."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False)).double()
    network[1].weight.data = torch.tensor([[1.0], [-1.0]]).double()
    batch = Batch(torch.full((3, 1), 0.5).double(), torch.zeros(3, dtype=torch.int64), torch.arange(3))
    EDAC(0.25, RAMP, weight=0.4, attack=CORNER).before_step(context(network), batch)
    moved = 0.1 * 0.4 * 0.25 / math.sqrt(2)
    assert network[1].weight.flatten().tolist() == pytest.approx([1 - moved, -1 + moved], rel=1e-9)


def test_it_lowers_the_certainty_at_the_attacked_inputs_and_leaves_collected_gradients():
    network, batch = small_network(), small_batch(32)
    method = EDAC(0.1, RAMP, weight=1.0)
    x = method.prepare(network, None, batch, AFTER, STREAMS).points[0]
    before = certainty(network(x)).item()
    kept = [torch.randn_like(weight) for weight in network.parameters()]
    for weight, gradient in zip(network.parameters(), kept, strict=True):
        weight.grad = gradient.clone()
    method.before_step(context(network, lr=0.01), batch)
    assert certainty(network(x)).item() < before
    assert all(torch.equal(w.grad, gradient) for w, gradient in zip(network.parameters(), kept, strict=True))


def test_gradients_have_the_weights_own_layout():
    """torch's fused optimisers do not look at strides: another layout would be another step."""
    seen = []

    class Looking(torch.optim.SGD):
        def step(self, closure=None):
            seen.extend(w.grad.stride() == w.stride() for w in self.param_groups[0]["params"])

    network = small_network().to(memory_format=torch.channels_last)
    place = Context(network, None, Looking(network.parameters(), lr=0.1), (), AFTER, 0, STREAMS)
    EDAC(0.1, RAMP).before_step(place, small_batch())
    assert len(seen) == 6
    assert all(seen)


@pytest.mark.parametrize(("weight", "step"), [(0.0, AFTER), (0.3, 1)])
def test_at_weight_0_and_while_eps_is_0_it_is_pgd(weight, step):
    network, batch = small_network(), small_batch()
    method, before = EDAC(0.1, RAMP, weight), [w.detach().clone() for w in network.parameters()]
    method.before_step(context(network, step), batch)
    assert all(torch.equal(one, other) for one, other in zip(network.parameters(), before, strict=True))
    losses = [kind(network, None, batch, step, STREAMS).loss for kind in (method, PGD(0.1, RAMP))]
    assert torch.equal(*losses)


def test_what_is_refused():
    with pytest.raises(UserError, match=r"method\.weight = -0.3"):
        EDAC(0.1, RAMP, weight=-0.3)
    with pytest.raises(UserError, match=r"attack\.steps = 0"):
        EDAC(0.1, RAMP, attack=InnerAttack(steps=0))
