"""Everything that is scheduled, as pure functions of the step: the number of completed optimiser steps.

Resuming needs nothing but the step, and a schedule can be plotted or tested without a network.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from certtrain.errors import UserError, nearest

RampShape = Literal["linear", "smoothed"]
LinkedTo = Literal["eps", "step"]
LearningRateKind = Literal["constant", "milestones", "cosine", "step_after_ramp"]


@dataclass(frozen=True)
class Ramp:
    """The rise of eps from 0 to its full value, after a natural warm-up.

    `linear` rises by the same amount each step. `smoothed` (Gowal et al. 2018; also Zhang et al. 2020, Xu et al. 2020)
    starts as a power and continues linearly, with a continuous slope where the two meet, at M = int(mid * length)
    steps after the start: with s steps since the start,

        s^power / (M^(power-1) (M + power (length - M)))   for s < M,
        (M + power (s - M)) / (M + power (length - M))     from there on.

    When M rounds to 0 (a ramp of a few steps), this is the linear ramp.

    Args:
        start: steps of natural training before the ramp; at this step the fraction is still 0.
        length: steps from fraction 0 to fraction 1; 0 jumps to 1 at `start`.
        shape: `linear` or `smoothed`.
        mid: smoothed: the share of the ramp that is a power, in (0, 1); 0.25 in all but Xu et al. (2020), who take 0.4.
        power: smoothed: its exponent, >= 1.

    Raises:
        UserError: a negative length or start, an unknown shape, mid or power out of their range.
    """

    start: int
    length: int
    shape: RampShape = "linear"
    mid: float = 0.25
    power: float = 4.0

    def __post_init__(self) -> None:
        _check_steps("the start of the ramp", self.start, "schedule.warmup")
        _check_steps("the length of the ramp", self.length, "schedule.ramp")
        _check_choice("shape of the ramp", self.shape, get_args(RampShape), "schedule.shape")
        if isinstance(self.mid, bool) or not isinstance(self.mid, (int, float)) or not 0 < self.mid < 1:
            raise UserError(f"mid = {self.mid!r} is not inside (0, 1)", where="schedule.mid", fix="schedule.mid=0.25")
        if not 1 <= self.power < math.inf:
            raise UserError(f"power = {self.power} is not >= 1", where="ramp.power", fix="power=4")

    @property
    def end(self) -> int:
        """The first step at full strength."""
        return self.start + self.length

    def progress(self, step: int) -> float:
        """The share of the ramp's steps that are done, in [0, 1]: linear in the step whatever the shape."""
        if step >= self.end:
            return 1.0
        return max(0, step - self.start) / self.length if self.length else 0.0

    def fraction(self, step: int) -> float:
        """eps at this step as a share of its full value, in [0, 1], never falling."""
        since, middle = step - self.start, int(self.mid * self.length)
        if self.shape == "linear" or middle == 0 or not 0 < since < self.length:
            return self.progress(step)
        whole = middle + self.power * (self.length - middle)
        if since < middle:
            return (since / middle) ** self.power * middle / whole
        return (middle + self.power * (since - middle)) / whole


