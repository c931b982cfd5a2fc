"""Everything that is scheduled, as pure functions of the step: the number of completed optimiser steps.

Resuming needs nothing but the step, and a schedule can be plotted or tested without a network. A schedule counts in
optimiser steps; a configuration, which declares one by its `_target_`, gives lengths in epochs of the recipe, and
`in_steps` converts them, wherever the schedule stands.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from certtrain.errors import UserError, nearest
from certtrain.system.signatures import resolve

RampShape = Literal["linear", "smoothed"]
LinkedTo = Literal["eps", "step"]
LearningRateKind = Literal["constant", "milestones", "milestones_after_ramp", "cosine", "step_after_ramp"]


@dataclass(frozen=True)
class Timeline:
    """How long a run is in optimiser steps, and a recipe's lengths in it.

    Args:
        epochs: of this run.
        steps_per_epoch: optimiser steps.
        recipe_epochs: of the run that the recipe's lengths were written for.
        scale: whether they are stretched to this run's.
        warmup: natural training before the recipe's ramp, in epochs of the recipe.
        ramp: the recipe's ramp, in epochs of the recipe.

    Raises:
        UserError: a length that is not one.
    """

    epochs: int
    steps_per_epoch: int
    recipe_epochs: float
    scale: bool = False
    warmup: float = 0
    ramp: float = 0

    def __post_init__(self) -> None:
        _check_epochs(self.warmup, "schedule.warmup")
        _check_epochs(self.ramp, "schedule.ramp")

    @property
    def total(self) -> int:
        """Steps of the whole training."""
        return self.epochs * self.steps_per_epoch

    @property
    def factor(self) -> float:
        """By which the recipe's lengths are stretched."""
        return self.epochs / self.recipe_epochs if self.scale else 1.0

    @property
    def ramp_end(self) -> int:
        """The first step after the recipe's ramp."""
        return self.steps(self.warmup + self.ramp, "schedule.ramp")

    def steps(self, epochs: float, key: str) -> int:
        """Optimiser steps of a length in epochs of the recipe, whose place in the configuration is `key`.

        Raises:
            UserError: it is not a length.
        """
        _check_epochs(epochs, key)
        return round(epochs * self.factor * self.steps_per_epoch)

    def span(self, start: float, length: float, keys: tuple[str, str]) -> tuple[int, int]:
        """Start and length in optimiser steps of a ramp, which must end with the training at the latest.

        By its end, so that warm-up and ramp rounded apart do not outlast a training that both together fit into.

        Raises:
            UserError: they are no lengths, or longer than the training; `keys` are their places in the configuration.
        """
        first = self.steps(start, keys[0])
        _check_epochs(length, keys[1])
        ends = start + length
        end = self.steps(ends, keys[1])
        if end > self.total:
            fits = not self.scale and ends <= self.recipe_epochs
            raise UserError(
                f"warm-up and ramp take {ends * self.factor:g} epochs, training only {self.epochs}",
                where=f"configuration keys {', '.join(keys)} and epochs",
                fix=("schedule.scale=true, which shrinks the schedule to epochs; or " if fits else "")
                + f"a shorter {keys[1]}, or more epochs",
            )
        return first, end - first


