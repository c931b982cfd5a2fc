"""Shi's regularisers on bounds made by hand, and against a direct reading of the definition."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from certtrain.bounds import PreActivation
from certtrain.errors import UserError
from certtrain.methods import ShiRegulariser
from certtrain.methods.regularisers import normalised_radius
from certtrain.models.normalize import Normalize
from certtrain.threat import ThreatModel

REGULARISER = ShiRegulariser(0.5)
RADIUS = torch.tensor(0.3)


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


def test_a_network_without_relu_has_nothing_to_regularise():
    assert [term.item() for term in REGULARISER.terms(RADIUS, [])] == [0, 0]


def test_the_input_radius_is_measured_after_the_normalisation_and_within_the_range():
    x = torch.tensor([[[[0.5]], [[0.95]]]])  # the second channel's box is [0.85, 1.0]: radius 0.075
    network = nn.Sequential(Normalize([0.5, 0.5], [0.5, 0.25], (2, 1, 1)), nn.Flatten(), nn.Linear(2, 2))
    threat = ThreatModel(eps=0.1)
    assert normalised_radius(network, x, threat).item() == pytest.approx((0.1 / 0.5 + 0.075 / 0.25) / 2)
    assert normalised_radius(network[1:], x, threat).item() == pytest.approx((0.1 + 0.075) / 2)
    free = ThreatModel(eps=0.1, lower=None, upper=None)
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
