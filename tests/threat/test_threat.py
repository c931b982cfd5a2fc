"""The sets that radii describe."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from certtrain.errors import UserError
from certtrain.threat import L2Ball, threat_of


def test_a_float32_box_loses_true_neighbours_and_the_outward_one_none():
    """The measured fact behind outward rounding: 8-bit neighbours at 2/255 that a float32 box leaves out."""
    pixels = (torch.arange(256, dtype=torch.float64) / 255).float()
    lost = pixels[:-2] < threat_of(eps=Fraction(2, 255)).box(pixels[2:])[0]
    assert int(lost.sum()) == 10
    for k in (1, 2, 8):
        threat = threat_of(eps=Fraction(k, 255), outward=True)
        lower, upper = threat.box(pixels.double())
        for shift in range(-k, k + 1):
            inside = torch.arange(max(0, -shift), min(256, 256 - shift))
            moved = pixels[inside + shift].double()
            assert bool((moved >= lower[inside]).all())
            assert bool((moved <= upper[inside]).all())


def test_boxes_are_clipped_to_the_input_range_and_take_eps_per_example():
    x = torch.tensor([[0.05, 0.5], [0.95, 0.5]])
    lower, upper = threat_of(eps=torch.tensor([0.1, 0.2])).box(x)
    assert torch.allclose(lower, torch.tensor([[0.0, 0.4], [0.75, 0.3]]))
    assert torch.allclose(upper, torch.tensor([[0.15, 0.6], [1.0, 0.7]]))
    free = threat_of(eps=0.1, lower=None, upper=None).box(x)
    assert float(free[0].min()) < 0
    assert float(free[1].max()) > 1


def test_an_l2_ball_is_not_a_box_and_an_outward_box_wants_float64():
    assert isinstance(threat_of("l2", 0.1).region(torch.zeros(1, 2)), L2Ball)
    with pytest.raises(ValueError, match="float64"):
        threat_of(eps=0.1, outward=True).box(torch.zeros(1, 2))


@given(st.fractions(min_value=0, max_value=4, max_denominator=1000))
def test_an_outward_eps_is_never_below_the_exact_one_in_any_norm(radius):
    x = torch.zeros(1, 2, dtype=torch.float64)
    for norm in ("linf", "l2"):
        assert Fraction(float(threat_of(norm, radius, outward=True).eps_tensor(x))) >= radius


def test_unknown_norms_and_negative_eps_are_refused():
    with pytest.raises(UserError, match="l7"):
        threat_of("l7", 0.1)
    with pytest.raises(UserError, match=r"-0\.1"):
        threat_of(eps=-0.1)