class Timed:
    """What counts in optimiser steps, and whose lengths a configuration gives in epochs.

    Attributes:
        lengths: arguments of the constructor that are a length or a list of lengths, each with the least number of
            steps that it becomes.
    """

    lengths: ClassVar[Mapping[str, int]] = {}

    @classmethod
    def in_steps(cls, timeline: Timeline, key: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """The constructor's arguments for those of a configuration.

        Args:
            timeline: of the run.
            key: of the object in the configuration, for messages.
            options: the configured arguments, with lengths in epochs of the recipe.

        Raises:
            UserError: a length that is not one.
        """

        def converted(value: Any, place: str, least: int) -> Any:
            if isinstance(value, (list, tuple)):
                return [converted(one, place, least) for one in value]
            return max(least, timeline.steps(value, place))

        given = {name: least for name, least in cls.lengths.items() if name in options}
        return {**options, **{name: converted(options[name], f"{key}.{name}", least) for name, least in given.items()}}


class Schedule(Timed, ABC):
    """A number that a method computes with and that moves with the training. Another shape is another subclass."""

    @abstractmethod
    def at(self, step: int, ramp: Ramp) -> float:
        """The number at this step of a training with this rise of eps."""


def in_steps(node: Any, key: str, timeline: Timeline) -> Any:
    """A configuration in which every `Timed` object, at any depth, is described in optimiser steps.

    Args:
        node: plain containers.
        key: their place in the configuration.
        timeline: of the run.

    Raises:
        UserError: a length that is not one; a ramp that outlasts the training.
    """
    if isinstance(node, list):
        return [in_steps(item, f"{key}.{place}", timeline) for place, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    node = {name: in_steps(value, f"{key}.{name}", timeline) for name, value in node.items()}
    kind = _timed_class(node.get("_target_"))
    if kind is None:
        return node
    told = {name: value for name, value in node.items() if name.startswith("_")}  # `_target_` and the like
    return {**told, **kind.in_steps(timeline, key, {name: node[name] for name in node if name not in told})}


def _timed_class(target: object) -> type[Timed] | None:
    if not isinstance(target, str):
        return None
    try:
        kind: Any = resolve(target)
    except Exception:  # whatever a module of the user's raises; it is raised again when the part is built
        return None
    return kind if inspect.isclass(kind) and issubclass(kind, Timed) else None


@dataclass(frozen=True)
class Ramp(Timed):
    """The rise of eps from 0 to its full value, after a natural warm-up; another shape is a subclass with a `fraction`.

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

    @classmethod
    def in_steps(cls, timeline: Timeline, key: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """See `Timed.in_steps`. A `start` or `length` that is not given is the recipe's."""
        given = (options.get("start", timeline.warmup), options.get("length", timeline.ramp))
        places = (f"{key}.start" if "start" in options else "schedule.warmup",)
        places += (f"{key}.length" if "length" in options else "schedule.ramp",)
        start, length = timeline.span(*given, places)
        return {**options, "start": start, "length": length}

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
class Weight(Schedule):
    """A weight in a convex combination, such as kappa or beta, moving from `start` to `end` over the ramp.

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


def as_schedule(value: object, where: str) -> Schedule:
    """The schedule itself.

    Raises:
        UserError: it is none.
    """
    if not isinstance(value, Schedule):
        fix = "{_target_: certtrain.schedules.Weight, start: 1, end: 0.5, by: eps}"
        raise UserError(f"{where} = {value!r} is not a schedule", where=where, fix=fix)
    return value


def share_at(schedule: Schedule, step: int, ramp: Ramp, where: str) -> float:
    """What a schedule says at this step, where it is the weight of one term and the rest to 1 that of another.

    Raises:
        UserError: it is not in [0, 1]: a mixture of bounds would not be a bound.
    """
    value = schedule.at(step, ramp)
    if not 0 <= value <= 1:
        raise UserError(f"{where} is {value} at step {step}, not in [0, 1]", where=where, fix="another schedule")
    return value


@dataclass(frozen=True)
class LearningRate(Timed):
    """The factor of the learning rate as a function of the step.

    - `constant`: 1.
    - `milestones`: times `gamma` at each milestone. Counted as the papers (and MultiStepLR stepped after each epoch)
      count: a milestone of m epochs is m * steps_per_epoch, and the first step after m whole epochs has the lower rate.
    - `milestones_after_ramp`: likewise, each milestone counted from step `after`, the end of the ramp, so that a longer
      warm-up or ramp moves them (CTRAIN's recipes).
    - `cosine`: `(1 + cos(pi step / total)) / 2`.
    - `step_after_ramp`: times `gamma` after each `every` steps, counted only from step `after`, the end of the ramp
      (Zhang et al. 2020, small and medium networks: gamma 0.5, every 10 epochs).

    Args:
        kind: one of the above.
        milestones: in steps, ascending.
        gamma: factor of each drop, in (0, 1].
        every: steps between two drops.
        after: the step from which `every` and milestones after the ramp count.
        total: steps of the whole training.

    Raises:
        UserError: an unknown kind; milestones missing, negative or out of order; gamma outside (0, 1]; a length <= 0
            that the kind needs.
    """

    lengths: ClassVar[Mapping[str, int]] = {"milestones": 0, "every": 1, "after": 0}

    kind: LearningRateKind = "constant"
    milestones: Sequence[int] = ()
    gamma: float = 0.1
    every: int = 1
    after: int = 0
    total: int = 1

    def __post_init__(self) -> None:
        _check_choice("learning-rate schedule", self.kind, get_args(LearningRateKind), "schedule.lr.kind")
        if not 0 < self.gamma <= 1:
            raise UserError(f"gamma = {self.gamma} is not in (0, 1]", where="schedule.lr.gamma", fix="gamma=0.1")
        object.__setattr__(self, "milestones", tuple(self.milestones))
        for milestone in self.milestones:
            _check_steps("a milestone", milestone, "schedule.lr.milestones")
        if self.kind.startswith("milestones") and (
            not self.milestones or list(self.milestones) != sorted(self.milestones)
        ):
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

    @classmethod
    def in_steps(cls, timeline: Timeline, key: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """See `Timed.in_steps`; `after` is the end of the recipe's ramp unless it is given, `total` the run's."""
        run = {"after": timeline.ramp_end, "total": timeline.total}
        return {**run, **super().in_steps(timeline, key, options)}

    def __call__(self, step: int) -> float:
        """The factor for the optimiser step that follows `step` completed ones, in [0, 1]."""
        if self.kind == "milestones":
            return self.gamma ** sum(milestone <= step for milestone in self.milestones)
        if self.kind == "milestones_after_ramp":
            return self.gamma ** sum(self.after + milestone <= step for milestone in self.milestones)
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


def _check_epochs(epochs: object, key: str) -> None:
    if isinstance(epochs, bool) or not isinstance(epochs, (int, float)) or not 0 <= epochs < math.inf:
        raise UserError(
            f"{key} = {epochs!r} is not a length in epochs >= 0", where=f"configuration key {key}", fix=f"{key}=5"
        )
