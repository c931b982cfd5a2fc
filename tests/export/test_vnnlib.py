"""The box of a property lies between the exact ball and what our proofs cover; the text says what was meant."""

import itertools
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vnnlib_reader import read_vnnlib

from certtrain.export.vnnlib import box_text, decimal_box, decimal_boxes, property_text
from certtrain.threat import threat_of
from certtrain.threat.scales import Scales

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
    text = property_text([decimal_box(x, radius)], 0, 2)
    (box,), _ = read_vnnlib(text)
    lower, upper = threat_of("linf", radius, outward=True).box(x.double()[None])
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
    (box,), _ = read_vnnlib(property_text([decimal_box(x, radius, scales=scales)], 0, 2))
    lower, upper = threat_of("linf", radius, outward=True, scales=scales).box(x.double()[None])
    for value, size, (low, high), a, b in zip(x.tolist(), sizes, box, lower[0].tolist(), upper[0].tolist()):
        assert Fraction(a) <= low <= max(Fraction(value) - radius * size, 0)
        assert min(Fraction(value) + radius * size, 1) <= high <= Fraction(b)
        if not size:
            assert low == high == Fraction(value)  # in full: nothing to round


@st.composite
def tables(draw):
    """A row, its scales, and the places of columns of words among its numbers, whose own category may be none."""
    widths = draw(st.lists(st.integers(2, 3), min_size=1, max_size=2))
    order = draw(st.permutations(range(sum(widths) + 2)))
    numbers, rest = order[:2], iter(order[2:])
    groups = tuple((f"c{i}", tuple(next(rest) for _ in range(width))) for i, width in enumerate(widths))
    sizes, x = [Fraction(0)] * len(order), [0.0] * len(order)
    for place in numbers:
        x[place] = draw(st.floats(0, 1, width=32))
    sizes[numbers[0]] = draw(st.sampled_from([Fraction(1, 7), Fraction(1)]))
    for _, places in groups:
        if draw(st.booleans()) or draw(st.booleans()):
            x[draw(st.sampled_from(places))] = 1.0
    names = tuple(f"f{i}" for i in range(len(order)))
    return torch.tensor(x), Scales(names, tuple(sizes), (0,) * len(order), groups=groups)


def inside(point, box):
    return all(low <= value <= high for value, (low, high) in zip(point, box, strict=True))


@settings(max_examples=150, deadline=None)
@given(tables(), radii)
def test_several_boxes_are_those_whose_union_the_threat_model_is(table, radius):
    x, scales = table
    boxes, satisfied = read_vnnlib(property_text(decimal_boxes(x, radius, scales=scales), 0, 2))
    proofs = []
    for part, one in threat_of("linf", radius, outward=True, scales=scales).parts(x.double()[None]):
        lower, upper = (end[0].tolist() for end in one.box(part))
        proofs.append([(Fraction(low), Fraction(high)) for low, high in zip(lower, upper)])
    free = [place for _, places in scales.groups for place in places]
    rest = [place for place in range(len(x)) if place not in free]
    codes = lambda box: tuple(box[place] for place in free)  # noqa: E731
    assert sorted(map(codes, boxes)) == sorted(set(map(codes, proofs)))  # each combination once, no other
    assert len(boxes) <= 1 + int(np.prod([len(places) for _, places in scales.groups]))
    ball = [(max(v - radius * w, 0), min(v + radius * w, 1)) for v, w in zip(map(Fraction, x.tolist()), scales.values)]
    for box in boxes:
        (proof,) = {tuple(one) for one in proofs if codes(one) == codes(box)}
        assert all(low == high and low in (0, 1) for low, high in codes(box))
        for place in rest:
            assert proof[place][0] <= box[place][0] <= ball[place][0]
            assert ball[place][1] <= box[place][1] <= proof[place][1]
    # Every corner with every pattern of zeros and ones: of the file's set exactly where it is of the threat model's.
    for code in itertools.product((Fraction(0), Fraction(1)), repeat=len(free)):
        for corner in itertools.product(*(ball[place] for place in rest)):
            point = [Fraction(0)] * len(x)
            for place, value in [*zip(free, code), *zip(rest, corner)]:
                point[place] = value
            assert any(inside(point, box) for box in boxes) == any(inside(point, proof) for proof in proofs)
    assert satisfied([0, 0])
    assert not satisfied([1, 0])


def test_several_boxes_by_hand():
    scales = Scales(("a", "c=x", "c=y"), (Fraction(1), Fraction(0), Fraction(0)), (0, 0, 0), groups=(("c", (1, 2)),))
    boxes = decimal_boxes(torch.tensor([0.5, 1.0, 0.0]), Fraction(1, 4), scales=scales)
    text = property_text(boxes, 1, 2)
    assert "(assert (or\n    (and (>= X_0 0.249999970197) (<= X_0 0.750000029803) (>= X_1 1.0) (<= X_1 1.0) " in text
    assert text.count("X_0") == 5  # declared once; bounded in both boxes, the own category's once
    with pytest.raises(ValueError, match="several boxes, not one: see decimal_boxes"):
        decimal_box(torch.tensor([0.5, 1.0, 0.0]), Fraction(1, 4), scales=scales)


def test_true_neighbours_of_a_grey_level_are_inside():
    """In float32 alone, 10 of the 254 grey levels lose a neighbour at 2/255."""
    levels = torch.arange(256, dtype=torch.float32) / 255
    for level, (low, high) in enumerate(decimal_box(levels, Fraction(2, 255))):
        for other in range(max(0, level - 2), min(255, level + 2) + 1):
            assert low <= Fraction(other, 255) <= high
            assert low <= Fraction(float(levels[other])) <= high


def test_the_text_by_hand():
    text = property_text([decimal_box(torch.tensor([0.0, 0.5]), Fraction(1, 4))], 1, 3, ["hello"])
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
