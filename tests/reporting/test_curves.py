"""Shares at every radius, by hand and against the definitions."""

from fractions import Fraction

import numpy as np
import pytest
from claims import SMOOTHED
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from certtrain.certificates import Certificates
from certtrain.certificates.summary import summarise
from certtrain.errors import UserError
from certtrain.radii import parse_radii
from certtrain.reporting.curves import Outcomes, curves, outcomes, parse_grid, sensible_radii, steps


def make(certificate, correct):
    n = len(certificate)
    return Outcomes(np.arange(n), np.zeros(n, int), np.array(certificate, float), np.array(correct, bool))


WORKED = make([0.10, 0.25, 0.00, 0.40, 0.18, -1], [1, 1, 0, 1, 1, 0])


def test_worked_example_of_the_design_with_an_abstention():
    five = make([0.10, 0.25, 0.00, 0.40, 0.18], [1, 1, 0, 1, 1])
    assert curves(five, [0.2]).certified.value.tolist() == [0.4]
    found = curves(WORKED, [0.0, 0.18, 0.3, 0.5])
    assert found.certified.k.tolist() == [4, 3, 1, 0]
    assert found.coverage.k.tolist() == [5, 3, 1, 0]
    assert found.selective.value.tolist()[:3] == [0.8, 1.0, 1.0]
    assert np.isnan(found.selective.value[3])
    assert (found.selective.low[3], found.selective.high[3]) == (0, 1)
    assert WORKED.abstained == 1
    assert steps(WORKED).tolist() == [0.0, 0.1, 0.18, 0.25, 0.4]


@given(st.lists(st.tuples(st.floats(-1, 3), st.booleans()), min_size=1, max_size=30), st.floats(0, 3))
def test_definitions(rows, radius):
    held = make([max(r, 0.0) if r >= 0 else -1.0 for r, _ in rows], [right and r >= 0 for r, right in rows])
    found = curves(held, [radius])
    covered = [right for r, right in zip(held.certificate, held.correct) if r >= radius]
    assert found.coverage.k[0] == len(covered)
    assert found.certified.k[0] == sum(covered)
    for share in (found.certified, found.coverage, found.selective):
        if share.n[0]:
            exact = binomtest(int(share.k[0]), int(share.n[0])).proportion_ci(0.95, "exact")
            assert (share.low[0], share.high[0]) == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_agrees_with_the_summary():
    rng = np.random.default_rng(0)
    predict = rng.integers(-1, 3, 200)
    radius = np.where(predict < 0, 0.0, rng.random(200))
    label = rng.integers(0, 3, 200)
    rows = Certificates(
        range(200), label, predict, radius, predict == label, np.zeros(200), {"count_top": np.ones(200, int)}
    )
    stated = summarise(rows, parse_radii([0, 0.25, 0.5]), SMOOTHED)
    examples = outcomes(rows)
    assert curves(examples, [0, 0.25, 0.5]).certified.value.tolist() == list(stated["certified"].values())
    assert examples.acr == stated["acr"]
    assert examples.abstained == stated["abstained"]


@pytest.mark.parametrize(("largest", "step", "count"), [(1.91, "1/4", 9), (0.616, "1/10", 8), (4.3, "1/2", 10)])
def test_sensible_radii(largest, step, count):
    radii = sensible_radii(largest)
    assert radii[0] == 0
    assert radii[1] == Fraction(step)
    assert len(radii) == count
    assert radii[-2] <= largest < radii[-1]


def test_no_radius_and_given_radii():
    assert sensible_radii(-1.0) == [0]
    assert parse_grid(["0.5,2/255", "0.25"]) == [Fraction(2, 255), Fraction(1, 4), Fraction(1, 2)]
    with pytest.raises(UserError, match="'x' is not a radius"):
        parse_grid(["x"])
    with pytest.raises(ValueError, match="no certificates"):
        curves(make([], []), [0.1])
