"""The largest radius by bisection: always one that was proved, also where bounds are not monotone."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from certtrain.certifiers.bisection import float_down, largest_proved

TOLERANCE = Fraction(1, 1000)


@given(st.lists(st.fractions(0, 1), min_size=1, max_size=5))
def test_finds_a_threshold_to_the_tolerance(thresholds):
    asked = []

    def prove(rows, eps):
        asked.extend(zip(rows, eps))
        return [e <= thresholds[i] for i, e in zip(rows, eps)]

    n = len(thresholds)
    found = largest_proved([Fraction(0)] * n, [Fraction(1)] * n, TOLERANCE, prove)
    for row, (radius, threshold) in enumerate(zip(found, thresholds)):
        assert threshold - TOLERANCE <= radius <= threshold
        assert radius == 0 or (row, radius) in asked


def test_a_bound_that_is_not_monotone_gives_a_radius_that_was_proved():
    def holds(eps):
        return eps < Fraction(1, 10) or Fraction(6, 10) < eps < Fraction(7, 10)

    proved = []

    def prove(rows, eps):
        proved.extend(e for e in eps if holds(e))
        return [holds(e) for e in eps]

    [found] = largest_proved([Fraction(0)], [Fraction(1)], TOLERANCE, prove)
    assert holds(found)
    assert found == max(proved)


def test_the_last_probe_that_was_proved_counts_and_none_below_a_failure_is_skipped():
    [found] = largest_proved(
        [Fraction(1, 10)], [Fraction(2, 10)], Fraction(1, 40), lambda rows, eps: [False] * len(rows)
    )
    assert found == Fraction(1, 10)


def test_nothing_to_search_is_left_as_it_is():
    def never(rows, eps):
        raise AssertionError

    assert largest_proved([Fraction(1, 3), Fraction(1, 2)], [None, Fraction(1, 4)], TOLERANCE, never) == [
        Fraction(1, 3),
        Fraction(1, 2),
    ]


@given(st.fractions(0, 2))
def test_rounded_down_by_at_most_an_ulp(value):
    down = Fraction(float_down(value))
    assert down <= value
    assert value - down <= Fraction(1, 2**52)
