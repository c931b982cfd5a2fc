"""Shi's regularisers on bounds made by hand, and against a direct reading of the definition."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from certtrain.bounds import PreActivation
from certtrain.errors import UserError
from certtrain.kernels import loader
from certtrain.kernels.moments import LOOPS
from certtrain.methods import ShiRegulariser
from certtrain.methods.regularisers import normalised_radius
from certtrain.models.normalize import Normalize
from certtrain.threat import threat_of

needs_compiler = pytest.mark.skipif(LOOPS.get() is None, reason="this machine has no C compiler")
DTYPES = (torch.float32, torch.float64)
REGULARISER = ShiRegulariser(0.5)
RADIUS = torch.tensor(0.3)


def by_autograd(regulariser, input_radius, pre_activations):
    """The two terms as they are written down, their gradients autograd's."""
    tight, relu, tau = [], [], regulariser.tolerance
    for _, lower, upper, kink in pre_activations:
        centre, radius = (lower + upper) / 2, (upper - lower) / 2
        tight.append((tau - input_radius / radius.mean().clamp_min(1e-12)).relu() / tau)
        if not kink:
            continue
        square, active, inactive = (centre - centre.mean()) ** 2, lower > 0, upper < 0
        pairs = [((centre * active).mean(), -(centre * inactive).mean())]
        pairs.append(((square * active).sum(), (square * inactive).sum()))
        if all(bool(part.isfinite()) for pair in pairs for part in pair) and all(bool(low > 0) for _, low in pairs):
            ratios = [torch.minimum(high / low, 1 / (high / low).clamp_min(1e-12)) for high, low in pairs]
            relu.append(sum((tau - ratio).relu() / tau for ratio in ratios))
        else:
            relu.append(torch.zeros_like(tight[-1]))
    return torch.stack(tight).mean(), torch.stack(relu).mean()


def random_layers(seed, dtype, bad=()):
    """Bounds of layers of different sizes, whose centres' mean and spread differ; the first has the bad neurons."""
    draw, layers = torch.Generator().manual_seed(seed), []
    for place, shape in enumerate([(6, 4, 5, 5), (6, 30), (6, 8, 3, 3)]):
        mean, *spread = torch.randn(2, generator=draw, dtype=dtype).tolist()
        centre = torch.randn(shape, generator=draw, dtype=dtype) * abs(spread[0]) + mean
        radius = -0.5 * torch.rand(shape, generator=draw, dtype=dtype).log()
        ends = torch.stack([centre - radius, centre + radius])
        if place == 0 and bad:
            ends[:, 0, 0, 0, 0] = torch.tensor(bad, dtype=dtype)
        lower, upper = (end.clone().requires_grad_() for end in ends)
        layers.append(PreActivation(f"{place}", lower, upper, kink=place != 1 or seed % 2 == 0))
    return layers


def layer(*neurons):
    """Bounds of one example from (lower, upper) pairs."""
    pairs = torch.tensor([neurons], dtype=torch.float64)
    return PreActivation("layer", pairs[..., 0].clone().requires_grad_(), pairs[..., 1].clone().requires_grad_())


# Centres 1 and -2, radii 1/2 and 1; both ratios at least 1/2. L_tight = (0.5 - 0.3/0.75)/0.5 = 0.2, L_relu = 0.
BALANCED = ((0.5, 1.5), (-3.0, -1.0))
# Centres 4, 0 (unstable), -1 (upper = 0: not inactive) and -1; mean radius 0.875; mean centre 0.5.
# r_mean = 1/0.25 = 4, rho = 0.25; r_var = 12.25/2.25, rho = 0.183673. L_relu = (0.25 + 0.316327)/0.5 = 1.132653.
# L_tight = (0.5 - 0.3/0.875)/0.5 = 0.314286.
TILTED = ((3.0, 5.0), (-1.0, 1.0), (-2.0, 0.0), (-1.5, -0.5))
# No inactive neuron: r is infinite, the layer's L_relu is dropped. L_tight = (0.5 - 0.3/1)/0.5 = 0.4.
ALL_ACTIVE = ((1.0, 3.0), (2.0, 4.0))
# No active neuron: both ratios are 0. L_relu = (0.5 + 0.5)/0.5 = 2.
ALL_INACTIVE = ((-3.0, -1.0), (-5.0, -2.0))


