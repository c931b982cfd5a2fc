"""Attempts to break what randomized smoothing claims, where the truth is known.

Failures of a certificate are counted and compared with what alpha allows: the tests fail when that many failures would
happen with probability below 1e-6. The noise is keyed, so that each test has one outcome.
"""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import binom, norm
from torch import nn

from certtrain.smoothing.classifier import ABSTAIN, SmoothedClassifier
from certtrain.smoothing.confidence import lower_bound, radius, radius_two_sided, upper_bound


def allowed(trials, alpha):
    """The most failures of `trials` certificates that bad luck explains."""
    return int(binom.isf(1e-6, trials, alpha))


@pytest.mark.parametrize("alpha", [0.1, 0.001])
@pytest.mark.parametrize("n", [1, 7, 100, 1000])
def test_clopper_pearson_covers_every_probability_exactly(n, alpha):
    """P(bound on the wrong side of p) <= alpha, summed over the binomial distribution, at and between its steps."""
    k = np.arange(n + 1)
    low, high = lower_bound(k, n, alpha), upper_bound(k, n, alpha)
    steps = np.concatenate([low, np.nextafter(low, 0), high, np.linspace(0, 1, 101)]).clip(0, 1)
    for p in steps:
        weights = binom.pmf(k, n, p)
        assert weights[low > p].sum() <= alpha * (1 + 1e-9)
        assert weights[high < p].sum() <= alpha * (1 + 1e-9)


def test_coverage_is_not_bought_by_being_useless():
    k = np.arange(1001)
    worst = max(
        binom.pmf(k, 1000, p)[lower_bound(k, 1000, 0.05) > p].sum() for p in lower_bound(k[1:], 1000, 0.05) - 1e-9
    )
    assert worst > 0.0499


def test_two_sided_holds_where_the_naive_runner_up_fails():
    """p = (.6, .19, .21): the runner-up of 100 selection draws is often class 1, whose probability is below class 2's.

    Bounding that class alone gives radii that are too large much more often than alpha.
    """
    generator = np.random.default_rng(0)
    p, trials, n, alpha = np.array([0.6, 0.19, 0.21]), 4000, 100_000, 0.01
    truth = radius(0.6, 0.21, 1.0)
    selection = generator.multinomial(100, p, trials)
    estimation = generator.multinomial(n, p, trials)
    runner_up = 1 + selection[:, 1:].argmax(1)
    naive = radius(
        lower_bound(estimation[:, 0], n, alpha / 2),
        upper_bound(estimation[np.arange(trials), runner_up], n, alpha / 2),
        1.0,
    )
    assert (naive > truth).mean() > 0.3
    ours = radius_two_sided(estimation, np.zeros(trials, int), alpha, 1.0)
    assert (ours.radius > truth).sum() <= allowed(trials, alpha)
    assert not ours.abstain.any()
    assert ours.radius.mean() > 0.95 * truth


def test_two_sided_failures_stay_below_alpha_at_a_coarse_alpha():
    """With few draws and alpha = .2 a bound that forgot a factor would show."""
    generator = np.random.default_rng(1)
    for p in ([0.5, 0.3, 0.2], [0.4, 0.2, 0.2, 0.2], [0.6, 0.4], [0.34, 0.33, 0.33]):
        counts = generator.multinomial(40, p, 20_000)
        found = radius_two_sided(counts, np.zeros(len(counts), int), 0.2, 1.0)
        truth = radius(p[0], max(p[1:]), 1.0) * (1 + 1e-9)
        assert (found.radius > truth).sum() <= allowed(len(counts), 0.2)


