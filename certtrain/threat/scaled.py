"""A box of another size for each feature of a table: what `scales` asks for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from certtrain.threat.base import Threat, may_be_asked
from certtrain.threat.linf import INWARD, Linf
from certtrain.threat.scales import Scales

if TYPE_CHECKING:
    from torch import Tensor

    from certtrain.threat.moves import BoxMoves


@dataclass(frozen=True)
class Scaled(Linf):
    """`{x' : |x'_i - x_i| <= eps w_i, lower <= x'_i <= upper}`; see `Threat`.

    Features of scale 0 are exempt from the outward rounding: every admissible input has their very value, and so the
    same float32 image. Inward, the products are rounded down.

    Args:
        scales: sizes w_i of the features.
    """

    scales: Scales = field(kw_only=True)

    @property
    def name(self) -> str:
        return f"{self.norm} scaled by {self.scales.label}"

    @property
    def symbol(self) -> str:
        return f"l-inf scaled by {self.scales.label}"

    @property
    def unit(self) -> str:
        return f"multiples of {self.scales.label}"

    @property
    def note(self) -> str:
        whole = any(self.scales.whole)
        return "It holds for every real value of the box, and so for the whole numbers in it." if whole else ""

    def described(self, *, closed: bool = True) -> str:
        free = ", columns in settings.scales.categories take any of theirs" if self.scales.groups else ""
        return (
            "the box of the stated radius (times the sizes in settings.scales, of all features at once, within [0, 1]; "
            f"features of size 0 keep their value{free})"
        )

    def distance(self, offset: Tensor) -> Tensor:
        return self.scales.distance(offset)

    def moves(self, x: Tensor) -> BoxMoves:
        moves, scales = super().moves(x), self.scales
        if any(scales.whole):  # of whole-numbered features only whole numbers count
            moves.admissible = lambda point: scales.admissible(point, x, moves.eps)
        return moves

    def widest(self, dimensions: int | None) -> None:
        return None  # radii are multiples of sizes

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "scales": self.scales.to_dict()}

    def eps_tensor(self, x: Tensor) -> Tensor:
        """eps w_i, shaped (B or 1, ...)."""
        if isinstance(self.eps, Fraction) and not self.inward:
            return self.scales.tensor(x, self.eps, up=self.outward)
        import torch

        if isinstance(self.eps, torch.Tensor):
            return self._rounded(super().eps_tensor(x), x)
        return self._rounded(torch.full((), float(self.eps), dtype=x.dtype, device=x.device), x)

    def _rounded(self, eps: Tensor, x: Tensor) -> Tensor:
        """eps w_i, rounded as the box is; by 1 and by 0 it is multiplied exactly."""
        import torch

        scale = self.scales.tensor(x, up=self.outward)
        radius = eps * scale
        if self.outward:
            wider = torch.nextafter(radius, torch.full_like(radius, math.inf))
            return torch.where((scale == 1) | (scale == 0), radius, wider)
        if self.inward:
            return torch.where(scale == 1, radius, (radius - INWARD).clamp_min(0))
        return radius

    def _kept(self, x: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        import torch

        if not self.scales.immutable:
            return lower, upper
        still = self.scales.tensor(x, up=True) == 0
        return torch.where(still, x, lower), torch.where(still, x, upper)

    @property
    def several(self) -> bool:
        return bool(self.scales.groups)

    def parts(self, x: Tensor) -> Iterator[tuple[Tensor, Threat]]:
        """The sets whose union this one is: inputs in the place of x, a threat model for each; the first is around x.

        Only columns that may take any category make more than one: the other combinations, for each row its own. Where
        a row holds none of a column's categories there is one set more, as there is in the steps of a training on an
        accelerator, which does not wait to be told.
        """
        if not self.several:
            yield x, self
            return
        one = replace(self, scales=self.scales.fixed())
        yield x, one
        others = self.scales.categories(x)
        if may_be_asked(x) and bool(self.scales.holds_categories(x).all()):
            next(others)  # x itself
        for other in others:
            yield other, one
