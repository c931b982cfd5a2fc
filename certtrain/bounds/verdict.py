"""The one predicate that turns bounds into a verdict."""

from __future__ import annotations

import torch
from torch import Tensor


def verified(margins: Tensor) -> Tensor:
    """Which examples the bounds prove: every margin's lower bound is finite and > 0.

    NaN, infinities and 0 (a tie) prove nothing. Comparing the other way, `not (margins < 0).any()`, counts both NaN and
    ties as proved; that is the commonest bug of public code.

    Args:
        margins: (B, K-1) lower bounds of `z_y - z_j`, K >= 2.

    Returns:
        (B,) bool.

    Raises:
        ValueError: not two dimensions, or no margin at all, which would be verified vacuously.
    """
    if margins.dim() != 2 or not margins.shape[1]:
        raise ValueError(f"margins have shape {tuple(margins.shape)}, not (B, K-1) with K >= 2")
    return (torch.isfinite(margins) & (margins > 0)).all(1)