@dataclass(frozen=True)
class Weight:
    """A weight in a convex combination, moving from `start` to `end` over the ramp.

    Linked to eps (Zhang et al. 2020): `start + eps_t/eps_max (end - start)`; with start = 1 this is their
    `(eps_max - eps_t (1 - end)) / eps_max`. Linked to the step (Gowal et al. 2018): linear in the step over the ramp.

    Args:
        start: the value before and at the start of the ramp, in [0, 1].
        end: the value from the ramp's end on, in [0, 1].
        by: `eps` or `step`. On a linear ramp they are the same.

    Raises:
        UserError: a value outside [0, 1] (bounds mixed with such a weight would not be bounds), or an unknown link.
    """

    start: float
    end: float
    by: LinkedTo = "eps"

    def __post_init__(self) -> None:
        _check_choice("link of a weight", self.by, get_args(LinkedTo), "method.kappa.by or method.beta.by")
        for name in ("start", "end"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise UserError(
                    f"a weight's {name} = {value!r} is not a number in [0, 1]",
                    where=f"method.kappa.{name} or method.beta.{name}",
                    fix="{start: 1.0, end: 0.5, by: eps}",
                )

    def at(self, step: int, ramp: Ramp) -> float:
        """The weight at this step, in [0, 1]."""
        share = ramp.fraction(step) if self.by == "eps" else ramp.progress(step)
        # In this form both ends are exact, and rounding cannot leave [0, 1].
        return self.start * (1 - share) + self.end * share


def as_weight(value: object, where: str) -> Weight:
    """The weight itself.

    Raises:
        UserError: it is none.
    """
    if not isinstance(value, Weight):
        raise UserError(f"{where} = {value!r} is not a weight", where=where, fix="{start: 1, end: 0.5, by: eps}")
    return value


@dataclass(frozen=True)
class LearningRate:
    """The factor of the learning rate as a function of the step.

    - `constant`: 1.
    - `milestones`: times `gamma` at each milestone. Counted as the papers (and MultiStepLR stepped after each epoch)
      count: a milestone of m epochs is m * steps_per_epoch, and the first step after m whole epochs has the lower rate.
    - `cosine`: `(1 + cos(pi step / total)) / 2`.
    - `step_after_ramp`: times `gamma` after each `every` steps, counted only from step `after`, the end of the ramp
      (Zhang et al. 2020, small and medium networks: gamma 0.5, every 10 epochs).

    Args:
        kind: one of the above.
        milestones: in steps, ascending.
        gamma: factor of each drop, in (0, 1].
        every: steps between two drops.
        after: the step from which `every` counts.
        total: steps of the whole training.

    Raises:
        UserError: an unknown kind; milestones missing, negative or out of order; gamma outside (0, 1]; a length <= 0
            that the kind needs.
    """

    kind: LearningRateKind = "constant"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    every: int = 1
    after: int = 0
    total: int = 1

    def __post_init__(self) -> None:
        _check_choice("learning-rate schedule", self.kind, get_args(LearningRateKind), "schedule.lr.kind")
        if not 0 < self.gamma <= 1:
            raise UserError(f"gamma = {self.gamma} is not in (0, 1]", where="schedule.lr.gamma", fix="gamma=0.1")
        for milestone in self.milestones:
            _check_steps("a milestone", milestone, "schedule.lr.milestones")
        if self.kind == "milestones" and (not self.milestones or list(self.milestones) != sorted(self.milestones)):
            raise UserError(
                f"milestones {list(self.milestones)} are not a list in ascending order with at least one entry",
                where="schedule.lr.milestones",
                fix="milestones=[50,60], in epochs, or kind=constant",
            )
        _check_steps("the end of the ramp", self.after, "schedule.warmup and schedule.ramp")
        _check_steps(
            "the distance of two drops", self.every, "schedule.lr.every", least=int(self.kind == "step_after_ramp")
        )
        _check_steps("the length of training", self.total, "epochs", least=int(self.kind == "cosine"))

    def __call__(self, step: int) -> float:
        """The factor for the optimiser step that follows `step` completed ones, in [0, 1]."""
        if self.kind == "milestones":
            return self.gamma ** sum(milestone <= step for milestone in self.milestones)
        if self.kind == "cosine":
            return (1 + math.cos(math.pi * min(step, self.total) / self.total)) / 2
        if self.kind == "step_after_ramp":
            return self.gamma ** (max(0, step - self.after) // self.every)
        return 1.0


def _check_steps(what: str, value: object, where: str, least: int = 0) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{what} is {value!r}, not a whole number of steps >= {least}", where=where, fix=f">= {least}")


def _check_choice(what: str, value: str, options: Iterable[str], where: str) -> None:
    options = tuple(options)
    if value not in options:
        raise UserError(f"unknown {what} {value!r}", where=where, fix=nearest(str(value), options))
