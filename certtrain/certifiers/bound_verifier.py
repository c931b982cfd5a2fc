"""Bounds of the margins as a stage: in the precision of proofs over the rounded set, after a float32 screen or none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from certtrain.bounds.base import METHODS
from certtrain.certificates import ERROR, INVALID, UNKNOWN, VERIFIED
from certtrain.certifiers.checks import check_same, try_engine
from certtrain.certifiers.pieces import Failure, Sizes
from certtrain.certifiers.verifier import MakeEngine, Problems, Subject, Verdicts, Verifier
from certtrain.errors import UserError, nearest

# A float32 margin that is below 0 by more than this share of the largest logit is not tried in float64.
SLACK = 1e-3


class BoundVerifier(Verifier):
    """Verified where every margin's lower bound is finite and > 0.

    A piece that runs out of memory is halved; one that crashes is an *error* of its examples, and the rest goes on.

    Args:
        method: one of `certtrain.bounds.METHODS`.
        engine: makes the bound engine of a network.
        batch_size: examples bounded at once; None: as many as memory allows.

    Raises:
        UserError: an unknown method, or one that the engine does not have.
    """

    def __init__(self, method: str, engine: MakeEngine, batch_size: int | None = None) -> None:
        if method not in METHODS:
            raise UserError(f"unknown bound {method!r}", where="certifier.stages", fix=nearest(str(method), METHODS))
        self.method, self.make_engine, self.sizes = method, engine, Sizes(batch_size)
        if hasattr(kind := getattr(engine, "func", engine), "methods"):  # a class says so before it has a network
            check_has(kind, method)

    def settings(self) -> Mapping[str, Any]:
        """The engine's name, and of what it is made with all that this bound depends on."""
        kind = getattr(self.make_engine, "func", self.make_engine)
        given = getattr(self.make_engine, "keywords", {})
        more = kind.settings(self.method, given) if hasattr(kind, "settings") else {}
        return {"engine": getattr(kind, "name", "unnamed"), **more}

    def check(self, subject: Subject, problems: Problems) -> None:
        """Have the engine bound one example; see `try_engine`.

        Raises:
            UserError: the engine lacks the method, or an operation of the network.
        """
        engine = subject.engine(self.make_engine, problems.threat)
        check_has(engine, self.method)
        with subject.frozen():
            try_engine(engine, self.method, problems.x, problems.y, problems.threat)

    def verify(self, subject: Subject, problems: Problems) -> Iterator[Verdicts]:
        """The bounds, piece by piece.

        With a screen, examples whose float32 bound is clearly negative stay unproved by it; all others, also those
        without a number, are decided in float64.

        Raises:
            UserError: the engine lacks the method or an operation, or bounds another function.
        """
        check_has(subject.engine(self.make_engine, problems.threat), self.method)
        everything = torch.arange(len(problems), device=problems.rows.device)
        pieces = self.sizes.of(self.method, subject.original, problems.known.x)
        for piece in pieces.run(everything, lambda part: self._bound(subject, problems.at(part))):
            rows = problems.rows[piece.rows].cpu().numpy()
            if isinstance(piece.result, Failure):
                failed = np.full(len(rows), ERROR, dtype=object)
                yield Verdicts(rows, failed, np.full(len(rows), np.nan), piece.seconds, piece.result.reason)
                continue
            least, changed = (values.cpu().numpy() for values in piece.result)
            status = np.where(np.isfinite(least), np.where(least > 0, VERIFIED, UNKNOWN), INVALID).astype(object)
            margin = np.where(np.isfinite(least), least, np.nan)
            yield Verdicts(rows, status, margin, piece.seconds, changed=changed if subject.screens else None)

    def _bound(self, subject: Subject, problems: Problems) -> tuple[Tensor, Tensor]:
        """(N,) the least lower bounds of the margins in float64, and whether a screen would have said otherwise."""
        if not subject.screens:
            least = self._least(subject, problems, subject.precision).double()
            return least, torch.zeros_like(least, dtype=torch.bool)
        rough = self._least(subject, problems, torch.float32)
        least = rough.double()
        again = (~(rough < -SLACK * problems.logits.abs().amax(1))).nonzero().flatten()
        if len(again):
            least[again] = self._least(subject, problems.at(again), torch.float64)
        return least, ((rough > 0) & rough.isfinite()) != ((least > 0) & least.isfinite())

    def _least(self, subject: Subject, problems: Problems, precision: torch.dtype) -> Tensor:
        """NaN where any margin's bound is not finite: of +inf it is not one, either, although the least may be."""
        engine = subject.engine(self.make_engine, problems.threat, precision)
        threat = replace(problems.threat, outward=precision == torch.float64)
        with torch.no_grad():
            reuse = problems.known.bounds(engine, precision)
            bounds = reuse.bounds(problems.rows, problems.y, threat, (self.method,))
        check_same(bounds.clean, problems.logits.to(precision))
        margins = bounds.margins[self.method].detach()
        return torch.where(torch.isfinite(margins).all(1), margins.min(1).values, torch.nan)


def check_has(engine: Any, method: str) -> None:
    """Refuse an engine, or its class, that lacks a bound.

    Raises:
        UserError: with the engine that has it.
    """
    if method not in engine.methods:
        raise UserError(
            f"the bound engine {engine.name!r} has no {method!r}",
            where="bounds and certifier.stages",
            fix=f"bounds=native has it, or an engine of its own for {method} in certifier.engines",
        )
