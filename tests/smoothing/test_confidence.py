"""Confidence bounds against exact binomial tails, and the numbers of the papers."""

import math

import mpmath
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from certtrain.smoothing.confidence import (
    lower_bound,
    radius,
    radius_one_sided,
    radius_two_sided,
    upper_bound,
    vote_is_decided,
)


def upper_tail(n, k, p):
    """P(Binomial(n, p) >= k), to 40 digits: the terms by their ratio, until they vanish."""
    with mpmath.workdps(50):
        p = mpmath.mpf(p)
        term = mpmath.binomial(n, k) * p**k * (1 - p) ** (n - k)
        total, odds = term, p / (1 - p)
        for i in range(k, n):
            term *= odds * (n - i) / (i + 1)
            total += term
            if i > n * p and term < total * mpmath.mpf(10) ** -40:
                break
        return total


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_bounds_never_err_to_the_unsound_side_and_are_tight(data):
    n = data.draw(st.integers(1, 300))
    k = data.draw(st.integers(0, n))
    alpha = data.draw(st.sampled_from([0.5, 0.05, 0.001, 1e-6, 1e-12]))
    low, high = float(lower_bound(k, n, alpha)), float(upper_bound(k, n, alpha))
    assert 0 <= low <= k / n <= high <= 1 or alpha == 0.5
    if k:
        assert upper_tail(n, k, low) <= alpha
        assert upper_tail(n, k, low * (1 + 1e-10)) > alpha
    if k < n:
        assert upper_tail(n, n - k, 1 - mpmath.mpf(high)) <= alpha
        assert upper_tail(n, n - k, 1 - mpmath.mpf(high) * (1 - 1e-10)) > alpha


@pytest.mark.parametrize("alpha", [0.001, 1e-7])
@pytest.mark.parametrize(
    ("n", "k"), [(10_000, 5156), (100_000, 50_490), (100_000, 99_990), (100_000, 3), (10**6, 7 * 10**5)]
)
def test_bounds_with_many_draws(n, k, alpha):
    low = float(lower_bound(k, n, alpha))
    assert upper_tail(n, k, low) <= alpha < upper_tail(n, k, low * (1 + 1e-10))


@pytest.mark.parametrize("alpha", [0.05, 0.001, 1e-9])
@pytest.mark.parametrize("k", [0, 1, 2, 20])
@pytest.mark.parametrize("n", [10**6, 10**7, 10**8])
def test_a_small_upper_bound_of_very_many_draws(n, k, alpha):
    high = float(upper_bound(k, n, alpha))
    with mpmath.workdps(40):
        p = mpmath.mpf(high)
        assert sum(mpmath.binomial(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1)) <= alpha


def test_bounds_at_the_ends():
    assert lower_bound(0, 100, 0.001) == 0
    assert upper_bound(100, 100, 0.001) == 1
    assert lower_bound(100, 100, 0.001) == pytest.approx(0.001**0.01, rel=1e-11)
    assert upper_bound(0, 100, 0.001) == pytest.approx(1 - 0.001**0.01, rel=1e-11)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 2000), st.sampled_from([0.05, 0.001]))
def test_bounds_grow_with_the_count(n, alpha):
    k = np.arange(n + 1)
    assert (np.diff(lower_bound(k, n, alpha)) > 0).all()
    assert (np.diff(upper_bound(k, n, alpha)) > 0).all()
    assert lower_bound(k, n, alpha)[-1] < 1
    np.testing.assert_allclose(lower_bound(k, n, alpha), 1 - upper_bound(n - k, n, alpha), atol=1e-11)


@pytest.mark.parametrize("bad", [(-1, 10), (11, 10), (math.nan, 10), (math.inf, 10), (0.5, 10), (0, 0), (1, math.nan)])
def test_impossible_counts_are_errors(bad):
    for bound in (lower_bound, upper_bound):
        with pytest.raises(ValueError, match="counts"):
            bound(*bad, 0.001)
    with pytest.raises(ValueError, match="counts"):
        radius_one_sided([5, bad[0]], bad[1], 0.001, 0.5)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, math.nan])
