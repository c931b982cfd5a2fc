"""Only what may be compared stands side by side, and no number is rounded in the claimant's favour."""

from fractions import Fraction

import pytest
from claims import L2_BOUNDS
from hypothesis import given, settings
from hypothesis import strategies as st

from certtrain.reporting.entries import acr_text, floored, grid, groups, label, percent, smoothed_accuracy, upper_bound


def test_certifiers_are_grouped_by_examples_and_norm_and_sorted(bounds, smoothing):
    [together, alone] = groups(bounds | smoothing)
    assert [entry["certifier"] for entry in together] == ["ibp", "crown_ibp", "crown"]
    assert alone == [smoothing["test_smoothing"]]
    for key, value in (("indices_sha256", "c" * 64), ("claim", L2_BOUNDS.to_dict()), ("n", 500)):
        moved = {**bounds, "test_ibp": {**bounds["test_ibp"], key: value}}
        assert sorted(len(group) for group in groups(moved)) == [1, 2], key


def test_acr_of_two_families_never_meets(bounds, smoothing):
    same = {**smoothing["test_smoothing"], "n": 10_000, "indices_sha256": "a" * 64}
    assert all(len({"acr" in entry for entry in group}) == 1 for group in groups({**bounds, "s": same}))


@pytest.mark.parametrize(
    ("certifier", "text"),
    [("ibp", "IBP"), ("crown_ibp", "CROWN-IBP"), ("ibp+alpha_crown", "IBP+α-CROWN"), ("a_new_one", "a_new_one")],
)
def test_labels(certifier, text):
    assert label({"certifier": certifier}) == text


def test_grid_is_exact_and_ascending(bounds):
    assert grid(list(bounds.values())) == [
        (Fraction(2, 255), "2/255"),
        (Fraction(1, 10), "0.1"),
        (Fraction(3, 10), "0.3"),
    ]


def test_the_least_attacked_accuracy_bounds_every_certifier():
    assert upper_bound([{"pgd": {"0.1": 0.9}}, {"pgd": {"0.1": 0.8, "0.2": 0.5}}, {}]) == {"0.1": 0.8, "0.2": 0.5}


def test_smoothed_accuracy_is_certified_accuracy_at_zero():
    assert smoothed_accuracy({"certified": {"0": 0.7, "0.1": 0.6}, "clean": 0.8}) == 0.7
    assert smoothed_accuracy({"certified": {"0.1": 0.6}, "clean": 0.8}) == 0.8


def test_percent():
    assert [percent(x) for x in (0.8472, 1.0, 0.99996, 0.0, None)] == ["84.72", "100.00", "99.99", "0.00", "–"]


@settings(deadline=None)
@given(st.floats(0, 100), st.integers(0, 6))
def test_floored_never_exceeds_the_value(value, digits):
    text = floored(value, digits)
    assert 0 <= Fraction(repr(value)) - Fraction(text) < Fraction(1, 10**digits)
    assert "E" not in text


def test_an_average_radius_has_one_text_wherever_it_stands():
    """0.6909 of a table was 0.690 in a legend."""
    assert [acr_text(value) for value in (0.6909, 0.69099, 0.5, 1.0)] == ["0.6909", "0.6909", "0.5000", "1.0000"]
