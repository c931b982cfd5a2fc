"""The l-inf ball within the input range: every value may change by at most eps, all of them at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from certtrain.threat.base import Threat, may_be_asked
from certtrain.threat.sets import Box

if TYPE_CHECKING:
    from torch import Tensor

    from certtrain.threat.moves import BoxMoves

# Float32 numbers in [0, 1] are at most 2^-24 apart, so an 8-bit value k/255 and its float32 image differ by at most
# 2^-25. Widening a box by 2^-24 therefore covers the rounding of both the centre and of any true neighbour.
OUTWARD = 2.0**-24
# Float64 products eps w_i in [0, 1] and corners x -+ eps w_i are off by less than 2^-51 together.
INWARD = 2.0**-50


@dataclass(frozen=True)
class Linf(Threat):
    """`{x' : |x'_i - x_i| <= eps, lower <= x'_i <= upper}`; see `Threat`.

    Final certificates prove a superset (`outward`), attacks move in a subset of which eps is less (`attacks.inside`).
    """

    norm: ClassVar[str] = "linf"
    attackable: ClassVar[bool] = True
    bounded: ClassVar[bool] = True

    @property
    def symbol(self) -> str:
        return "l-inf"

    def described(self, *, closed: bool = True) -> str:
        return f"the {'closed' if closed else 'open'} l-inf ball of the stated radius within [0, 1]"

    def distance(self, offset: Tensor) -> Tensor:
        return offset.flatten(1).norm(p=math.inf, dim=1)

    def region(self, x: Tensor) -> Box:
        return Box(x, *self.box(x))

    def moves(self, x: Tensor) -> BoxMoves:
        from certtrain.threat.moves import BoxMoves

        return BoxMoves(x, self.eps_tensor(x), *self.box(x))

    def widest(self, dimensions: int | None) -> tuple[float, str]:
        return 1.0, "is wider than the input range [0, 1]"

    def settings(self) -> dict[str, Any]:
        return {"input_range": [self.lower, self.upper]}

    def box(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper corner of the l-inf box around x, both shaped like x.

        Around an input outside the range there is no such box: clipped, it would not hold the input, and bounds over it
        could lie above the margin at the input itself. Where the host may not look at x (compiled code, and training on
        an accelerator, whose examples are checked when they are loaded), the box is extended to hold it instead.

        Raises:
            UserError: inputs outside the range, see `check_range`.
            ValueError: an outward box of an input that is not float64, or several boxes.
        """
        import torch

        if self.several:
            raise ValueError("columns that may take any category make several boxes, not one: see parts")
        asked = may_be_asked(x)
        if asked:
            self.check_range(x)
        eps = self.eps_tensor(x)
        lower, upper = x - eps, x + eps
        if self.outward:
            if x.dtype != torch.float64:
                raise ValueError("an outward-rounded box needs a float64 input")
            lower = torch.nextafter(lower - OUTWARD, torch.full_like(lower, -math.inf))
            upper = torch.nextafter(upper + OUTWARD, torch.full_like(upper, math.inf))
            lower, upper = self._kept(x, lower, upper)
        if self.lower is not None:
            lower, upper = lower.clamp_min(self.lower), upper.clamp_min(self.lower)
        if self.upper is not None:
            lower, upper = lower.clamp_max(self.upper), upper.clamp_max(self.upper)
        return (lower, upper) if asked else (torch.minimum(lower, x), torch.maximum(upper, x))

    def _kept(self, x: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """The corners of an outward box, with the coordinates of x where nothing changes."""
        return lower, upper
