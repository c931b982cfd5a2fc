"""Votes in stages: draws for the examples that are still open, until a schedule has decided every target."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from certtrain.errors import UserError
from certtrain.smoothing.anytime import Decisions, StageSchedule
from certtrain.smoothing.distribution import Gaussian
from certtrain.smoothing.noise import Purpose, Split
from certtrain.system.work import part

if TYPE_CHECKING:
    from certtrain.smoothing.classifier import SmoothedClassifier

ABSTAIN = -1
SELECT_AND_ESTIMATE: tuple[Purpose, Purpose] = ("select", "estimate")


class CertifiedTargets(NamedTuple):
    """The answer for target radii; all (B,).

    Attributes:
        predict: the class, or -1 = ABSTAIN.
        radius: float64, the largest target that the certified radius was shown to reach; 0 where it abstains.
        count_top, count_runner_up, p_lower, invalid, near_ties, top: as in `Certified`, of the draws that were made;
            p_lower is the probability that the reached target asks for, 0 where it abstains.
        draws: estimation draws that were made.
        stage: the look that reached the target, from 1; 0 for none.
        stage_counts: per example the cumulative votes for the top class at each look.
    """

    predict: NDArray[np.int64]
    radius: NDArray[np.float64]
    count_top: NDArray[np.int64]
    count_runner_up: NDArray[np.int64]
    p_lower: NDArray[np.float64]
    invalid: NDArray[np.bool_]
    near_ties: NDArray[np.int64]
    top: NDArray[np.int64]
    draws: NDArray[np.int64]
    stage: NDArray[np.int64]
    stage_counts: list[list[int]]


def certify_targets(
    classifier: SmoothedClassifier,
    x: Tensor,
    index: Tensor,
    schedule: StageSchedule,
    n0: int,
    seed: int,
    split: Split,
    purposes: tuple[Purpose, Purpose],
) -> CertifiedTargets:
    """What `SmoothedClassifier.certify_targets` answers."""
    check_draw_counts(n0, schedule.draws[-1], schedule.alpha)
    check_streams(purposes)
    if not isinstance(classifier.noise, Gaussian):
        raise ValueError(f"a schedule's levels are those of Gaussian noise, not of {classifier.noise.law}")
    if schedule.sigma != classifier.sigma:
        raise ValueError(f"a schedule for sigma {schedule.sigma}, the classifier has {classifier.sigma}")
    with part(0, 0):
        selection = classifier.votes(x, index, range(n0), seed=seed, purpose=purposes[0], split=split)
    top = selection.counts.cpu().numpy().argmax(axis=1)
    invalid = selection.invalid.cpu().numpy().copy()
    decisions, examples = Decisions(schedule, len(x)), np.arange(len(x))
    decisions.open &= ~invalid
    counts = np.zeros((len(x), classifier.num_classes), dtype=np.int64)
    draws, near_ties = np.zeros(len(x), dtype=np.int64), np.zeros(len(x), dtype=np.int64)
    stage_counts: list[list[int]] = [[] for _ in examples]
    before = 0
    for stage, total in enumerate(schedule.draws):
        rows = np.flatnonzero(decisions.open)
        if not len(rows):
            break
        chosen = torch.as_tensor(rows, device=x.device)
        with part(before / schedule.draws[-1], total / schedule.draws[-1]):
            votes = classifier.votes(
                *(x[chosen], index[chosen.to(index.device)], range(before, total)),
                **{"seed": seed, "purpose": purposes[1], "split": split},
            )
        before = total
        counts[rows] += votes.counts.cpu().numpy()
        draws[rows], near_ties[rows] = total, near_ties[rows] + votes.near_ties.cpu().numpy()
        seen = counts[rows, top[rows]]
        for row, count in zip(rows, seen.tolist()):
            stage_counts[row].append(count)
        decisions.look(stage, rows, seen)
        # What was claimed before such a draw is withdrawn, too: a network that fails is not certified.
        broken = votes.invalid.cpu().numpy()
        invalid[rows] |= broken
        decisions.open[rows[broken]] = False
    abstain = (decisions.claimed < 0) | invalid
    target = np.maximum(decisions.claimed, 0)
    others = counts.copy()
    others[examples, top] = -1
    return CertifiedTargets(
        predict=np.where(abstain, ABSTAIN, top),
        radius=np.where(abstain, 0.0, np.array([float(t) for t in schedule.targets])[target]),
        count_top=counts[examples, top],
        count_runner_up=others.max(axis=1) if len(counts) else top,
        p_lower=np.where(abstain, 0.0, np.array(schedule.levels)[target]),
        invalid=invalid,
        near_ties=near_ties,
        top=top,
        draws=draws,
        stage=np.where(abstain, 0, decisions.stage),
        stage_counts=stage_counts,
    )


def check_streams(purposes: tuple[Purpose, Purpose]) -> None:
    """Refuse to estimate from the draws that chose the class.

    Raises:
        UserError: one stream for both.
    """
    if purposes[0] == purposes[1]:
        raise UserError(
            f"selection and estimation both from the stream {purposes[0]!r}", where="purposes", fix="two streams"
        )


def sensible_n0(n: object) -> int:
    """Draws that choose the class well enough beside n that estimate: the field's 100, of fewer than 1,000 a tenth."""
    return max(1, min(100, n // 10)) if isinstance(n, int) else 100


def check_draw_counts(n0: int, n: int, alpha: float) -> None:
    """Refuse numbers of draws and a confidence that make no certificate.

    Raises:
        UserError: n0 or n not a whole number >= 1, alpha outside (0, 1).
    """
    for name, value, such_as in (("n", n, 1000), ("n0", n0, sensible_n0(n))):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(
                f"{name} = {value!r} draws", where=name, fix=f"a whole number >= 1, such as {name}={such_as}"
            )
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 < alpha < 1:
        raise UserError(f"alpha = {alpha!r} is not in (0, 1)", where="alpha", fix="alpha=0.001")
