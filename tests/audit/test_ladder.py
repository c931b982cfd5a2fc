"""The ladder of radii is CERTIFY's own radii, from both sides; rounding is read off a log."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from certtrain.audit.ladder import EXACT, Ladder, printed
from certtrain.smoothing.confidence import radius_one_sided

SETTINGS = st.tuples(st.sampled_from([100, 1_000, 100_000]), st.sampled_from([0.1, 0.01, 0.001, 5e-5]))


@pytest.mark.parametrize(("n", "cap"), [(1_000, 2.4633), (10_000, 3.1986), (100_000, 3.8115)])
def test_caps_of_the_design(n, cap):
    assert Ladder(n, 0.001, 1.0).cap == pytest.approx(cap, abs=5e-5)
    assert Ladder(n, 0.001, 0.5).cap == pytest.approx(cap / 2, abs=5e-5)


@given(SETTINGS, st.floats(0.51, 1.0), st.sampled_from([0.12, 0.5, 1.0]))
def test_count_inverts_the_certified_radius(setting, share, sigma):
    n, alpha = setting
    k = min(n, int(share * n) + 1)
    ladder, found = Ladder(n, alpha, sigma), radius_one_sided(k, n, alpha, sigma)
    if found.abstain or found.radius < 1e-6:
        return
    r = float(found.radius)
    assert ladder.radius(k) == pytest.approx(r, rel=EXACT)
    assert ladder.count(r * (1 - 1e-6)) == k
    assert ladder.count(r * (1 + 1e-6)) == k + 1
    assert ladder.holds(r * (1 - 1e-6), r * (1 + 1e-6))
    below = float(radius_one_sided(k - 1, n, alpha, sigma).radius)
    assert not ladder.holds(below + 0.25 * (r - below), below + 0.75 * (r - below))


def test_above_the_cap():
    ladder = Ladder(1_000, 0.001, 1.0)
    assert ladder.count([0.0, ladder.cap + 1e-6, 9.0]).tolist()[1:] == [1001, 1001]
    assert not ladder.holds(ladder.cap + 1e-6, 9.0)


def test_rounding_is_read_off():
    shown = printed(["1.91", "0.123", "0.0457", "0.0", "nan", "1.5", "0.5", "1.91"])
    assert shown.decimals == {0: 2, -1: 3, -2: 4}
    assert shown.radius.tolist() == [0.0457, 0.123, 0.5, 1.5, 1.91]
    assert shown.rows.tolist() == [1, 1, 1, 1, 2]
    assert shown.half.tolist() == pytest.approx([5e-5, 5e-4, 5e-4, 5e-3, 5e-3])
    assert printed(["0.5", "0.123456789012"]).exact
    assert printed(["1e-05", "2.5e-05"]).decimals == {-5: 6}
    assert not len(printed(["0.0", "-0.3"]).radius)


@given(st.floats(0.001, 9.0))
def test_a_printed_radius_lies_within_its_rounding(value):
    shown = printed([f"{value:.3}"])
    assert shown.low[0] <= value <= shown.high[0]


def test_all_between():
    shown = printed(["1.91", "0.123"])
    values, half = shown.all_between(0.995, 1.02)
    assert values == pytest.approx([1.0, 1.01, 1.02, 0.995, 0.996, 0.997, 0.998, 0.999])
    assert set(np.round(half, 6)) == {0.005, 0.0005}