def test_impossible_alpha_and_sigma(alpha):
    with pytest.raises(ValueError, match="alpha"):
        lower_bound(1, 10, alpha)
    for sigma in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="sigma"):
            radius_one_sided(99, 100, 0.01, sigma)
        with pytest.raises(ValueError, match="sigma"):
            radius_two_sided([[99, 1]], [0], 0.01, sigma)


def test_radius_of_the_design():
    assert radius(0.90, 0.05, 0.5) == pytest.approx(0.7316, abs=5e-5)
    assert radius(0.90, 0.05, 0.5) < 0.25 * (scipy.stats.norm.ppf(0.90) - scipy.stats.norm.ppf(0.05))


@pytest.mark.parametrize(("z", "draws"), [(1, 40), (2, 301), (3, 5114)])
def test_fewest_draws_that_all_agree(z, draws):
    assert radius_one_sided(draws, draws, 0.001, 1.0).radius >= z
    assert radius_one_sided(draws - 1, draws - 1, 0.001, 1.0).radius < z


@pytest.mark.parametrize(
    ("n", "fewest", "largest"), [(1000, 550, 2.4633), (10_000, 5156, 3.1986), (100_000, 50_490, 3.8115)]
)
def test_votes_needed_and_largest_radius(n, fewest, largest):
    few = radius_one_sided([fewest - 1, fewest], n, 0.001, 0.25)
    assert few.abstain.tolist() == [True, False]
    assert few.radius[0] == 0
    assert few.radius[1] > 0
    assert radius_one_sided(n, n, 0.001, 1.0).radius == pytest.approx(largest, abs=5e-5)


def test_one_sided_radius_is_rounded_down():
    k = np.arange(600, 1001)
    found = radius_one_sided(k, 1000, 0.001, 0.5)
    exact = 0.5 * scipy.stats.norm.ppf(scipy.stats.beta.ppf(0.001, k, 1001 - k))
    assert (found.radius < exact).all()
    assert (found.radius < 0.5 * scipy.stats.norm.ppf(found.p_lower)).all()
    np.testing.assert_allclose(found.radius, exact, rtol=1e-10)


def test_two_sided_bounds_every_other_class():
    counts = np.array([[600, 190, 210], [600, 400, 0], [340, 330, 330], [1000, 0, 0]])
    found = radius_two_sided(counts, [0, 0, 0, 0], 0.001, 1.0)
    p_a = lower_bound(600, 1000, 0.0005)
    p_b = min(1 - p_a, upper_bound(210, 1000, 0.001 / 4))
    assert found.radius[0] == pytest.approx(radius(p_a, p_b, 1.0), rel=1e-9)
    assert found.radius[0] > radius_one_sided(600, 1000, 0.001, 1.0).radius
    assert found.radius[1] == pytest.approx(radius(p_a, 1 - p_a, 1.0), rel=1e-9)
    assert found.abstain.tolist() == [False, False, True, False]
    assert found.radius[2] == 0
    assert found.p_lower[0] == p_a


def test_two_sided_certifies_a_class_below_one_half():
    counts = [[4500] + [550] * 10]
    assert radius_one_sided(4500, 10_000, 0.001, 1.0).abstain
    found = radius_two_sided(counts, [0], 0.001, 1.0)
    assert not found.abstain[0]
    assert found.radius[0] > 0.5


def test_two_sided_with_a_top_class_that_lost():
    found = radius_two_sided([[10, 990], [0, 1000]], [0, 0], 0.001, 1.0)
    assert found.abstain.all()
    assert (found.radius == 0).all()


def test_two_sided_refuses_what_makes_no_sense():
    with pytest.raises(ValueError, match="K >= 2"):
        radius_two_sided([[100]], [0], 0.001, 1.0)
    for top in ([2], [-1], [0, 1]):
        with pytest.raises(ValueError, match="top"):
            radius_two_sided([[60, 40]], top, 0.001, 1.0)
    with pytest.raises(ValueError, match="counts"):
        radius_two_sided([[60, math.nan]], [0], 0.001, 1.0)


def test_vote_is_decided_as_the_binomial_test_says():
    for high, low in [(60, 40), (99, 1), (50, 50), (5, 0), (11, 0), (10, 0), (530, 470), (1000, 0), (553, 447)]:
        expected = scipy.stats.binomtest(high, high + low, 0.5).pvalue <= 0.001
        assert vote_is_decided(high, low, 0.001) == expected, (high, low)
