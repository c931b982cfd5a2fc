"""Gaussian loss smoothing: its estimates by hand, and its base at std 0."""

import math

import pytest
import torch
from torch import nn

from certtrain.bounds import NativeEngine
from certtrain.bounds.auto_lirpa import AutoLirpaEngine
from certtrain.errors import UserError
from certtrain.methods import IBP, CrownIBP, Gaussian, Method, Objective, Ramp, Streams, Weight
from certtrain.methods.edac import EDAC
from certtrain.methods.gls import GLS, pgpe
from certtrain.methods.mtl_ibp import MTLIBP
from certtrain.methods.wrapper import Wrapper
from certtrain.testing.methods import MethodSuite, small_batch, small_network

RAMP, STREAMS, AFTER = Ramp(2, 4), Streams(0), 9


class TestPGPE(MethodSuite):
    learns = False  # one draw for 188 weights

    def make(self):
        return GLS(IBP(0.1, RAMP), std=0.05, estimator="pgpe")


class Quadratic(Method):
    """`sum_i c_i w_i^2` of the weights, whatever the inputs."""

    def objective(self, network, engine, inputs, phase, values):
        flat = torch.cat([w.flatten() for w in (network.weight, network.bias)])
        loss = (torch.arange(1.0, 1.0 + len(flat)).to(flat) * flat**2).sum()
        return Objective(loss, {"loss_own": loss.detach()})


def gradients(method, network, batch, step=AFTER, engine=None):
    found = method(network, engine, batch, step, STREAMS)
    return found, torch.autograd.grad(found.loss, list(network.parameters()))


@pytest.mark.parametrize("estimator", ["rgs", "pgpe"])
def test_at_std_0_it_is_its_base_bit_for_bit(estimator):
    base = MTLIBP(0.1, RAMP, kappa=Weight(0.5, 0.5), regulariser=0.5, l1=0.01)
    batch = small_batch(32)
    for step in range(8):
        network = small_network(batch_norm=True)
        other = small_network(batch_norm=True)
        one, mine = gradients(GLS(base, std=0, estimator=estimator), network, batch, step, NativeEngine(network))
        two, theirs = gradients(base, other, batch, step, NativeEngine(other))
        assert torch.equal(one.loss, two.loss)
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(network.buffers(), other.buffers(), strict=True))


def test_rgs_is_the_mean_of_the_losses_and_gradients_at_the_perturbed_weights():
    network, batch = small_network(), small_batch(16)
    base, names = CrownIBP(0.1, RAMP), [name for name, _ in network.named_parameters()]
    found, mine = gradients(GLS(base, std=0.05, samples=2), network, batch, engine=NativeEngine(network))
    losses, theirs = [], []
    for number in (0, 1):
        moved = small_network()
        noise = STREAMS.weights(list(moved.parameters()), AFTER, number, 0.05)
        with torch.no_grad():
            for name, d in zip(names, noise, strict=True):
                moved.get_parameter(name).add_(d)
        one, gradient = gradients(base, moved, batch, engine=NativeEngine(moved))
        losses.append(one.loss.item())
        theirs.append(gradient)
    assert losses[0] != losses[1]
    assert found.loss.item() == pytest.approx(sum(losses) / 2, rel=1e-5)
    for here, *there in zip(mine, *theirs, strict=True):
        torch.testing.assert_close(here, torch.stack(there).mean(0), rtol=1e-4, atol=1e-6)
    assert [name for name, _ in network.named_parameters()] == names
    assert all(isinstance(network.get_parameter(name), nn.Parameter) for name in names)


def test_pgpe_by_hand():
    """L(w) = 3 w^2 at w = 2, d = 0.5, std = 0.5: (3 * 6.25 - 3 * 2.25) * 0.5 / (2 * 0.25) = 12, the slope itself."""
    w, noise = torch.tensor(2.0, requires_grad=True), [[torch.tensor(0.5)]]
    found = pgpe([w], noise, [torch.tensor(3 * 2.5**2 - 3 * 1.5**2)], 0.5)
    assert found.item() == 0
    assert torch.autograd.grad(found, w)[0].item() == pytest.approx(12.0)


def test_pgpe_by_hand_of_two_draws():
    """L = w1 + 10 w2 at d = (1, 0) and (1, 1), std 1: (2 (1, 0) + 22 (1, 1)) / 4 = (6, 5.5)."""
    w = torch.zeros(2, requires_grad=True)
    noise = [[torch.tensor([1.0, 0.0])], [torch.tensor([1.0, 1.0])]]
    found = pgpe([w], noise, [torch.tensor(2.0), torch.tensor(22.0)], 1.0)
    assert torch.autograd.grad(found, w)[0].tolist() == pytest.approx([6.0, 5.5])