@pytest.mark.parametrize("two_sided", [False, True])
def test_radius_of_a_linear_classifier_is_never_exceeded_beyond_alpha(two_sided):
    """sign(w x + b) under any sigma has the smoothed radius |w x + b| / |w|: the theorem is tight there."""
    generator = torch.Generator().manual_seed(0)
    trials, d, alpha, sigma = 1500, 5, 0.05, 0.5
    w, b = torch.randn(d, generator=generator), 0.1
    layer = nn.Linear(d, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([torch.zeros(d), w]))
        layer.bias.copy_(torch.tensor([0.0, b]))
    x = torch.rand(trials, d, generator=generator) - 0.5
    signed = (x.double() @ w.double() + b) / w.double().norm()
    g = SmoothedClassifier(layer, sigma, 2, batch_size=100_000)
    found = g.certify(x, torch.arange(trials), n0=20, n=200, alpha=alpha, two_sided=two_sided)
    truth, predict = signed.abs().numpy(), (signed > 0).long().numpy()
    certified = found.predict != ABSTAIN
    wrong = certified & ((found.predict != predict) | (found.radius > truth * (1 + 1e-6)))
    assert wrong.sum() <= allowed(trials, alpha)
    assert certified.mean() > 0.3
    reached = (found.radius / truth)[certified & (truth < sigma)]
    assert np.median(reached) > 0.6  # not sound by being useless


@pytest.mark.parametrize("n0", [1, 100])
def test_a_step_function_is_not_certified_beyond_its_true_radius(n0):
    """f = 1 inside |x| < a: g's region around 0 ends where P(|x + noise| < a) = 1/2, known to any precision."""
    a, sigma, alpha, trials = 0.5, 0.4, 0.05, 2000

    class Band(nn.Module):
        def forward(self, x):
            inside = (x[:, 0].abs() < a).float()
            return torch.stack([1 - inside, inside], 1)

    def inside(z):
        return norm.cdf((a - z) / sigma) - norm.cdf((-a - z) / sigma)

    edge = brentq(lambda z: inside(z) - 0.5, 0, 3)
    x = torch.linspace(-1.2, 1.2, trials)[:, None]
    found = SmoothedClassifier(Band(), sigma, 2, batch_size=200_000).certify(
        x, torch.arange(trials), n0=n0, n=300, alpha=alpha
    )
    z = x[:, 0].abs().double().numpy()
    true_class, truth = (z < edge).astype(int), np.abs(z - edge)
    certified = found.predict != ABSTAIN
    wrong = certified & ((found.predict != true_class) | (found.radius > truth + 1e-9))
    assert wrong.sum() <= allowed(trials, alpha)
    assert certified.mean() > 0.5


def test_reusing_the_selection_draws_would_be_caught():
    """Among 50 equal classes, the winner of few draws looks certain in those very draws, and in fresh ones does not."""

    class Pixels(nn.Module):
        def forward(self, x):
            return x

    trials, alpha = 500, 0.05
    g = SmoothedClassifier(Pixels(), 1.0, 50, batch_size=100_000)
    found = g.certify(torch.zeros(trials, 50), torch.arange(trials), n0=3, n=30, alpha=alpha)
    assert (found.predict == ABSTAIN).all()
    assert found.p_lower.max() < 0.5
    assert (found.p_lower > 1 / 50).sum() <= allowed(trials, alpha)
    reused = g.votes(torch.zeros(trials, 50), torch.arange(trials), range(30), seed=0, purpose="select", split="test")
    biased = lower_bound(reused.counts.max(1).values.numpy(), 30, alpha)
    assert (biased > 1 / 50).sum() > allowed(trials, alpha)


def test_an_attack_inside_the_certified_ball_never_changes_the_smoothed_answer():
    """The smoothed class, estimated with many fresh draws on the sphere of radius .999 R, stays the certified one."""
    torch.manual_seed(3)
    network = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)
    g = SmoothedClassifier(network, 0.25, 3, batch_size=100_000)
    x = torch.rand(40, 2)
    found = g.certify(x, torch.arange(40), n=2000, alpha=0.001)
    angles = torch.linspace(0, 2 * math.pi, 13)[:-1]
    circle = torch.stack([angles.cos(), angles.sin()], 1)
    certified = np.flatnonzero(found.predict != ABSTAIN)
    assert len(certified) > 10
    for i in certified:
        attacks = x[i] + 0.999 * float(found.radius[i]) * circle
        votes = g.votes(attacks, torch.arange(12), range(4000), seed=9, purpose="selftest", split="test").counts
        share = votes[:, found.predict[i]] / votes.sum(1)
        assert share.min() > 0.5 - 4 * math.sqrt(0.25 / 4000)
