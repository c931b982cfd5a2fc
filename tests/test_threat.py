"""Exact radii and the sets they describe."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from certtrain.errors import UserError
from certtrain.threat import ThreatModel, float_up, parse_radii, parse_radius, radius_key, radius_text


@pytest.mark.parametrize(
    ("written", "exact", "text"),
    [
        ("2/255", Fraction(2, 255), "2/255"),
        ("3/255", Fraction(1, 85), "3/255"),
        ("0.30", Fraction(3, 10), "0.3"),
        ("3/10", Fraction(3, 10), "0.3"),
        (0.1, Fraction(1, 10), "0.1"),
        (1, Fraction(1), "1"),
        ("1e-3", Fraction(1, 1000), "0.001"),
        (0, Fraction(0), "0"),
        ("51/255", Fraction(1, 5), "0.2"),
        ("1/7", Fraction(1, 7), "1/7"),
    ],
)
def test_radii_are_exact_with_one_text(written, exact, text):
    assert parse_radius(written) == exact
    assert radius_text(exact) == text


@given(st.fractions(min_value=0, max_value=10, max_denominator=10_000))
def test_the_text_of_a_radius_reads_back_as_the_same_radius(radius):
    assert parse_radius(radius_text(radius)) == radius
    assert "/" not in radius_key(radius)


@pytest.mark.parametrize("bad", ["two", "-0.1", -1, "1/0", "nan", "inf", float("nan"), True, None, "", "2/255/3"])
def test_what_is_not_a_radius_is_refused_with_its_place(bad):
    with pytest.raises(UserError) as error:
        parse_radius(bad, where="configuration key eps")
    assert error.value.where == "configuration key eps"


@pytest.mark.parametrize("bad", [[], None, "0.1", 0.1, ["0.1", "x"]])
def test_grids_that_are_none_are_refused(bad):
    with pytest.raises(UserError):
        parse_radii(bad)


def test_a_grid_is_sorted_and_without_repetitions():
    assert parse_radii(["0.3", "2/255", 0.3, "3/10"]) == (Fraction(2, 255), Fraction(3, 10))


@given(st.fractions(min_value=0, max_value=4, max_denominator=1000))
def test_rounding_up_never_loses_a_radius(radius):
    assert Fraction(float_up(radius)) >= radius
    assert Fraction(math.nextafter(float_up(radius), -math.inf)) < radius


def test_a_float32_box_loses_true_neighbours_and_the_outward_one_none():
    """The measured fact behind outward rounding: 8-bit neighbours at 2/255 that a float32 box leaves out."""
    pixels = (torch.arange(256, dtype=torch.float64) / 255).float()
    lost = pixels[:-2] < ThreatModel(eps=Fraction(2, 255)).box(pixels[2:])[0]
    assert int(lost.sum()) == 10
    for k in (1, 2, 8):
        threat = ThreatModel(eps=Fraction(k, 255), outward=True)
        lower, upper = threat.box(pixels.double())
        for shift in range(-k, k + 1):
            inside = torch.arange(max(0, -shift), min(256, 256 - shift))
            moved = pixels[inside + shift].double()
            assert bool((moved >= lower[inside]).all())
            assert bool((moved <= upper[inside]).all())


def test_boxes_are_clipped_to_the_input_range_and_take_eps_per_example():
    x = torch.tensor([[0.05, 0.5], [0.95, 0.5]])
    lower, upper = ThreatModel(eps=torch.tensor([0.1, 0.2])).box(x)
    assert torch.allclose(lower, torch.tensor([[0.0, 0.4], [0.75, 0.3]]))
    assert torch.allclose(upper, torch.tensor([[0.15, 0.6], [1.0, 0.7]]))
    free = ThreatModel(eps=0.1, lower=None, upper=None).box(x)
    assert float(free[0].min()) < 0
    assert float(free[1].max()) > 1


def test_an_l2_ball_is_not_a_box_and_an_outward_box_wants_float64():
    with pytest.raises(ValueError, match="not l2"):
        ThreatModel("l2", 0.1).box(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="float64"):
        ThreatModel(eps=0.1, outward=True).box(torch.zeros(1, 2))


@given(st.fractions(min_value=0, max_value=4, max_denominator=1000))
def test_an_outward_eps_is_never_below_the_exact_one_in_any_norm(radius):
    x = torch.zeros(1, 2, dtype=torch.float64)
    for norm in ("linf", "l2"):
        assert Fraction(float(ThreatModel(norm, radius, outward=True).eps_tensor(x))) >= radius


def test_unknown_norms_and_negative_eps_are_refused():
    with pytest.raises(UserError, match="l1"):
        ThreatModel("l1", 0.1)
    with pytest.raises(UserError, match=r"-0\.1"):
        ThreatModel(eps=-0.1)
