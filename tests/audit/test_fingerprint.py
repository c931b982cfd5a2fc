"""The true (n, alpha) is always among the consistent ones; with enough rows the wrong ones are not."""

import numpy as np
import pytest
from field_logs import simulate
from hypothesis import given, settings
from hypothesis import strategies as st

from certtrain.audit.fingerprint import ALPHAS, DRAWS, fingerprint, guess_sigma, levels, off_ladder, rounded_up
from certtrain.audit.ladder import Ladder, printed


def texts(made, form="{:.3}"):
    return [form.format(float(radius)) for radius in made.radius]


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(DRAWS),
    st.sampled_from(ALPHAS),
    st.sampled_from([0.12, 0.25, 0.5, 1.0]),
    st.integers(1, 300),
    st.integers(0, 1000),
    st.sampled_from(["{:.3}", "{:.4f}", "{!r}", "{:.2f}"]),
)
def test_the_true_setting_is_never_excluded(n, alpha, sigma, rows, seed, form):
    made = simulate(n, alpha, sigma, rows, seed=seed)
    found = fingerprint(printed(texts(made, form)), sigma, draws=(n, 100_000), alphas=(alpha, 0.001))
    assert any(c.likely and c.ladder.n == n and c.ladder.level == alpha for c in found)


@pytest.mark.parametrize(
    ("n", "alpha", "sigma"), [(100_000, 0.01, 0.25), (10_000, 0.001, 1.0), (1_000, 0.001, 0.25), (100, 0.05, 0.5)]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_with_500_rows_only_the_true_one_is_left(n, alpha, sigma, seed):
    made = simulate(n, alpha, sigma, 500, seed=seed)
    found = [c for c in fingerprint(printed(texts(made)), sigma) if c.likely]
    assert [(c.ladder.n, c.ladder.level) for c in found] == [(n, alpha)]
    assert guess_sigma(printed(texts(made))) == sigma


def test_in_full_precision_few_rows_are_enough():
    made = simulate(100_000, 0.001, 0.5, 20)
    found = [c for c in fingerprint(printed(texts(made, "{!r}")), 0.5) if c.likely]
    assert [(c.ladder.n, c.ladder.level) for c in found] == [(100_000, 0.001)]


def test_two_sided_at_alpha_is_one_sided_at_half():
    assert {0.001 / 2, 0.005 / 2, 0.1, 0.05} <= set(levels())
    made = simulate(10_000, 0.0005, 1.0, 500)
    [best] = [c for c in fingerprint(printed(texts(made)), 1.0) if c.likely]
    assert str(best) == "n = 10,000, alpha = 0.0005 one-sided or 0.001 two-sided (cap 3.1709)"


def test_a_log_of_another_procedure_fits_none():
    made = simulate(100_000, 0.001, 0.5, 300)
    made.radius = made.radius * 1.2
    found = fingerprint(printed(texts(made)), 0.5, draws=(1_000, 10_000, 100_000))
    assert not any(c.consistent for c in found)
    assert found[0].held < found[0].of


def test_no_guess_where_no_cap_is_seen():
    made = simulate(100_000, 0.001, 0.5, 30, shape=(50, 30))
    assert guess_sigma(printed(texts(made))) is None
    assert guess_sigma(printed(["0.0"])) is None


def test_off_the_ladder_and_rounded_up():
    made = simulate(1_000, 0.001, 0.25, 400)
    shown, ladder = printed(texts(made)), Ladder(1_000, 0.001, 0.25)
    as_printed = [float(text) for text in texts(made)]
    assert not off_ladder(made.radius * 0, shown, ladder).any()
    up = sum(text > radius + 1e-9 for text, radius in zip(as_printed, made.radius))
    rows, excess = rounded_up(shown, ladder)
    assert 0.9 * up < rows <= up  # next to 0 a printed radius can have two sources, and is not judged
    assert 0 < excess <= max(t - r for t, r in zip(as_printed, made.radius)) + 1e-9
    assert rounded_up(printed(texts(made, "{!r}")), ladder) == (0, 0.0)


@pytest.mark.parametrize("form", ["{:.3}", "{:.2f}", "{!r}"])
@pytest.mark.parametrize(
    ("n", "alpha", "sigma"),
    [(100_000, 0.001, 0.5), (100_000, 0.001, 0.25), (10_000, 0.001, 0.5), (100_000, 0.005, 1.0)],
)
def test_a_pile_at_the_largest_radius_is_the_cap(n, alpha, sigma, form):
    """A classifier as good as MNIST's: a third of its images get all votes. Two decimals leave several ladders."""
    made = simulate(n, alpha, sigma, 500, shape=(6.0, 0.2))
    shown = printed(texts(made, form))
    assert shown.rows[-1] >= 0.05 * 500
    best = fingerprint(shown, sigma)[0]
    assert (best.ladder.n, best.ladder.level, best.pile) == (n, alpha, 1.0)
    assert best.likely


def test_how_well_a_pile_is_explained_by_hand():
    """n = 100, level 0.1: from 0, 1 and 2 misses come 2.0, 1.7665 and 1.6161. Of three rows that show the second at
    most ((1 - 1 + 1) / (1 + 1))^3 is a log's chance to show no row with the first."""
    ladder = Ladder(100, 0.1, 1.0)
    radii = [f"{float(ladder.radius(votes)):.4f}" for votes in (97, 98, 99)]
    shown = printed([radii[0], radii[1]] + 3 * [radii[2]])
    cap = Ladder(100, 0.5, 1.0)  # is too low for these radii, and is no candidate
    [found] = fingerprint(shown, 1.0, draws=(100,), alphas=(0.1,))[:1]
    assert found.ladder == ladder
    from certtrain.audit.fingerprint import _log_pile_chance

    assert _log_pile_chance(ladder, shown) == pytest.approx(3 * np.log(1 / 2))
    assert _log_pile_chance(ladder, printed(radii[:2])) == pytest.approx(np.log(1 / 3))
    assert _log_pile_chance(cap, printed([f"{cap.cap:.4f}"])) == 0
