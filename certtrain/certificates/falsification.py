"""Attempts to refute certificates that were issued: what was attacked and found, how much of it chance explains."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certtrain.certificates import ABSTAIN, Certificates
from certtrain.errors import UserError
from certtrain.system.files import write_bytes_atomic, write_json_atomic

Progress = Callable[[int], None]
"""Told how many examples have been attacked so far; may raise to stop the work there."""


def silent(attacked: int) -> None:
    """The `Progress` of who wants none."""


@dataclass(frozen=True)
class Counterexample:
    """An input inside a certified ball that the certified classifier does not put into the certified class.

    Attributes:
        index: position in the split.
        label: the certified class.
        predict: what is predicted at `x`; -1 where it abstains.
        radius: the claimed radius, as the log holds it.
        distance: of `x` from the example, in the certificate's norm; at most the radius.
        margin: `min_j z_label - z_j` at `x`, <= 0; for smoothing what its certifier says in its settings.
        x: the input.
        details: what else the certifier knows of it, in plain JSON values.
    """

    index: int
    label: int
    predict: int
    radius: float
    distance: float
    margin: float
    x: NDArray[Any]
    details: dict[str, Any] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """All but the input, in plain JSON values."""
        names = ("index", "label", "predict", "radius", "distance", "margin")
        return {name: getattr(self, name) for name in names} | ({"details": self.details} if self.details else {})


@dataclass(frozen=True)
class Falsification:
    """The outcome of an attack on certificates.

    Attributes:
        attacked: how many certified examples.
        hits: what was found.
        allowed: how many hits do not refute the certificates: 0 for deterministic ones; those that hold with
            probability 1 - alpha may be wrong now and then.
        settings: of the attack, in plain JSON values.
    """

    attacked: int
    hits: tuple[Counterexample, ...]
    allowed: int
    settings: dict[str, Any]

    @property
    def failed(self) -> bool:
        """Whether the certificates are refuted."""
        return len(self.hits) > self.allowed

    def summary(self) -> dict[str, Any]:
        """What stands in the card and in `result.json`."""
        return {
            "attacked": self.attacked,
            "hits": len(self.hits),
            "allowed": self.allowed,
            "failed": self.failed,
            "indices": [hit.index for hit in self.hits],
            "settings": self.settings,
        }


@dataclass(frozen=True)
class FalsifyOptions:
    """The configuration key `falsify`: how many certified examples are attacked (0: none), by how many steps."""

    examples: int
    steps: int

    @classmethod
    def parse(cls, given: object) -> FalsifyOptions:
        """The checked options.

        Raises:
            UserError: something else than `{examples, steps}`, or numbers that make no attack.
        """
        if not isinstance(given, Mapping) or set(given) != {"examples", "steps"}:
            raise UserError(
                f"falsify = {given!r} does not say what to attack",
                where="configuration key falsify",
                fix="falsify.examples=100 falsify.steps=100; falsify.examples=0 attacks nothing",
            )
        for name, least in (("examples", 0), ("steps", 1)):
            value = given[name]
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UserError(
                    f"falsify.{name} = {value!r} is not a whole number >= {least}",
                    where=f"configuration key falsify.{name}",
                    fix="falsify.examples=0 attacks nothing" if name == "steps" else "falsify.examples=100",
                )
        return cls(given["examples"], given["steps"])


def choose_certified(certificates: Certificates, most: int) -> NDArray[np.int64]:
    """Positions of at most `most` certified rows (correct, not abstained, radius > 0), evenly spread over all of them.

    A function of the rows alone, whatever their order: the same log gives the same examples.
    """
    held = certificates.correct & (certificates.predict != ABSTAIN) & (certificates.radius > 0)
    rows = np.flatnonzero(held)
    rows = rows[np.argsort(certificates.index[rows], kind="stable")]
    if len(rows) <= most:
        return rows
    return rows[np.arange(most) * len(rows) // most]


def write_counterexamples(path: str | Path, falsification: Falsification) -> tuple[Path, Path] | None:
    """Write the hits: `PATH.npz` with the inputs `x` and their `index`, `PATH.json` with the facts and settings.

    Both are written whole or not at all, the facts last. Earlier ones stay: the next are `PATH.2.npz`, `PATH.3.npz`.

    Returns:
        The two paths; None when there is no hit, and nothing is written.

    Raises:
        UserError: a file cannot be written.
    """
    if not falsification.hits:
        return None
    stem = Path(path)
    number = 1
    while any(_named(stem, number, suffix).exists() for suffix in ("npz", "json")):
        number += 1
    hits, inputs = falsification.hits, io.BytesIO()
    np.savez_compressed(inputs, x=np.stack([hit.x for hit in hits]), index=np.array([hit.index for hit in hits]))
    arrays = write_bytes_atomic(_named(stem, number, "npz"), inputs.getvalue())
    summary = falsification.summary() | {"counterexamples": [hit.facts() for hit in hits]}
    return arrays, write_json_atomic(_named(stem, number, "json"), summary)


def _named(stem: Path, number: int, suffix: str) -> Path:
    return stem.with_name(f"{stem.name}.{suffix}" if number == 1 else f"{stem.name}.{number}.{suffix}")
