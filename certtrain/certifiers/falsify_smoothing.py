"""Attacks smoothed certificates inside their sets, and tests with fresh draws what the attack found."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binom
from torch import Tensor, nn

from certtrain.certificates import Certificates
from certtrain.certificates.falsification import Counterexample, Falsification, Progress, silent
from certtrain.data.batch import Batch
from certtrain.models.evaluation import frozen
from certtrain.smoothing.classifier import SmoothedClassifier
from certtrain.smoothing.distribution import Noise
from certtrain.smoothing.noise import Split
from certtrain.system import work

ATTACK_DRAWS = 8  # noise draws behind each gradient
SCREEN, RETEST = 1_000, 20_000  # draws that look for a hit, fresh draws that must confirm it
SUSPECT, CONFIRMED = 0.01, 1e-7
CHANCE = 1e-6
# The stream `selftest`, whose draws no certificate sees: where the attack, the screening and the retest draw from.
SCREEN_START, RETEST_START = 1 << 29, 1 << 30


def falsify_smoothing(
    classifier: SmoothedClassifier,
    batch: Batch,
    certificates: Certificates,
    *,
    alpha: float,
    two_sided: bool,
    seed: int,
    split: Split,
    steps: int,
    progress: Progress = silent,
) -> Falsification:
    """An attack in the style of SmoothAdv (Salman et al. 2019) on each certified example, inside its certified set.

    The attack descends `log mean_i softmax_y(f(x' + noise_i))` with fresh draws of the classifier's noise at each step,
    as the noise's threat model moves. A certificate by one-sided bounds says `p_y(x') >= 1/2` in its set, a two-sided
    one `p_y(x') >= p_j(x')`: where some draws at x' speak against that, fresh ones are drawn, and what they reject at
    level 1e-7 is a hit.

    Each certificate may be wrong with probability alpha: up to the 1 - 1e-6 quantile of Binomial(attacked, alpha) hits
    are allowed. The margin of a hit is the estimate of `p_y(x') - 1/2`, or of `(p_y - p_j) / (p_y + p_j)`.

    Args:
        classifier: the network smoothed as when it was certified, under a noise whose threat model has moves.
        batch: the examples.
        certificates: their rows, in the batch's order; those without a certificate are passed over.
        alpha: probability with which one certificate may be wrong.
        two_sided: how the radii were bounded.
        seed, split: the noise's key.
        steps: of the attack.
        progress: told how many certified examples have been attacked.

    Raises:
        ValueError: rows that are not those of the batch.
    """
    if certificates.index.tolist() != batch.index.tolist():
        raise ValueError("the certificates are not those of the batch")
    rows = np.flatnonzero(certificates.correct & (certificates.radius > 0))
    size = max(1, classifier.batch_size // ATTACK_DRAWS)
    noise = {"seed": seed, "split": split}
    hits: list[Counterexample] = []
    suspects = 0
    for at in range(0, len(rows), size):
        part = rows[at : at + size]
        where = torch.as_tensor(part, device=batch.y.device)
        examples = Batch(batch.x[where], batch.y[where], batch.index[where])
        radius = certificates.radius[part]
        reach = torch.as_tensor(radius).to(batch.x)
        end = min(1, (at + size) / len(rows))
        with work.part(at / len(rows), end):
            points = smoothed_attack(classifier.network, examples, reach, classifier.noise, steps=steps, **noise)
        with work.part(end, end):
            found = _refuted(classifier, examples, points, radius, two_sided, noise)
        suspects += found[0]
        hits += found[1]
        progress(min(at + size, len(rows)))
    settings = {
        "name": "gradient descent on the smoothed log-probability, in the style of SmoothAdv",
        "steps": steps,
        "draws_per_step": ATTACK_DRAWS,
        "ball": f"{classifier.noise.threat.symbol}, at the certified radius, not clipped to the input range",
        "screening": {"draws": SCREEN, "level": SUSPECT, "suspects": suspects},
        "retest": {"draws": RETEST, "level": CONFIRMED},
        "allowed": f"quantile 1 - {CHANCE:g} of Binomial(attacked, {alpha:g})",
    }
    allowed = int(binom.isf(CHANCE, len(rows), min(1.0, alpha + CONFIRMED))) if len(rows) else 0
    return Falsification(len(rows), tuple(hits), allowed, settings)


def _refuted(
    classifier: SmoothedClassifier,
    examples: Batch,
    points: Tensor,
    radius: NDArray[np.float64],
    two_sided: bool,
    noise: dict[str, Any],
) -> tuple[int, list[Counterexample]]:
    """How many points were suspect, and the hits among them."""
    x, y, index = examples
    distances = classifier.noise.threat.distance(points.double() - x.double()).tolist()

    def p_values(chosen: Tensor, start: int, draws: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        numbers = range(start, start + draws)
        votes = classifier.votes(points[chosen], index[chosen], numbers, purpose="selftest", **noise)
        counts = votes.counts.cpu().numpy()
        return against(counts, y[chosen].cpu().numpy(), draws, two_sided), counts

    everyone = torch.arange(len(y), device=x.device)
    suspect = np.flatnonzero(p_values(everyone, SCREEN_START, SCREEN)[0] <= SUSPECT)
    if not len(suspect):
        return 0, []
    values, counts = p_values(torch.as_tensor(suspect, device=x.device), RETEST_START, RETEST)
    hits = []
    for i, value, votes in zip(suspect.tolist(), values.tolist(), counts):
        if value > CONFIRMED:
            continue
        label = int(y[i])
        margin = _margin(votes, label, two_sided)
        place = (int(index[i]), label, int(votes.argmax()), float(radius[i]), distances[i], margin)
        facts = {"votes": votes.tolist(), "p_value": value}
        hits.append(Counterexample(*place, points[i].cpu().numpy(), facts))
    return len(suspect), hits


def smoothed_attack(
    network: nn.Module,
    examples: Batch,
    radius: Tensor,
    noise: Noise,
    *,
    seed: int,
    split: Split,
    steps: int,
) -> Tensor:
    """(B, ...) points within `radius` (B,) of x, in the noise's threat model, where the smoothed probability of y is
    small; the input range does not limit them, because it does not limit what smoothing claims.

    A network whose output has no gradient is attacked along random directions.
    """
    x, y, index = examples
    rows = torch.arange(len(x), device=x.device).repeat_interleave(ATTACK_DRAWS)
    draws = torch.arange(ATTACK_DRAWS, device=x.device).repeat(len(x))
    with contextlib.ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
            x, y, radius = x.clone(), y.clone(), radius.clone()
        stack.enter_context(frozen(network))
        stack.enter_context(torch.enable_grad())
        moves = replace(noise.threat, eps=radius, lower=None, upper=None).moves(x)
        point = x
        for step in range(steps):
            work.tell(step / steps)
            at = draws + step * ATTACK_DRAWS
            drawn = noise.rows(seed, "selftest", split, index[rows], at, x.shape[1:]).to(x.dtype)
            point = point.detach().requires_grad_()
            logits = network(point[rows] + drawn)
            if logits.requires_grad:
                log_p = logits.log_softmax(1).gather(1, y[rows, None])[:, 0].reshape(len(x), ATTACK_DRAWS)
                (gradient,) = torch.autograd.grad(log_p.logsumexp(1).sum(), point)
            else:
                gradient = drawn.reshape(len(x), ATTACK_DRAWS, *x.shape[1:])[:, 0]
            # The first step reaches the boundary from the centre; what is well inside is the weaker attack.
            length = 2 * moves.eps / max(1, steps) * (steps if step == 0 else 1)
            point = moves.project(point.detach() - length * moves.direction(gradient))
    return point.detach()


def against(counts: NDArray[np.int64], y: NDArray[np.int64], draws: int, two_sided: bool) -> NDArray[np.float64]:
    """How strongly (B, K) votes speak against the claim for class y: p-values (B,) of a binomial test.

    One-sided certificates claim `p_y >= 1/2`: `P(Binomial(draws, 1/2) <= votes for y)`. Two-sided ones claim that no
    other class is more probable: the same among the votes for y and for the strongest other class, times K - 1
    (Bonferroni).
    """
    rows = np.arange(len(y))
    mine = counts[rows, y]
    if not two_sided:
        return binom.cdf(mine, draws, 0.5)
    others = counts.copy()
    others[rows, y] = -1
    p = binom.cdf(mine, mine + others.max(axis=1), 0.5) * (counts.shape[1] - 1)
    return np.minimum(p, 1.0)


def _margin(votes: NDArray[np.int64], label: int, two_sided: bool) -> float:
    if not two_sided:
        return float(votes[label] / max(1, votes.sum())) - 0.5
    other = np.delete(votes, label).max()
    return float((votes[label] - other) / max(1, votes[label] + other))