@pytest.mark.parametrize(
    ("neurons", "tight", "relu"), [(BALANCED, 0.2, 0.0), (TILTED, 0.314286, 1.132653), (ALL_ACTIVE, 0.4, 0.0)]
)
def test_terms_of_one_layer_by_hand(neurons, tight, relu):
    terms = REGULARISER.terms(RADIUS, [layer(*neurons)])
    assert terms.tight.item() == pytest.approx(tight, abs=1e-6)
    assert terms.relu.item() == pytest.approx(relu, abs=1e-6)


def test_only_inactive_neurons_is_the_worst_balance():
    assert REGULARISER.terms(RADIUS, [layer(*ALL_INACTIVE)]).relu.item() == pytest.approx(2.0)


def test_layers_are_averaged_and_a_dropped_one_counts():
    terms = REGULARISER.terms(RADIUS, [layer(*BALANCED), layer(*TILTED), layer(*ALL_ACTIVE)])
    assert terms.tight.item() == pytest.approx((0.2 + 0.314286 + 0.4) / 3, abs=1e-6)
    assert terms.relu.item() == pytest.approx(1.132653 / 3, abs=1e-6)


def test_the_tolerance_is_tau():
    terms = ShiRegulariser(0.5, tolerance=0.8).terms(RADIUS, [layer(*TILTED)])
    assert terms.tight.item() == pytest.approx((0.8 - 0.3 / 0.875) / 0.8, abs=1e-6)
    assert terms.relu.item() == pytest.approx((0.8 - 0.25 + 0.8 - 0.183673) / 0.8, abs=1e-6)


@pytest.mark.parametrize(
    "neurons", [BALANCED, TILTED, ALL_ACTIVE, ALL_INACTIVE, ((0.0, 0.0), (0.0, 0.0)), ((-1e200, 1),)]
)
def test_gradients_are_finite_even_where_a_layer_is_dropped(neurons):
    bounds = layer(*neurons)
    terms = REGULARISER.terms(RADIUS.double(), [bounds])
    total = terms.tight + terms.relu
    assert torch.isfinite(total)
    total.backward()
    assert torch.isfinite(bounds.lower.grad).all()
    assert torch.isfinite(bounds.upper.grad).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_bound_is_dropped_from_the_balance(bad):
    assert REGULARISER.terms(RADIUS, [layer((bad, bad), *TILTED)]).relu.item() == 0


@pytest.mark.parametrize("centres", [[1e20, -2.0], [-1e20, -2.0]])
def test_a_variance_that_overflows_is_dropped_and_leaves_the_gradient_alone(centres):
    lower = torch.tensor([centres], requires_grad=True)  # the squares exceed float32
    terms = REGULARISER.terms(RADIUS, [PreActivation("layer", lower, lower + 1)])
    assert terms.relu.item() == 0
    terms.relu.backward()
    assert lower.grad.tolist() == [[0, 0]]


def test_gradients_pull_the_boxes_together():
    bounds = layer(*TILTED)
    REGULARISER.terms(RADIUS, [bounds]).tight.backward()
    assert (bounds.upper.grad > 0).all()
    assert (bounds.lower.grad < 0).all()