def test_the_expectation_of_pgpe_on_a_quadratic_is_its_gradient():
    """L(w) = sum_i c_i w_i^2: each draw gives `d (d . g) / std^2`, of mean g = 2 c w and variance at most 2 |g|^2."""
    draw, count, std = torch.Generator().manual_seed(0), 4000, 0.3
    w = torch.tensor([1.0, -0.5, 0.25, 0.75], dtype=torch.float64, requires_grad=True)
    c = torch.arange(1.0, 5.0, dtype=torch.float64)
    noise = std * torch.randn(count, 4, generator=draw, dtype=torch.float64)
    gains = 4 * (c * w.detach() * noise).sum(1)  # sum c ((w + d)^2 - (w - d)^2)
    found = torch.autograd.grad(pgpe([w], noise[:, None].unbind(), gains.unbind(), std), w)[0]
    exact = 2 * c * w.detach()
    assert bool(((found - exact).abs() < 5 * math.sqrt(2 / count) * exact.norm()).all())


def test_pgpe_asks_for_the_losses_at_both_sides_and_gives_their_mean():
    network, batch = nn.Linear(2, 1).double(), small_batch(2)
    found, mine = gradients(GLS(Quadratic(), std=0.3, samples=2, estimator="pgpe"), network, batch)
    weights = list(network.parameters())
    noise = [STREAMS.weights(weights, AFTER, number, 0.3) for number in (0, 1)]

    def loss(draw, sign):
        moved = torch.cat([(w.detach() + sign * d).flatten() for w, d in zip(weights, draw, strict=True)])
        return (torch.arange(1.0, 4.0).double() * moved**2).sum()

    sides = [[loss(draw, sign) for sign in (1, -1)] for draw in noise]
    expected = torch.autograd.grad(pgpe(weights, noise, [up - down for up, down in sides], 0.3), weights)
    assert found.loss.item() == pytest.approx(sum(one.item() for pair in sides for one in pair) / 4)
    assert all(torch.allclose(one, other) for one, other in zip(mine, expected, strict=True))
    assert found.parts["loss_own"].item() == pytest.approx(found.loss.item())


def test_the_noise_is_keyed_by_step_and_draw():
    weights = list(small_network().parameters())
    for number in (0, 1):
        one, again = (STREAMS.weights(weights, 3, number, 0.5) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    flat = [
        torch.cat([d.flatten() for d in STREAMS.weights(weights, *place, 0.5)]) for place in ((3, 0), (3, 1), (4, 0))
    ]
    assert not any(torch.equal(flat[i], flat[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert abs(torch.cat(flat).std().item() - 0.5) < 0.06
    other = Streams(1).weights(weights, 3, 0, 0.5)
    assert not torch.equal(other[0], STREAMS.weights(weights, 3, 0, 0.5)[0])


def test_the_other_engine_bounds_the_perturbed_network_too():
    network, batch = small_network(), small_batch(4)
    method = GLS(CrownIBP(0.1, RAMP), std=0.1)
    one, mine = gradients(method, network, batch, engine=NativeEngine(network))
    two, theirs = gradients(method, network, batch, engine=AutoLirpaEngine(network))
    torch.testing.assert_close(one.loss, two.loss, rtol=1e-4, atol=1e-5)
    for here, there in zip(mine, theirs, strict=True):
        torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-4)


def test_a_wrapper_is_its_base():
    """Schedules, phases, state and hooks."""
    base = EDAC(0.1, RAMP)
    outer = Wrapper(base)
    assert not outer.needs_engine
    assert Wrapper(CrownIBP(0.1, RAMP)).needs_engine
    assert (outer.ramp, outer.ramp_end) == (RAMP, 6)
    for step in range(8):
        assert outer.scheduled(step) == base.scheduled(step)
        assert outer.values(step) == base.values(step)
        assert outer.phase(step) == base.phase(step)
    seen = []
    base.before_step = lambda *given: seen.append("before_step")
    base.begin = lambda *given: seen.append("begin")
    base.epoch_end = lambda *given: seen.append("epoch_end")
    base.initialise = lambda *given: seen.append("initialise")
    base.load_state_dict = lambda state: seen.append(state)
    base.state_dict = lambda: {"a": 1}
    outer.initialise(None)
    outer.begin(None)
    outer.before_step(None, None)
    outer.epoch_end(None)
    outer.load_state_dict(outer.state_dict())
    assert seen == ["initialise", "begin", "before_step", "epoch_end", {"a": 1}]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"std": -1}, r"method\.std = -1"),
        ({"std": math.nan}, r"method\.std = nan"),
        ({"samples": 0}, "samples = 0 is not a whole number >= 1"),
        ({"samples": 1.5}, "samples = 1.5 is not"),
        ({"estimator": "rsg"}, "unknown estimator 'rsg'"),
    ],
)
def test_what_is_refused(options, words):
    with pytest.raises(UserError, match=words):
        GLS(Gaussian(0.1), **options)


def test_a_base_that_is_no_method_is_refused():
    with pytest.raises(UserError, match="base = 'ibp' is not a training method"):
        GLS("ibp")
