"""Attempts to break what anytime certification claims: looking again and again must not cost more than alpha."""

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import nn

from certtrain.smoothing.anytime import Decisions, StageSchedule
from certtrain.smoothing.classifier import ABSTAIN, SmoothedClassifier
from certtrain.smoothing.confidence import lower_bound

ALPHA = 0.05


def allowed(trials, alpha):
    """The most failures of `trials` certificates that bad luck explains, but for one time in a million."""
    return int(binom.isf(1e-6, trials, alpha))


@pytest.fixture(scope="module")
def schedule():
    return StageSchedule.plan(["0.25", "0.5", "1"], sigma=0.5, n=10_000, alpha=ALPHA)


@pytest.mark.parametrize("target", [0, 1, 2, 3])
def test_false_claims_just_below_a_target_stay_below_alpha(schedule, target):
    """The worst case: p_A is as close below the level of a target as it gets; 20,000 examples, every draw counted."""
    trials, p = 20_000, schedule.levels[target] - 1e-12
    generator, decisions = np.random.default_rng(target), Decisions(schedule, 20_000)
    counts, before, peeking = np.zeros(trials, np.int64), 0, np.zeros(trials, bool)
    for stage, total in enumerate(schedule.draws):
        counts += generator.binomial(total - before, p, trials)
        before = total
        rows = np.flatnonzero(decisions.open)
        decisions.look(stage, rows, counts[rows])
        peeking |= lower_bound(counts, total, ALPHA) > p
    false = int((decisions.claimed >= target).sum())
    assert false <= allowed(trials, ALPHA)
    assert false > 0.5 * ALPHA * trials  # the boundary is not loose
    assert peeking.sum() > 2 * allowed(trials, ALPHA)  # a fixed-n bound looked at as often would have been caught


def test_any_number_of_targets_shares_one_alpha():
    """p_A below several targets at once: the claims are nested, so that the lowest false one counts."""
    schedule = StageSchedule.plan([r / 20 for r in range(1, 20)], sigma=0.5, n=5_000, alpha=ALPHA)
    trials, generator = 10_000, np.random.default_rng(5)
    for below in (3, 9, 15):
        decisions, counts, before = Decisions(schedule, trials), np.zeros(trials, np.int64), 0
        for stage, total in enumerate(schedule.draws):
            counts += generator.binomial(total - before, schedule.levels[below] - 1e-12, trials)
            before, rows = total, np.flatnonzero(decisions.open)
            decisions.look(stage, rows, counts[rows])
        assert (decisions.claimed >= below).sum() <= allowed(trials, ALPHA)
        assert (decisions.claimed == below - 1).mean() > 0.01


def test_radius_of_a_linear_classifier_is_never_exceeded_beyond_alpha():
    """sign(w x + b) has the smoothed radius |w x + b| / |w|: the theorem is tight there. End to end, keyed noise."""
    generator = torch.Generator().manual_seed(0)
    trials, d, sigma = 1500, 5, 0.5
    w, b = torch.randn(d, generator=generator), 0.1
    layer = nn.Linear(d, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([torch.zeros(d), w]))
        layer.bias.copy_(torch.tensor([0.0, b]))
    x = torch.rand(trials, d, generator=generator) - 0.5
    signed = (x.double() @ w.double() + b) / w.double().norm()
    schedule = StageSchedule.plan(["0.1", "0.2", "0.3", "0.4"], sigma=sigma, n=400, alpha=ALPHA)
    g = SmoothedClassifier(layer, sigma, 2, batch_size=100_000)
    found = g.certify_targets(x, torch.arange(trials), schedule, n0=20)
    truth, predict = signed.abs().numpy(), (signed > 0).long().numpy()
    certified = found.predict != ABSTAIN
    wrong = certified & ((found.predict != predict) | (found.radius > truth * (1 + 1e-6)))
    assert wrong.sum() <= allowed(trials, ALPHA)
    assert certified.mean() > 0.3
    assert set(np.unique(found.radius).tolist()) <= {0.0, 0.1, 0.2, 0.3, 0.4}
    assert len(np.unique(found.radius)) > 3
    assert (found.draws < 400).mean() > 0.1


def test_reusing_the_selection_draws_would_be_caught():
    """Among 50 equal classes the winner of few draws looks certain in those very draws: estimation never sees them."""

    class Pixels(nn.Module):
        def forward(self, x):
            return x

    g = SmoothedClassifier(Pixels(), 1.0, 50, batch_size=100_000)
    schedule = StageSchedule.plan(["0.1"], sigma=1.0, n=200, alpha=ALPHA)
    found = g.certify_targets(torch.zeros(300, 50), torch.arange(300), schedule, n0=3)
    assert (found.predict == ABSTAIN).all()