def test_against_a_direct_reading_of_the_definition():
    generator = np.random.default_rng(0)
    for _ in range(20):
        layers = []
        for shape in ((5, 4, 3, 3), (5, 16)):
            centre, radius = generator.normal(generator.normal(), 1, shape), generator.exponential(0.5, shape)
            layers.append((centre - radius, centre + radius))
        radius, tau = 0.1, 0.5
        tight = [max(0.0, tau - radius / np.mean((high - low) / 2)) / tau for low, high in layers]
        relu = []
        for low, high in layers:
            centre = (low + high) / 2
            mean = np.mean(centre * (low > 0)) / -np.mean(centre * (high < 0))
            square = (centre - centre.mean()) ** 2
            var = np.sum(square[low > 0]) / np.sum(square[high < 0])
            relu.append(sum(max(0.0, tau - min(r, 1 / r)) for r in (mean, var)) / tau)
        bounds = [PreActivation("", torch.tensor(low), torch.tensor(high)) for low, high in layers]
        terms = REGULARISER.terms(torch.tensor(radius, dtype=torch.float64), bounds)
        assert terms.tight.item() == pytest.approx(np.mean(tight), rel=1e-9)
        assert terms.relu.item() == pytest.approx(np.mean(relu), rel=1e-9)


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=needs_compiler), False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_terms_and_gradients_are_autograds_own(monkeypatch, compiled, dtype, tolerance):
    monkeypatch.setattr(loader, "LARGE", 0 if compiled else 1 << 40)
    kept = 0
    for seed in range(30):
        radius = torch.tensor(0.1 + seed / 100, dtype=dtype, requires_grad=True)
        layers, found = random_layers(seed, dtype), []
        wanted = [radius, *(end for one in layers for end in (one.lower, one.upper))]
        for tight, relu in (REGULARISER.terms(radius, layers), by_autograd(REGULARISER, radius, layers)):
            loss = 2 * tight + 3 * relu
            found.append((tight, relu, *torch.autograd.grad(loss, wanted, materialize_grads=True)))
        kept += float(found[1][1].detach()) > 0
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * theirs.abs().max().item())
    assert kept > 10


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=needs_compiler), False])
@pytest.mark.parametrize("bad", [(1.0, math.inf), (-math.inf, -1.0), (-math.inf, math.inf), (-1e30, 2e30)])
def test_a_layer_that_is_dropped_adds_nothing_to_any_gradient(monkeypatch, compiled, bad):
    monkeypatch.setattr(loader, "LARGE", 0 if compiled else 1 << 40)
    layers = random_layers(4, torch.float32, bad)
    ends = [end for one in layers for end in (one.lower, one.upper)]
    relu = REGULARISER.terms(RADIUS, layers).relu
    others = by_autograd(REGULARISER, RADIUS, layers[1:])[1]
    torch.testing.assert_close(relu, others * 2 / 3)
    assert relu > 0
    found, expected = (torch.autograd.grad(one, ends, materialize_grads=True) for one in (relu, others * 2 / 3))
    assert not any(bool(grad.any()) for grad in found[:2])
    torch.testing.assert_close(found[2:], expected[2:], rtol=1e-4, atol=1e-6)
    total = REGULARISER.terms(RADIUS, layers)
    assert all(bool(grad.isfinite().all()) for grad in torch.autograd.grad(total.tight + total.relu, ends))


def test_the_gradient_also_goes_through_the_mean_of_the_centres():
    bounds = layer((3.0, 5.0), (-1.0, 1.0), (-2.0, -0.1), (-1.5, -0.5))  # no bound at 0, where neurons change sides
    radius = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    run = lambda r, low, high: REGULARISER.terms(r, [PreActivation("", low, high)])  # noqa: E731
    assert torch.autograd.gradcheck(run, (radius, bounds.lower, bounds.upper))


def test_a_spread_that_is_small_beside_the_mean_keeps_its_digits():
    draw = torch.Generator().manual_seed(0)
    centre = torch.cat([1000 + torch.randn(4, 50_000, generator=draw), torch.full((4, 1), -2.0)], 1)
    bounds = [PreActivation("", *((centre + side * 0.5).to(dtype) for side in (-1, 1))) for dtype in DTYPES]
    one, two = (REGULARISER.terms(RADIUS, [bound]).relu for bound in bounds)
    assert one.item() == pytest.approx(two.item(), rel=1e-5)


def test_a_network_without_relu_has_nothing_to_regularise():
    assert [term.item() for term in REGULARISER.terms(RADIUS, [])] == [0, 0]


def test_the_input_radius_is_measured_after_the_normalisation_and_within_the_range():
    x = torch.tensor([[[[0.5]], [[0.95]]]])  # the second channel's box is [0.85, 1.0]: radius 0.075
    network = nn.Sequential(Normalize([0.5, 0.5], [0.5, 0.25], (2, 1, 1)), nn.Flatten(), nn.Linear(2, 2))
    threat = threat_of(eps=0.1)
    assert normalised_radius(network, x, threat).item() == pytest.approx((0.1 / 0.5 + 0.075 / 0.25) / 2)
    assert normalised_radius(network[1:], x, threat).item() == pytest.approx((0.1 + 0.075) / 2)
    free = threat_of(eps=0.1, lower=None, upper=None)
    assert normalised_radius(network[1:], x, free).item() == pytest.approx(0.1)


@pytest.mark.parametrize("make", [lambda: ShiRegulariser(-0.5), lambda: ShiRegulariser(0.5, tolerance=0.0)])
def test_mistakes_are_named(make):
    with pytest.raises(UserError, match="regulariser"):
        make()


def test_balance_is_about_activations_with_a_kink_only():
    kinked, smooth = layer(*TILTED), layer(*BALANCED)._replace(kink=False)
    both, one = REGULARISER.terms(RADIUS, [kinked, smooth]), REGULARISER.terms(RADIUS, [kinked])
    assert both.relu.item() == one.relu.item() > 0
    alone = REGULARISER.terms(RADIUS, [smooth])
    assert alone.relu.item() == 0
    assert both.tight.item() == pytest.approx((one.tight.item() + alone.tight.item()) / 2)
