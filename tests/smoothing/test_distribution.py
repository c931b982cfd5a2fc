"""Noises: today's Gaussian bits, and uniform noise against exact probabilities."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from certtrain.smoothing.confidence import radius_one_sided
from certtrain.smoothing.distribution import Gaussian
from certtrain.smoothing.noise import noise_rows
from certtrain.smoothing.uniform import Uniform

INDEX, DRAW = torch.tensor([3, 3, 2**40]), torch.tensor([0, 7, 7])


def rows(noise, index=INDEX, draw=DRAW, shape=(3, 5), seed=1, purpose="estimate", split="test"):
    return noise.rows(seed, purpose, split, index, draw, shape)


def test_gaussian_noise_and_radii_are_what_they_were():
    assert torch.equal(rows(Gaussian(0.25)), noise_rows(1, "estimate", "test", INDEX, DRAW, (3, 5), 0.25))
    count = np.arange(0, 1001)
    for new, old in zip(Gaussian(0.5).one_sided(count, 1000, 0.001), radius_one_sided(count, 1000, 0.001, 0.5)):
        assert np.array_equal(new, old)


def overlap(low, high, centre, width):
    """The probability that centre + noise lies in [low, high], exactly up to rounding."""
    return max(0.0, min(high, centre + width) - max(low, centre - width)) / (2 * width)


unit = st.floats(-1, 1)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(unit, unit, unit, unit), min_size=1, max_size=4), st.floats(0.05, 1))
def test_no_box_loses_more_probability_than_the_radius_allows(sides, sigma):
    """A classifier that answers its class inside a box: at distance d its probability is at least p - d / (2 width)."""
    width = Uniform(sigma).width
    here = there = 1.0
    for one, other, centre, change in sides:
        low, high = sorted((one, other))
        here *= overlap(low, high, centre, width)
        there *= overlap(low, high, centre + change, width)
    distance = sum(abs(change) for *_, change in sides)
    assert here - distance / (2 * width) - 1e-12 <= there <= here + distance / (2 * width) + 1e-12
    if here > 0.5 and distance < float(Uniform(sigma).radius(np.array(here))):
        assert there > 0.5 - 1e-12


@given(st.floats(0.51, 1), st.floats(0.05, 2))
def test_the_radius_is_that_of_the_worst_classifier(p, sigma):
    """A threshold on one coordinate: its probability falls to 1/2 exactly at the radius, which is rounded down."""
    noise = Uniform(sigma)
    threshold = noise.width * (1 - 2 * p)  # P(noise > threshold) = p
    radius = float(noise.radius(np.array(p)))
    at = overlap(threshold, 9e9, -radius, noise.width)
    assert 0.5 - 1e-12 <= at <= 0.5 + 1e-9
    assert radius <= noise.width


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.05, 2))
def test_two_classes_tie_at_the_radius_between_them(one, other, sigma):
    """One at the end of a line that the change moves away from, one at the other end: no pair is worse."""
    p_a, p_b = max(one, other), min(one, other)
    noise = Uniform(sigma)
    radius = float(noise.between(np.array(p_a), np.array(p_b)))
    above, below = noise.width * (1 - 2 * p_a), noise.width * (2 * p_b - 1)
    near = overlap(above, 9e9, -radius, noise.width) - overlap(-9e9, below, -radius, noise.width)
    assert -1e-12 <= near <= 1e-9
    half = float(noise.between(np.array(p_a), np.array(1 - p_a))) if p_a >= 0.5 else None
    assert half is None or half == pytest.approx(float(noise.radius(np.array(p_a))), abs=1e-12)


def test_two_sided_claims_are_wrong_no_more_often_than_alpha():
    """4,000 certificates of three classes, of which the selected one is barely the most probable."""
    noise, p, n, alpha = Uniform(0.5), np.array([0.45, 0.35, 0.2]), 200, 0.05
    counts = np.random.default_rng(1).multinomial(n, p, 4000)
    found = noise.two_sided(counts[:, 0], counts[:, 1:].max(axis=1), 3, n, alpha)
    true = float(noise.between(p[0], p[1]))
    wrong = int((found.radius > true).sum())
    assert wrong <= binom.isf(1e-6, 4000, alpha)
    assert (found.radius > 0).any()
    alone = noise.one_sided(counts[:, 0], n, alpha)  # whose every radius is wrong: the probability is below 1/2
    assert int((alone.radius > 0).sum()) <= binom.isf(1e-6, 4000, alpha)


def test_claims_are_wrong_no_more_often_than_alpha():
    """5,000 certificates of the worst classifier, whose true radius is known."""
    noise, p, n, alpha = Uniform(0.5), 0.7, 200, 0.05
    counts = np.random.default_rng(0).binomial(n, p, 5000)
    found = noise.one_sided(counts, n, alpha)
    wrong = int((found.radius > float(noise.radius(np.array(p)))).sum())
    assert 0 < wrong <= binom.isf(1e-6, 5000, alpha)
    assert not found.radius[found.abstain].any()
