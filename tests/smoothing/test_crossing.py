"""The exact crossing probability, against the sum over every single sequence of votes."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from certtrain.smoothing.crossing import START, advance, crossing_probability, spending_boundary, tails


def enumerated(draws, critical, p):
    """The sum over all 2^n sequences."""
    total = 0.0
    for votes in itertools.product((0, 1), repeat=draws[-1]):
        counts = np.cumsum(votes)
        if any(counts[n - 1] >= c for n, c in zip(draws, critical)):
            total += p ** counts[-1] * (1 - p) ** (len(votes) - counts[-1])
    return total


@st.composite
def looks(draw):
    steps = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4).filter(lambda s: sum(s) <= 10))
    draws = np.cumsum(steps).tolist()
    return draws, [draw(st.integers(0, n + 1)) for n in draws]


@settings(max_examples=60, deadline=None)
@given(looks(), st.floats(0.01, 0.99))
def test_every_sequence_of_votes(boundary, p):
    draws, critical = boundary
    truth, found = enumerated(draws, critical, p), crossing_probability(draws, critical, p)
    assert truth * (1 - 1e-12) <= found <= truth * (1 + 1e-7) + 1e-25


@settings(max_examples=40, deadline=None)
@given(looks(), st.floats(0.01, 0.98), st.floats(0.001, 0.02))
def test_it_grows_with_p(boundary, p, step):
    assert crossing_probability(*boundary, p) <= crossing_probability(*boundary, p + step) * (1 + 1e-7) + 1e-25


def test_one_look_is_a_binomial_tail():
    for n, c, p in ((100, 60, 0.5), (100_000, 99_901, 0.99865), (1_000_000, 501_600, 0.5)):
        assert crossing_probability([n], [c], p) == pytest.approx(binom.sf(c - 1, n, p), rel=1e-6)
    assert crossing_probability([10], [11], 0.9) < 1e-20
    assert crossing_probability([10], [0], 0.1) == 1.0


def test_the_mass_stays_a_distribution():
    paths = START
    for draws in (32, 100, 4000, 90_000):
        paths = advance(paths, draws, 0.97)
    assert float(paths.mass.sum()) + paths.lost == pytest.approx(1.0, abs=1e-10)
    assert paths.lost < 1e-20
    assert (np.diff(tails(paths)) <= 0).all()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=6),
    st.floats(0.5, 0.999),
    st.floats(1e-6, 0.2),
    st.floats(0, 0.9),
)
def test_spending_stays_below_its_limits_and_wastes_none_at_the_end(steps, p, alpha, early):
    draws = np.cumsum(steps).tolist()
    spend = [alpha * early * (i + 1) / len(draws) for i in range(len(draws) - 1)] + [alpha]
    critical = spending_boundary(draws, spend, p)
    for look in range(1, len(draws) + 1):
        assert crossing_probability(draws[:look], critical[:look], p) <= spend[look - 1] + 1e-25
    # No count is reached at the last look above this one by paths that crossed no boundary before.
    most = min([draws[-1], *(count - 1 + draws[-1] - draw for count, draw in zip(critical[:-1], draws[:-1]))])
    assert crossing_probability(draws, (*critical[:-1], min(critical[-1] - 1, most)), p) > alpha


@pytest.mark.parametrize("draws", [[], [0, 5], [5, 5], [7, 3]])
def test_looks_must_ascend(draws):
    with pytest.raises(ValueError, match="do not ascend"):
        crossing_probability(draws, [1] * len(draws), 0.5)


def test_as_many_boundaries_as_looks():
    with pytest.raises(ValueError, match="2 critical counts for 1 looks"):
        crossing_probability([5], [1, 2], 0.5)
    with pytest.raises(ValueError, match=r"p = 1\.5"):
        crossing_probability([5], [1], 1.5)
