"""Bounds inside the network at a larger radius, reused at smaller ones."""

from __future__ import annotations

import torch
from torch import Tensor

from certtrain.bounds.base import BoundEngine, Bounds
from certtrain.bounds.intermediates import Intermediates
from certtrain.threat import Threat


class Reuse:
    """Bounds the examples of one batch again and again, each in ever smaller balls.

    Of each example CROWN's bounds of the neurons are kept that did not prove it, for the next smaller ball: what they
    settle is not bounded again. An engine that cannot take them, and other methods, do without.

    Args:
        engine: makes the bounds.
        x: (B, ...) the whole batch.
        logits: (B, K) of it.
        again: whether there are several radii; else nothing is kept.
    """

    def __init__(self, engine: BoundEngine, x: Tensor, logits: Tensor, again: bool) -> None:
        self.engine, self.x, self.logits, self.again = engine, x, logits, again
        self._kept: Intermediates | None = None

    def bounds(self, rows: Tensor, y: Tensor, threat: Threat, methods: tuple[str, ...]) -> Bounds:
        """The engine's bounds of the examples `rows`, (N,), of classes y, (N,).

        Raises:
            UserError: as `BoundEngine.bounds`.
        """
        if "crown" not in methods or not self.again or not takes_intermediates(type(self.engine)):
            return self.engine.bounds(self.x[rows], y, threat, methods)
        outer = None if self._kept is None else self._kept.at(rows).reaching(threat)
        found, kept = self.engine.bounds_inside(self.x[rows], y, threat, methods, outer)
        margins = torch.stack(list(found.margins.values()))
        open_ = (~(torch.isfinite(margins) & (margins > 0)).all(2).any(0)).nonzero().flatten()
        if self._kept is None:
            self._kept = kept.unknown(self.x, self.logits)
        self._kept.put(rows[open_], kept.at(open_))
        return found


def takes_intermediates(engine: type) -> bool:
    """Whether `bounds_inside` comes from the class that `bounds` comes from: overridden alone, this one counts."""
    return next(("bounds_inside" in vars(cls) for cls in engine.__mro__ if "bounds" in vars(cls)), False)
