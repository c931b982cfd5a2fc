"""The two lines between which a ReLU lies on an interval."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from certtrain.bounds.fused import RelaxedRelu


@dataclass(frozen=True)
class Lines:
    """Lines around a ReLU on [lower, upper]: `low z <= relu(z) <= high z + offset`; all (B, *shape)."""

    low: Tensor
    high: Tensor
    offset: Tensor

    @classmethod
    def of(cls, lower: Tensor, upper: Tensor) -> Lines:
        """The adaptive lower line and the chord.

        Where `u - l` is tiny the chord is drawn up to `l + 1e-8`, over a larger interval (sound).
        """
        low = (upper > -lower).to(lower.dtype)
        left = lower.clamp(max=0)
        right = torch.maximum(upper.clamp(min=0), left + 1e-8)
        high = right / (right - left)
        return cls(low, high, -left * high)

    def at(self, rows: Tensor | None) -> Lines:
        """The lines of the examples `rows`, (N,)."""
        return self if rows is None else Lines(self.low[rows], self.high[rows], self.offset[rows])

    def backward(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients before the ReLU, and the constants (N, S)."""
        before, constant = RelaxedRelu.apply(
            a.flatten(2), self.low.flatten(1), self.high.flatten(1), self.offset.flatten(1)
        )
        return before.view(a.shape), constant
