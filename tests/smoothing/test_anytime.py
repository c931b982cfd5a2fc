"""A schedule is a proof: its boundaries are checked whenever it is made, and a row can be replayed under it."""

import itertools
import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr
from scipy.stats import binom

from certtrain.errors import UserError
from certtrain.radii import parse_radii
from certtrain.smoothing.anytime import Decisions, StageSchedule, fewest_draws, look_draws, target_level
from certtrain.smoothing.crossing import crossing_probability, spending_boundary

HALF = {"sigma": 0.5, "n": 100_000, "alpha": 0.001}


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.sampled_from(["0.1", "0.25", "0.5", "2/255", "0.75"]), min_size=1, max_size=4),
    st.sampled_from([0.25, 0.5, 1.0]),
    st.sampled_from([10_000, 30_001]),
    st.sampled_from([0.1, 0.001, 1e-6]),
    st.sampled_from([0.0, 0.3, 0.9]),
)
def test_no_claim_is_false_with_more_than_alpha(targets, sigma, n, alpha, early):
    draws = look_draws(n)
    spent = [alpha * early * (look + 1) / (len(draws) - 1) for look in range(len(draws) - 1)] + [alpha]
    least = [spending_boundary(draws, spent, target_level(t, sigma)) for t in parse_radii(["0", *targets])]
    if least[-1][-1] > n:
        with pytest.raises(UserError, match=f"{n} draws cannot show a radius"):
            StageSchedule.plan(targets, sigma=sigma, n=n, alpha=alpha, early=early)
        return
    schedule = StageSchedule.plan(targets, sigma=sigma, n=n, alpha=alpha, early=early)
    assert schedule.targets[0] == 0
    assert max(schedule.crossing) <= alpha
    assert (np.array(schedule.critical) == np.maximum.accumulate(np.array(least), axis=0)).all()
    for boundary, level in zip(least, schedule.levels):  # alpha is used: one vote less at the last look is too few
        assert crossing_probability(draws, (*boundary[:-1], boundary[-1] - 1), level) > alpha
    assert (np.diff(np.array(schedule.critical), axis=0) >= 0).all()
    assert schedule.draws[-1] == n
    assert StageSchedule.from_dict(json.loads(json.dumps(schedule.to_dict()))) == schedule


def test_levels_are_rounded_up():
    for radius, sigma in ((Fraction(0), 0.5), (Fraction(1), 0.5), (Fraction(2, 255), 0.12), (Fraction(19, 10), 0.5)):
        assert 0 <= target_level(radius, sigma) - ndtr(float(radius) / sigma) < 1e-9


def test_fewest_draws_of_the_field():
    """R/sigma = 1, 2, 3 and 4 at alpha .001 take 40, 301, 5,114 and 218,105 draws that all agree."""
    assert [fewest_draws(Fraction(r), 1.0, 0.001) for r in (1, 2, 3, 4)] == [40, 301, 5114, 218_105]
    assert fewest_draws(Fraction(8), 1.0, 0.001) is None  # more than a million million


def test_looks():
    assert look_draws(100_000)[:4] == (32, 40, 50, 63)
    for n in (1, 31, 32, 33, 1000, 100_000):
        draws = look_draws(n)
        assert draws[-1] == n
        assert all(a < b for a, b in itertools.pairwise(draws))
    with pytest.raises(UserError, match="n = 0 draws"):
        look_draws(0)


def test_a_target_out_of_reach_names_the_draws_that_reach_it():
    with pytest.raises(UserError, match=r"1000 draws cannot show a radius of 1\.5") as caught:
        StageSchedule.plan([0.5, 1.5], sigma=0.5, n=1000, alpha=0.001)
    n = int(str(caught.value).split("n=")[1].split(" ")[0])
    assert n >= 5114
    StageSchedule.plan([0.5, 1.5], sigma=0.5, n=n, alpha=0.001)


@pytest.mark.parametrize(("radius", "alpha"), [(5, 0.001), (4, 0.001), (0.5, 1e-40)])
def test_a_target_out_of_reach_of_any_number_of_draws(radius, alpha):
    with pytest.raises(UserError, match="1000 draws cannot show a radius") as caught:
        StageSchedule.plan([radius], sigma=0.5, n=1000, alpha=alpha)
    assert "smaller radii, or a larger sigma or alpha" in str(caught.value)


@pytest.mark.parametrize("early", [1.0, -0.1, True, "much"])
def test_early_is_a_share(early):
    with pytest.raises(UserError, match="early"):
        StageSchedule.plan([0.5], early=early, **HALF)


