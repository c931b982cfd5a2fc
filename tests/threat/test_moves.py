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


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_gradient_that_is_no_number_leads_nowhere(norm):
    x = torch.full((2, 3), 0.5)
    ball = threat_of(norm, 0.1).moves(x)
    gradient = torch.tensor([[torch.nan] * 3, [torch.inf, -torch.inf, 1.0]])
    direction = ball.direction(gradient)
    assert torch.equal(direction, torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))


def test_l1_spends_its_radius_on_the_steepest_coordinates_that_have_room():
    x = torch.tensor([[0.1, 0.5, 0.9, 0.5]], dtype=torch.float64)
    gradient = torch.tensor([[3.0, 2.0, -1.0, 0.0]], dtype=torch.float64)  # descended: down, down, up
    corner = threat_of("l1", 0.4).moves(x).direction(gradient)
    assert torch.allclose(corner, torch.tensor([[0.25, 0.75, 0.0, 0.0]], dtype=torch.float64))
    corner = threat_of("l1", 5.0).moves(x).direction(gradient)  # wider than the room that there is
    assert torch.allclose(corner, torch.tensor([[1, 5, -1, 0]], dtype=torch.float64) / 7)
    free = threat_of("l1", 0.4, lower=None, upper=None).moves(x)
    assert torch.equal(free.direction(gradient), torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64))
    linear = (threat_of("l1", 0.4).moves(x).project(x - 0.4 * threat_of("l1", 0.4).moves(x).direction(gradient)) - x)[0]
    assert linear.tolist() == pytest.approx([-0.1, -0.3, 0, 0])
