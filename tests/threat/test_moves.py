"""Radii for attacks that refute: every point in the exact ball, in rational arithmetic."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from certtrain.attacks import inside
from certtrain.threat import threat_of


@settings(max_examples=60, deadline=None)
@given(st.fractions(0, 1, max_denominator=1000), st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_corners_lie_in_the_exact_ball(radius, values):
    x = torch.tensor([values], dtype=torch.float64)
    threat = threat_of("linf", torch.tensor([inside(radius)], dtype=torch.float64))
    ball = threat.moves(x)
    for corner in (ball.project(x - 9), ball.project(x + 9), ball.start(1, 0)):
        for a, b in zip(corner[0].tolist(), values):
            assert abs(Fraction(a) - Fraction(b)) <= radius
            assert 0 <= a <= 1


@pytest.mark.parametrize("radius", [Fraction(0), Fraction(1, 2**60), Fraction(1, 3), Fraction(2, 255)])
def test_the_inner_radius_is_no_larger_and_hardly_smaller(radius):
    assert 0 <= Fraction(inside(radius)) <= radius
    assert radius - Fraction(inside(radius)) <= Fraction(1, 2**51)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_gradient_that_is_no_number_leads_nowhere(norm):
    x = torch.full((2, 3), 0.5)
    ball = threat_of(norm, 0.1).moves(x)
    gradient = torch.tensor([[torch.nan] * 3, [torch.inf, -torch.inf, 1.0]])
    direction = ball.direction(gradient)
    assert torch.equal(direction, torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
