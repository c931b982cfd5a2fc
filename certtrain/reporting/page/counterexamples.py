"""Counterexamples as an attack kept them: `NAME.counterexamples*.json` the inputs in an `.npz` beside each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Counterexample:
    """An input inside a ball around an example that is not put into the class of the example.

    Attributes:
        index: position in the split.
        label: the certified class.
        predict: what is predicted at `x`; -1 where it abstains.
        radius: the claimed one.
        distance: of `x` from the example.
        x: the input; None where the file of inputs is missing.
    """

    index: int
    label: int
    predict: int
    radius: float
    distance: float
    x: NDArray[Any] | None


def read_counterexamples(card: Path) -> tuple[Counterexample, ...]:
    """All counterexamples beside a card, by index.

    Raises:
        ValueError: a file that holds something else.
        OSError: a file that cannot be read.
    """
    found: list[Counterexample] = []
    for path in sorted(card.parent.glob(f"{_literal(card.stem)}.counterexamples*.json")):
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))["counterexamples"]
            inputs = _inputs(path.with_suffix(".npz"))
            for fact in facts:
                index = int(fact["index"])
                numbers = (int(fact["label"]), int(fact["predict"]), float(fact["radius"]), float(fact["distance"]))
                found.append(Counterexample(index, *numbers, inputs.get(index)))
        except (KeyError, TypeError, BadZipFile) as error:
            raise ValueError(f"{path.name} does not hold counterexamples: {error}") from error
    return tuple(sorted(found, key=lambda one: one.index))


def _inputs(path: Path) -> dict[int, NDArray[Any]]:
    if not path.exists():
        return {}
    with np.load(path, allow_pickle=False) as arrays:
        return dict(zip(arrays["index"].tolist(), arrays["x"]))


def _literal(name: str) -> str:
    """A name in a pattern of `glob`, whose brackets would mean something else."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
