"""Pooling by maximum. Over one window, with the boxes [l_j, u_j] of its inputs z_j:

    max_k l_k <= max_k z_k <= max_k u_k                              (exact: the ends are attained),
    z_i <= max_k z_k,                        i the input with the largest l,
    max_k z_k <= t + h (z_m - l_m),          m the input with the largest u,

with R the largest u of the others, `t = max(R, l_m)` and `h = (u_m - t) / (u_m - l_m)`. For `max_k z_k <= max(z_m, t)`,
which is convex in z_m and so lies under its chord over [l_m, u_m]: it is t at l_m, and u_m at u_m because
u_m >= max(R, l_m). An input that is above all others (R <= l_m) gives t = l_m, h = 1: the maximum is z_m.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from certtrain.bounds.nonlinear import Nonlinear


@dataclass(frozen=True)
class PoolLines:
    """The two lines of every window; positions count through one channel's map, all else is (B, *out).

    Attributes:
        in_shape: of one example before the pooling.
        low_at: the input that is the lower line.
        high_at: the input of the upper line `high z + high_offset`.
    """

    in_shape: Sequence[int]
    low_at: Tensor
    high_at: Tensor
    high: Tensor
    high_offset: Tensor

    def at(self, rows: Tensor | None) -> PoolLines:
        """The lines of the examples `rows`, (N,)."""
        if rows is None:
            return self
        picked = (values[rows] for values in (self.low_at, self.high_at, self.high, self.high_offset))
        return PoolLines(self.in_shape, *picked)

    def backward(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients before the pooling, and the constants (N, S)."""
        negative = a.clamp(max=0)
        before = a.new_zeros(*a.shape[:3], self.in_shape[-2] * self.in_shape[-1])
        for at, part in ((self.low_at, a.clamp(min=0)), (self.high_at, negative * self.high[:, None])):
            before = before.scatter_add(3, at.flatten(2)[:, None].expand(*a.shape[:3], -1), part.flatten(3))
        constant = (negative.flatten(2) @ self.high_offset.flatten(1)[:, :, None]).squeeze(2)
        return before.unflatten(3, tuple(self.in_shape[-2:])), constant


class MaxPool(Nonlinear):
    """`nn.MaxPool2d` on (C, H, W); what it pads with is never the largest."""

    def __init__(
        self,
        in_shape: Sequence[int],
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        ceil_mode: bool,
    ) -> None:
        self.in_shape, self.kernel, self.stride = tuple(in_shape), list(kernel), list(stride)
        self.padding, self.dilation, self.ceil_mode = list(padding), list(dilation), ceil_mode

    def forward(self, z: Tensor) -> Tensor:
        return self._largest(z)[0]

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward(lower), self.forward(upper)

    def lines(self, lower: Tensor, upper: Tensor) -> PoolLines:
        low_at = self._largest(lower)[1]
        top, high_at, bottom, rest = self._first_two(lower, upper)
        base, width = torch.maximum(rest, bottom), top - bottom
        wide = width > torch.finfo(width.dtype).tiny
        high = (top - base) / torch.where(wide, width, torch.ones_like(width))
        # Of a box that is a point both 0 and 1 are sound.
        high = torch.where(wide, high, (rest <= bottom).to(high.dtype)).clamp(0, 1)
        # A selection drops NaN and infinity: what is known of such a window is nothing.
        return PoolLines(self.in_shape, low_at, high_at, high, base - high * bottom + (top - base).detach() * 0)

    def unsettled(self, lower: Tensor, upper: Tensor) -> Tensor:
        """The inputs of all windows in which more than one can be the largest."""
        _, _, bottom, rest = self._first_two(lower, upper)
        open_ = ~(rest <= bottom)
        count, size = self.kernel[0] * self.kernel[1], self._padded(open_.shape)
        each = open_.to(lower.dtype).flatten(2)[:, :, None].expand(-1, -1, count, -1).flatten(1, 2)
        hits = F.fold(each, size, self.kernel, self.dilation, 0, self.stride)
        top, left = self.padding
        height, width = self.in_shape[-2:]
        reached = F.pad(hits, [0, max(0, left + width - size[1]), 0, max(0, top + height - size[0])]) > 0
        return reached[..., top : top + height, left : left + width]

    def _largest(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The largest input of each window and its position."""
        return F.max_pool2d(
            z, self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode, return_indices=True
        )

    def _first_two(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """u_m, the position m, l_m and R of each window."""
        top, at = self._largest(upper)
        bottom = lower.flatten(2).gather(2, at.flatten(2)).view_as(top)
        if self.kernel[0] * self.kernel[1] == 1:
            return top, at, bottom, bottom
        above, left = self.padding
        size, (height, width) = self._padded(top.shape), self.in_shape[-2:]
        edges = [left, size[1] - left - width, above, size[0] - above - height]  # negative ones crop
        padded = F.pad(upper, edges, value=float("-inf"))
        windows = F.unfold(padded, self.kernel, self.dilation, 0, self.stride)
        rest = windows.unflatten(1, (upper.shape[1], -1)).topk(2, 2).values[:, :, 1]
        return top, at, bottom, rest.view_as(top)

    def _padded(self, out: Sequence[int]) -> tuple[int, int]:
        """The size of the map that all windows together need."""
        height, width = (
            (n - 1) * s + d * (k - 1) + 1 for n, s, d, k in zip(out[-2:], self.stride, self.dilation, self.kernel)
        )
        return height, width
