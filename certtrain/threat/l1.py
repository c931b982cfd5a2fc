"""The l1 ball: changes whose absolute values add up to at most eps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from certtrain.threat.base import Threat, may_be_asked

if TYPE_CHECKING:
    from torch import Tensor

    from certtrain.threat.moves import L1Moves


@dataclass(frozen=True)
class L1(Threat):
    """`{x' : ||x' - x||_1 <= eps}`; certified by smoothing. Bound engines have no such set; see `Threat`."""

    norm: ClassVar[str] = "l1"
    attackable: ClassVar[bool] = True

    @property
    def symbol(self) -> str:
        return "l1"

    def described(self, *, closed: bool = True) -> str:
        return f"the {'closed' if closed else 'open'} l1 ball of the stated radius"

    def distance(self, offset: Tensor) -> Tensor:
        return offset.flatten(1).abs().sum(1)

    def moves(self, x: Tensor) -> L1Moves:
        from certtrain.threat.moves import L1Moves

        if may_be_asked(x):
            self.check_range(x)
        return L1Moves(x, self.eps_tensor(x), self.lower, self.upper)

    def widest(self, dimensions: int | None) -> tuple[float, str] | None:
        if dimensions is None:
            return None
        return float(dimensions), f"is longer than the input range [0, 1]^{dimensions} is in l1"
