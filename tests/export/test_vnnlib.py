"""The box of a property lies between the exact ball and what our proofs cover; the text says what was meant."""

import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vnnlib_reader import read_vnnlib

from certtrain.export.vnnlib import box_text, decimal_box, property_text
from certtrain.scales import Scales
from certtrain.threat import ThreatModel

pixels = st.lists(
    st.one_of(st.floats(0, 1, width=32), st.integers(0, 255).map(lambda k: float(np.float32(k) / np.float32(255)))),
    min_size=1,
    max_size=8,
)
radii = st.one_of(
    st.fractions(0, 1, max_denominator=1000),
    st.integers(0, 255).map(lambda k: Fraction(k, 255)),
    st.sampled_from([Fraction(3, 10), Fraction(2, 255), Fraction(1, 10**15)]),
)


def exact_ball(values, radius):
    return [(max(Fraction(v) - radius, Fraction(0)), min(Fraction(v) + radius, Fraction(1))) for v in values]


@settings(max_examples=300, deadline=None)
@given(pixels, radii)
def test_ball_in_box_in_proof(values, radius):
    x = torch.tensor(values, dtype=torch.float32)
    text = property_text(decimal_box(x, radius), 0, 2)
    box, _ = read_vnnlib(text)
    lower, upper = ThreatModel("linf", radius, outward=True).box(x.double()[None])
    for (low, high), (least, most), a, b in zip(box, exact_ball(x.tolist(), radius), lower[0], upper[0]):
        assert low <= least
        assert most <= high
        assert Fraction(float(a)) <= low
        assert high <= Fraction(float(b))


@settings(max_examples=300, deadline=None)
@given(pixels, radii)
def test_read_in_single_precision_the_box_still_holds_the_ball(values, radius):
    x = torch.tensor(values, dtype=torch.float32)
    for (low, high), (least, most) in zip(decimal_box(x, radius), exact_ball(x.tolist(), radius)):
        assert Fraction(float(np.float32(box_text(low)))) <= least
        assert Fraction(float(np.float32(box_text(high)))) >= most


@settings(max_examples=200, deadline=None)
@given(
    pixels, radii, st.lists(st.sampled_from([0, Fraction(1, 7), Fraction(1), Fraction(3, 2)]), min_size=8, max_size=8)
)
def test_ball_in_box_in_proof_with_a_size_for_each_feature(values, radius, sizes):
    sizes = [Fraction(size) for size in sizes[: len(values)]]
    if not any(sizes):
        sizes[0] = Fraction(1)
    scales = Scales(tuple(f"f{i}" for i in range(len(sizes))), tuple(sizes), (0,) * len(sizes))
    x = torch.tensor(values, dtype=torch.float32)
    box, _ = read_vnnlib(property_text(decimal_box(x, radius, scales=scales), 0, 2))
    lower, upper = ThreatModel("linf", radius, outward=True, scales=scales).box(x.double()[None])
    for value, size, (low, high), a, b in zip(x.tolist(), sizes, box, lower[0].tolist(), upper[0].tolist()):
        assert Fraction(a) <= low <= max(Fraction(value) - radius * size, 0)
        assert min(Fraction(value) + radius * size, 1) <= high <= Fraction(b)
        if not size:
            assert low == high == Fraction(value)  # in full: nothing to round


def test_true_neighbours_of_a_grey_level_are_inside():
    """In float32 alone, 10 of the 254 grey levels lose a neighbour at 2/255."""
    levels = torch.arange(256, dtype=torch.float32) / 255
    for level, (low, high) in enumerate(decimal_box(levels, Fraction(2, 255))):
        for other in range(max(0, level - 2), min(255, level + 2) + 1):
            assert low <= Fraction(other, 255) <= high
            assert low <= Fraction(float(levels[other])) <= high


def test_the_text_by_hand():
    text = property_text(decimal_box(torch.tensor([0.0, 0.5]), Fraction(1, 4)), 1, 3, ["hello"])
    assert text == (
        "; hello\n\n(declare-const X_0 Real)\n(declare-const X_1 Real)\n\n(declare-const Y_0 Real)\n"
        "(declare-const Y_1 Real)\n(declare-const Y_2 Real)\n\n"
        "(assert (>= X_0 0.0))\n(assert (<= X_0 0.250000029803))\n"
        "(assert (>= X_1 0.249999970197))\n(assert (<= X_1 0.750000029803))\n\n"
        "(assert (or\n    (and (>= Y_0 Y_1))\n    (and (>= Y_2 Y_1))\n))\n"
    )


@given(st.integers(0, 10**12))
def test_numbers_are_written_exactly(k):
    value = Fraction(k, 10**12)
    assert Fraction(box_text(value)) == value
    assert re.fullmatch(r"\d+\.\d{1,12}", box_text(value))


@pytest.mark.parametrize("value", [Fraction(-1, 10), Fraction(1, 3)])
def test_numbers_that_would_be_rounded_are_refused(value):
    with pytest.raises(ValueError, match="decimal"):
        box_text(value)
