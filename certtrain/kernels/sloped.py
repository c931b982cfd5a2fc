"""A ReLU taken back through lower lines whose slopes are optimised, with the gradient of those slopes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from certtrain.kernels.relu import _chunks, _where_positive


class SlopedRelu(torch.autograd.Function):
    """Coefficients (N, S, d) through lines (N, S, d) below and (N, d) above: -> (N, S, d) and constants (N, S).

    `before = max(a, 0) low + min(a, 0) high`, `constant = <min(a, 0), offset>`, where each of the S functions has lower
    slopes of its own. The gradient of `low` is `max(a, 0)` times that of `before`; the upper lines get none.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, low: Tensor, high: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(a, low, high, offset)
        before, constant = torch.empty_like(a), a.new_empty(a.shape[:2])
        for some in _chunks(a):
            negative = a[some].clamp(max=0)
            torch.sub(a[some], negative, out=before[some]).mul_(low[some]).addcmul_(negative, high[some, None])
            constant[some] = (negative @ offset[some, :, None]).squeeze(2)
        return before, constant

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_constant: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        a, low, high, offset = ctx.saved_tensors
        grad_a = torch.empty_like(a) if ctx.needs_input_grad[0] else None
        grad_low = torch.empty_like(low) if ctx.needs_input_grad[1] else None
        for some in _chunks(a):
            up = grad[some]
            if grad_low is not None:
                torch.clamp(a[some], min=0, out=grad_low[some]).mul_(up)
            if grad_a is not None:
                above = torch.mul(up, low[some], out=grad_a[some])
                below = torch.mul(grad_constant[some, :, None], offset[some, None]).addcmul_(up, high[some, None])
                above += _where_positive(-a[some], below.sub_(above))
        return grad_a, grad_low, None, None