def lowered(row, place):
    numbers = [int(word) for word in row.split()]
    numbers[place] -= numbers[place] // 4
    return " ".join(map(str, numbers))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["critical"].__setitem__(1, lowered(c["critical"][1], 9)), "false claim has probability"),
        (lambda c: c["critical"].__setitem__(0, lowered(c["critical"][0], -1)), "false claim has probability"),
        (lambda c: c["critical"].reverse(), "lower boundary"),
        (lambda c: c.update(alpha=c["alpha"] / 2), "false claim has probability"),
        (lambda c: c.update(draws=c["draws"].rpartition(" ")[0]), "boundaries of"),
        (lambda c: c.update(draws=[32, 40]), "not a stage schedule"),
        (lambda c: c.update(targets=["0.5", "1"]), "ascend from 0"),
        (lambda c: c.update(alpha=0), "alpha = 0"),
        (lambda c: c.update(format=9), "format 9"),
        (lambda c: c.pop("critical"), "not a stage schedule"),
        (lambda c: c.update(targets=["0", "far"]), "not a stage schedule"),
    ],
)
def test_a_schedule_that_was_tampered_with_is_refused(change, message):
    content = StageSchedule.plan([0.5], **HALF).to_dict()
    change(content)
    with pytest.raises(ValueError, match=message):
        StageSchedule.from_dict(content)


def run(schedule, p, generator):
    """Claims, stages and draws for examples whose top classes have the probabilities p."""
    decisions = Decisions(schedule, len(p))
    counts, used, before = np.zeros(len(p), np.int64), np.zeros(len(p), np.int64), 0
    for stage, total in enumerate(schedule.draws):
        rows = np.flatnonzero(decisions.open)
        counts[rows] += generator.binomial(total - before, p[rows])
        used[rows], before = total, total
        decisions.look(stage, rows, counts[rows])
    assert not decisions.open.any()
    return decisions, used


@pytest.mark.parametrize("targets", [["0.5", "1"], ["0.5", "1", "1.5"]])
def test_far_fewer_draws_and_nearly_the_same_claims(targets):
    """R/sigma spread evenly over [-1, 5]: draws, and certified fractions against the fixed-n test of the same alpha."""
    schedule = StageSchedule.plan(targets, **HALF)
    p = np.repeat(ndtr(np.linspace(-1, 5, 1500)), 4)
    decisions, used = run(schedule, p, np.random.default_rng(0))
    assert HALF["n"] / used.mean() > (20 if len(targets) == 2 else 8)
    for position, level in enumerate(schedule.levels):
        fixed = binom.sf(binom.isf(HALF["alpha"], HALF["n"], level), HALF["n"], p).mean()
        assert abs((decisions.claimed >= position).mean() - fixed) < 0.002


def test_replay_is_what_happened():
    schedule = StageSchedule.plan(["0.5", "1"], **HALF)
    generator = np.random.default_rng(1)
    for p in (0.2, 0.5, 0.7, 0.85, 0.97, 0.99, 1.0):
        decisions, counts, before = Decisions(schedule, 1), [], 0
        for stage, total in enumerate(schedule.draws):
            if not decisions.open[0]:
                break
            counts.append((counts[-1] if counts else 0) + int(generator.binomial(total - before, p)))
            before = total
            decisions.look(stage, np.array([0]), np.array([counts[-1]]))
        found = schedule.replay(counts)
        assert (found.claimed, found.stage, found.finished) == (decisions.claimed[0], decisions.stage[0], True)
        assert schedule.replay(counts[:-1]).finished is False
        with pytest.raises(ValueError, match=r"all was decided before|looks, the schedule has"):
            schedule.replay([*counts, counts[-1]])
    assert schedule.replay([32]).claimed == 0


@pytest.mark.parametrize("counts", [[33], [-1], [20, 19], [20, 30]])
def test_counts_that_no_draws_give(counts):
    with pytest.raises(ValueError, match="cannot follow"):
        StageSchedule.plan([0.5], **HALF).replay(counts)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 99), max_size=5))
def test_counts_as_the_log_holds_them(counts):
    schedule = StageSchedule.plan([0.5], **HALF)
    text = schedule.counts_text(counts)
    assert schedule.read_counts(text) == counts
    assert len(text.split()) == len(counts)


@pytest.mark.parametrize("text", ["31", "31/33", "31/32 39/50", "a/32", "31/32/1"])
def test_texts_that_are_no_counts(text):
    with pytest.raises(ValueError, match=r"votes at the looks|invalid literal"):
        StageSchedule.plan([0.5], **HALF).read_counts(text)
