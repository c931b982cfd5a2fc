"""The l2 ball: a change whose Euclidean length over all values is at most eps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from certtrain.threat.base import Threat, may_be_asked
from certtrain.threat.sets import L2Ball

if TYPE_CHECKING:
    from torch import Tensor

    from certtrain.threat.moves import BallMoves


@dataclass(frozen=True)
class L2(Threat):
    """`{x' : ||x' - x||_2 <= eps}`; see `Threat`.

    Bounds are over the whole ball, which the input range does not cut (a sound superset); attacks stay in the range.
    """

    norm: ClassVar[str] = "l2"
    attackable: ClassVar[bool] = True
    bounded: ClassVar[bool] = True

    @property
    def symbol(self) -> str:
        return "l2"

    def described(self, *, closed: bool = True) -> str:
        return f"the {'closed' if closed else 'open'} l2 ball of the stated radius"

    def distance(self, offset: Tensor) -> Tensor:
        return offset.flatten(1).norm(dim=1)

    def region(self, x: Tensor) -> L2Ball:
        eps = self.eps_tensor(x)
        return L2Ball(x, eps.flatten() if eps.dim() else eps)

    def moves(self, x: Tensor) -> BallMoves:
        from certtrain.threat.moves import BallMoves

        if may_be_asked(x):
            self.check_range(x)
        return BallMoves(x, self.eps_tensor(x), self.lower, self.upper)

    def widest(self, dimensions: int | None) -> tuple[float, str] | None:
        if dimensions is None:
            return None
        length = dimensions**0.5
        return length, f"is longer than the diagonal {length:.4g} of the input range [0, 1]^{dimensions}"
