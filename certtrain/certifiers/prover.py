"""One stage of a cascade on one network: a bound in float64 over the outward-rounded box, after a float32 screen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from certtrain.bounds.base import BoundEngine
from certtrain.bounds.united import united
from certtrain.certifiers.base import frozen
from certtrain.certifiers.checks import check_same, try_engine
from certtrain.certifiers.reuse import Reuse
from certtrain.errors import UserError, nearest
from certtrain.threat import Threat

MakeEngine = Callable[[nn.Module], BoundEngine]
# A float32 margin that is below 0 by more than this share of the largest logit is not tried in float64.
SLACK = 1e-3


class Found(NamedTuple):
    """(B,) the least lower bound of the margins, whether all were finite, whether float64 changed float32's verdict."""

    least: NDArray[np.float64]
    finite: NDArray[np.bool_]
    changed: NDArray[np.bool_]


class Prover:
    """A bound of one method for the examples of one batch.

    Args:
        method: `ibp`, `crown_ibp`, `crown` or `alpha_crown`.
        make_engine: of a network.
        networks: the same network by dtype: float64, which proves, and float32 for the screen or none.
        threat: norm and scales; its eps and rounding are set for each piece.
        again: examples are bounded at several radii, see `Reuse`.

    Raises:
        UserError: the engine cannot be made, or lacks the method.
    """

    def __init__(
        self,
        method: str,
        make_engine: MakeEngine,
        networks: Mapping[torch.dtype, nn.Module],
        threat: Threat,
        again: bool = False,
    ) -> None:
        self.method, self.threat = method, threat
        self._make, self._networks = make_engine, networks
        self._engines: dict[torch.dtype, BoundEngine] = {}
        self._again, self._batch = again, torch.empty(0)
        self._reuse: dict[torch.dtype, Reuse] = {}
        self._engine(torch.float64)  # so that one that is not installed is refused before anything is computed

    def try_on(self, x: Tensor, y: Tensor, eps: Fraction) -> None:
        """Have the engine bound one float64 example; see `try_engine`.

        Raises:
            UserError: the engine lacks an operation of the network.
        """
        with frozen(self._networks[torch.float64]):
            threat = replace(self.threat, eps=eps, outward=True)
            try_engine(self._engine(torch.float64), self.method, x, y, threat)

    def bound(self, x: Tensor, y: Tensor, logits: Tensor, eps: Fraction | Tensor, rows: Tensor) -> Found:
        """The bounds of some examples of a batch.

        With a screen, examples whose float32 bound is clearly negative stay unproved by it; all others, also those
        without a number, are decided in float64.

        Args:
            x: (B, ...) float64 inputs of the batch.
            y: (B,) classes.
            logits: (B, K) of the network in float64.
            eps: the radius, or (B,) float64 radii rounded up.
            rows: (N,) which of them.

        Raises:
            UserError: the engine lacks the method or an operation, or bounds another function.
        """
        if torch.float32 not in self._networks:
            least = self._least(torch.float64, x, y, logits, eps, rows)
            return Found(*_arrays(least), np.zeros(len(rows), dtype=bool))
        rough = self._least(torch.float32, x, y, logits, eps, rows)
        least = rough.double()
        again = (~(rough < -SLACK * logits[rows].abs().amax(1))).nonzero().flatten()
        if len(again):
            least[again] = self._least(torch.float64, x, y, logits, eps, rows[again])
        changed = ((rough > 0) & rough.isfinite()) != ((least > 0) & least.isfinite())
        return Found(*_arrays(least), changed.cpu().numpy())

    def _least(
        self, dtype: torch.dtype, x: Tensor, y: Tensor, logits: Tensor, eps: Fraction | Tensor, rows: Tensor
    ) -> Tensor:
        engine = self._engine(dtype)
        if self._batch is not x:
            self._batch, self._reuse = x, {}
        if dtype not in self._reuse:
            self._reuse[dtype] = Reuse(engine, x.to(dtype), logits.to(dtype), self._again)
        here = eps[rows] if isinstance(eps, Tensor) else eps
        threat = replace(self.threat, eps=here, outward=dtype == torch.float64)
        with torch.no_grad():
            bounds = self._reuse[dtype].bounds(rows, y[rows], threat, (self.method,))
        check_same(bounds.clean, logits[rows].to(dtype))
        margins = bounds.margins[self.method].detach()
        # A margin of +inf is no bound, either, although the least one may be finite.
        return torch.where(torch.isfinite(margins).all(1), margins.min(1).values, torch.nan)

    def _engine(self, dtype: torch.dtype) -> BoundEngine:
        if dtype not in self._engines:
            network = self._networks[dtype]
            with frozen(network):
                engine = self._make(network)
            check_has(engine, self.method)
            self._engines[dtype] = united(engine, self.threat)
        return self._engines[dtype]


def check_has(engine: Any, method: str) -> None:
    """Refuse an engine, or its class, that lacks a bound.

    Raises:
        UserError: with the engine that has it.
    """
    if method not in engine.methods:
        raise UserError(
            f"the bound engine {engine.name!r} has no {method!r}",
            where="certifier.stages and certifier.engines",
            fix=f"an engine of its own for {method}: auto_lirpa has it"
            if engine.name == "native"
            else nearest(method, engine.methods),
        )


def _arrays(least: Tensor) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    values = least.cpu().numpy()
    return values, np.isfinite(values)
