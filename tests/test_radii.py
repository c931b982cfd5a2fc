"""Exact radii with one text each."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certtrain.errors import UserError
from certtrain.radii import float_up, parse_radii, parse_radius, radius_key, radius_text


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
