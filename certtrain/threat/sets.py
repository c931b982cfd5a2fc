"""The sets that bound engines bound: each says what it is, and an engine refuses those that it does not know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Box:
    """All inputs between two corners, (B, ...) each, that hold x."""

    x: Tensor
    lower: Tensor
    upper: Tensor


@dataclass(frozen=True)
class L2Ball:
    """All inputs whose Euclidean distance from x (B, ...) is at most eps, of shape () or (B,)."""

    x: Tensor
    eps: Tensor


PerturbedSet = Box | L2Ball
