"""Search spaces: which configuration keys are tried, over which ranges, written as

method: {kappa: {end: {low: 0.0, high: 1.0}}}           # a number, uniform
optimizer: {lr: {low: 1e-5, high: 0.1, log: true}}      # uniform in the logarithm
schedule: {warmup: {low: 0, high: 5, step: 1}}          # whole numbers, or multiples of a step
data: {batch_size: {choices: [64, 128]}}                # one of these
optimizer: {choices: [adam, adamw], lr: {low: 1e-5, ...}}   # one of a group, and a key of it
train_eps: {low: 1.0, high: 2.0, times: eps}            # a multiple of another key's value
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

from certtrain.errors import UserError, nearest

FIELDS = ("low", "high", "log", "step", "choices", "times")
DIGITS = 4  # significant ones of a tried number: short enough to type, finer than any effect
# What decides how runs are compared or where they lie; a search over it would compare what cannot be compared.
NOT_TUNABLE = ("seed", "seeds", "name", "runs_dir", "data_dir", "resume", "certify_test", "radii", "norm", "val_size")
NOT_TUNABLE += ("scales", "validation", "checkpoint", "certifier", "data", "experiment", "sweep", "logger")
NOT_TUNABLE += ("n0", "n", "alpha")
TUNABLE_PARTS = ("data.batch_size", "data.augment")  # of groups that are not


class Suggests(Protocol):
    """The part of an Optuna trial that a space needs."""

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, step: int) -> int: ...
    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


@dataclass(frozen=True)
class Parameter:
    """One key of a search space.

    Args:
        key: dotted configuration key, or a group of options.
        low, high: the range, both ends included.
        log: uniform in the logarithm.
        step: grid of the range from `low`; with whole `low`, `high` and `step` the values are whole.
        choices: instead of a range.
        times: value of the key that the tried number is a multiple of; None for no such key.
    """

    key: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    choices: tuple[Any, ...] = ()
    times: Any = None

    def suggest(self, trial: Suggests) -> Any:
        """The number or choice that a trial tries."""
        if self.choices:
            return trial.suggest_categorical(self.key, self.choices)
        if all(isinstance(number, int) for number in (self.low, self.high, self.step)):
            return trial.suggest_int(self.key, int(self.low), int(self.high), step=int(self.step or 1))
        return trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)

    def allows(self, value: Any) -> bool:
        """Whether a value is a choice, or a number, which `text` keeps inside the range."""
        if self.choices:
            return value in self.choices
        return isinstance(value, (int, float)) and not isinstance(value, bool)

    def text(self, value: Any) -> str:
        """The value of the configuration key for a tried number or choice, as a command line has it.

        Numbers have four significant digits and stay inside their range; the exact multiple 1 of a radius is its own
        text (`2/255`).
        """
        if self.choices or isinstance(value, int):
            return json.dumps(value) if value is None or isinstance(value, bool) else str(value)
        ends = [Fraction(repr(float(end))) for end in (self.low, self.high)]
        number = min(max(Fraction(f"{value:.{DIGITS}g}"), ends[0]), ends[1])
        if self.times is None:
            return _decimal(number)
        base = Fraction(str(self.times))
        if number == 1:
            return str(self.times)
        rounded = Fraction(f"{float(number * base):.{DIGITS}g}")
        if rounded < ends[0] * base and ends[0] == 1:
            return str(self.times)
        return _decimal(rounded)


def read_space(
    node: Mapping[str, Any], known: Mapping[str, Any], groups: Mapping[str, Sequence[str]]
) -> list[Parameter]:
    """The parameters of a search space, in the order written.

    Args:
        node: the space, nested or with dotted keys.
        known: every key of the composed configuration, dotted, with its value.
        groups: the options of each group.

    Raises:
        UserError: an unknown key (with the nearest ones), one that cannot be searched over, or no valid range.
    """
    found = [_parameter(key, leaf, known, groups) for key, leaf in _leaves(node)]
    if not found:
        raise UserError("the search space is empty", where="sweep.space", fix="sweep/space=crown_ibp")
    return found


def _leaves(node: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Mapping[str, Any]]]:
    leaves: list[tuple[str, Mapping[str, Any]]] = []
    for name, value in node.items():
        key = f"{prefix}{name}"
        if not isinstance(value, Mapping):
            raise UserError(
                f"sweep.space.{key} = {value!r} is no range", where=f"sweep.space.{key}", fix="{low: 0.0, high: 1.0}"
            )
        is_leaf = any(not isinstance(value.get(field, {}), Mapping) for field in FIELDS)
        # A group has choices, and keys of its options below it: optimizer: {choices: [...], lr: {...}}.
        below = {name: item for name, item in value.items() if isinstance(item, Mapping)} if is_leaf else value
        leaves += [(key, {name: item for name, item in value.items() if name not in below})] if is_leaf else []
        leaves += _leaves(below, f"{key}.")
    return leaves


def _parameter(
    key: str, leaf: Mapping[str, Any], known: Mapping[str, Any], groups: Mapping[str, Sequence[str]]
) -> Parameter:
    where = f"sweep.space.{key}"
    if unknown := [field for field in leaf if field not in FIELDS]:
        raise UserError(f"{where} has no field {unknown[0]!r}", where=where, fix=nearest(unknown[0], FIELDS))
    fixed = any(key == top or key.startswith(f"{top}.") for top in NOT_TUNABLE) and not any(
        key == part or key.startswith(f"{part}.") for part in TUNABLE_PARTS
    )
    if fixed:
        raise UserError(
            f"{key} decides how runs are compared, and cannot be searched over", where=where, fix=f"~sweep.space.{key}"
        )
    if key not in known and key not in groups:
        raise UserError(f"unknown configuration key {key!r}", where=where, fix=nearest(key, [*known, *groups]))
    times = leaf.get("times")
    if times is not None and (times not in known or not _is_number(known[times])):
        raise UserError(f"times: {times} is no key with a number", where=where, fix=nearest(str(times), known))
    if "choices" in leaf:
        return Parameter(key, choices=_choices(key, leaf, groups.get(key), where))
    if key in groups:
        raise UserError(f"{key} is a group of options", where=where, fix="{choices: [...]} of its options")
    low, high, log, step = (leaf.get(field) for field in ("low", "high", "log", "step"))
    for field, value in (("low", low), ("high", high), ("step", 1 if step is None else step)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise UserError(f"{where}.{field} = {value!r} is not a number", where=where, fix="{low: 0.0, high: 1.0}")
    if not low < high or (log and not low > 0) or (step is not None and (log or not 0 < step <= high - low)):
        shown = {field: leaf[field] for field in FIELDS if field in leaf}
        raise UserError(
            f"{where} = {shown} is no range", where=where, fix="low < high; with log: 0 < low and no step; 0 < step"
        )
    return Parameter(key, low, high, bool(log), step, times=None if times is None else known[times])


def _choices(key: str, leaf: Mapping[str, Any], options: Sequence[str] | None, where: str) -> tuple[Any, ...]:
    values = leaf["choices"]
    if len(leaf) > 1 or not isinstance(values, (list, tuple)) or not values:
        raise UserError(f"{where} needs a list of choices, and nothing beside it", where=where, fix="{choices: [a, b]}")
    for value in values:
        if options is not None and value not in options:
            raise UserError(f"{key} has no option {value!r}", where=where, fix=nearest(str(value), options))
    # A database stores scalars: lists and mappings are tried as the text that a command line would have.
    return tuple(json.dumps(value) if isinstance(value, (list, dict)) else value for value in values)


def _is_number(value: Any) -> bool:
    try:
        Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        return False
    return not isinstance(value, bool)


def _decimal(number: Fraction) -> str:
    return f"{float(number):.{DIGITS + 2}g}"
