"""The one batch type."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Examples with their position in the split: noise keys, logs and pinned lists need the position.

    Attributes:
        x: (B, ...) float32 inputs in [0, 1].
        y: (B,) int64 classes.
        index: (B,) int64 positions in the split.
    """

    x: Tensor
    y: Tensor
    index: Tensor
