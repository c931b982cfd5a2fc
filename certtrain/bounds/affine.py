"""The affine operations of a network: each acts on every example as `f(z) = M z + c`, with c of its own shape.

A bound needs five things of M and c, in the notation of Xu et al. 2020 (arXiv 2002.12920):

- `forward(z) = M z + c`, (N, *in) -> (N, *out);
- `magnitude(r) = |M| r`: the radius of the image of a box of radius r >= 0 (Gowal et al. 2018, arXiv 1810.12715);
- `norms(s) = sqrt((M * M) s^2)`: per output the l2 norm of the row of `M diag(s)`;
- `transpose(a) = M^T a`, coefficients (N, S, *out) -> (N, S, *in), S linear functions per example;
- `offset(a) = <a, c>`, (N, S, *out) -> (N, S), None where c = 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certtrain.bounds.transposed import TransposedConv


class Affine:
    """Base of the affine operations; `mixes` when an output depends on more than one input coordinate."""

    mixes = False

    def forward(self, z: Tensor) -> Tensor:
        """M z + c."""
        raise NotImplementedError

    def magnitude(self, r: Tensor) -> Tensor:
        """|M| r."""
        raise NotImplementedError

    def norms(self, s: Tensor) -> Tensor:
        """sqrt((M * M) s^2); where nothing is mixed it is |M| s."""
        return self.magnitude(s)

    def transpose(self, a: Tensor) -> Tensor:
        """M^T a."""
        raise NotImplementedError

    def offset(self, a: Tensor) -> Tensor | None:
        """<a, c>."""
        return None


def _sqrt(squares: Tensor) -> Tensor:
    # The gradient of sqrt at 0 is infinite: rows of zeros would turn the gradient into NaN. Raising them is sound.
    return squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt()


def _dot(a: Tensor, constant: Tensor) -> Tensor:
    """<a, constant> for a (N, S, *shape) and a constant of that shape."""
    return a.flatten(2) @ constant.flatten()


class LinearMap(Affine):
    """`nn.Linear` on the last dimension."""

    mixes = True

    def __init__(self, layer: nn.Linear) -> None:
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, z: Tensor) -> Tensor:
        return F.linear(z, self.weight, self.bias)

    def magnitude(self, r: Tensor) -> Tensor:
        return F.linear(r, self.weight.abs())

    def norms(self, s: Tensor) -> Tensor:
        return _sqrt(F.linear(s.square(), self.weight.square()))

    def transpose(self, a: Tensor) -> Tensor:
        return a @ self.weight

    def offset(self, a: Tensor) -> Tensor | None:
        return None if self.bias is None else (a.flatten(2, -2).sum(2) if a.dim() > 3 else a) @ self.bias


class _Convolution(Affine):
    """What both convolutions share: M is linear in the weight, and the bias is one number per channel."""

    mixes = True

    def __init__(self, layer: nn.Conv2d | nn.ConvTranspose2d, in_shape: Sequence[int]) -> None:
        self.weight, self.bias, self.in_size = layer.weight, layer.bias, tuple(in_shape[-2:])
        self.stride, self.padding = layer.stride, layer.padding
        self.dilation, self.groups = layer.dilation, layer.groups

    def forward(self, z: Tensor) -> Tensor:
        return self._conv(z, self.weight, self.bias)

    def magnitude(self, r: Tensor) -> Tensor:
        return self._conv(r, self.weight.abs(), None)

    def norms(self, s: Tensor) -> Tensor:
        # An output reads an input through one tap of the kernel at most: squares add up. Padding contributes no
        # perturbation: truncated kernels at the border have smaller norms by themselves.
        return _sqrt(self._conv(s.square(), self.weight.square(), None))

    def transpose(self, a: Tensor) -> Tensor:
        height, width = self.in_size  # the adjoint may have room for one position more
        return self._adjoint(a.flatten(0, 1))[..., :height, :width].unflatten(0, a.shape[:2])

    def offset(self, a: Tensor) -> Tensor | None:
        return None if self.bias is None else a.sum((-2, -1)) @ self.bias

    def _conv(self, z: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        raise NotImplementedError

    def _adjoint(self, rows: Tensor) -> Tensor:
        """M^T of each row, (R, *out), as an image that begins with the input's positions."""
        raise NotImplementedError


class ConvMap(_Convolution):
    """`nn.Conv2d` with zero padding."""

    def __init__(self, layer: nn.Conv2d, in_shape: Sequence[int]) -> None:
        super().__init__(layer, in_shape)
        reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size)]
        if layer.padding == "same":  # torch puts the odd one at the end
            before, after = [r // 2 for r in reach], [r - r // 2 for r in reach]
        else:
            before = [0, 0] if layer.padding == "valid" else list(layer.padding)
            after = before
        self.before = before
        # Inputs at the end that no kernel reaches are lost by the transposed convolution: put them back.
        spare = [
            (size + b + e - r - 1) % s for size, b, e, r, s in zip(self.in_size, before, after, reach, layer.stride)
        ]
        self.output_padding = spare

    def _conv(self, z: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(z, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def _adjoint(self, rows: Tensor) -> Tensor:
        shape = (self.stride, self.before, self.output_padding, self.groups, self.dilation)
        return TransposedConv.apply(rows, self.weight, *shape)


class TransposedConvMap(_Convolution):
    """`nn.ConvTranspose2d` with zero padding: M is the transposed matrix of a convolution with the same weight."""

    def __init__(self, layer: nn.ConvTranspose2d, in_shape: Sequence[int]) -> None:
        super().__init__(layer, in_shape)
        self.output_padding = layer.output_padding

    def _conv(self, z: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv_transpose2d(
            z, weight, bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )

    def _adjoint(self, rows: Tensor) -> Tensor:
        return F.conv2d(rows, self.weight, None, self.stride, self.padding, self.dilation, self.groups)


class Mean(Affine):
    """The mean over some dimensions of one example, counted from 0; c = 0."""

    mixes = True

    def __init__(self, in_shape: Sequence[int], dims: Sequence[int], keepdim: bool) -> None:
        self.in_shape, self.dims, self.keepdim = tuple(in_shape), tuple(sorted(dims)), keepdim
        self.count = math.prod(in_shape[dim] for dim in dims)

    def forward(self, z: Tensor) -> Tensor:
        return z.mean([dim + 1 for dim in self.dims], self.keepdim)

    magnitude = forward

    def norms(self, s: Tensor) -> Tensor:
        return _sqrt(s.square().sum([dim + 1 for dim in self.dims], self.keepdim)) / self.count

    def transpose(self, a: Tensor) -> Tensor:
        if not self.keepdim:
            for dim in self.dims:  # ascending, so that each finds its place
                a = a.unsqueeze(dim + 2)
        return (a / self.count).expand(*a.shape[:2], *self.in_shape)


class ScaleShift(Affine):
    """`scale * z + shift`, each None or broadcastable to one example: normalisation, BatchNorm, constants."""

    def __init__(self, shape: Sequence[int], scale: Tensor | None = None, shift: Tensor | None = None) -> None:
        self.shape, self.scale, self.shift = tuple(shape), scale, shift

    def forward(self, z: Tensor) -> Tensor:
        if self.scale is None:
            return z if self.shift is None else z + self.shift
        scaled = z * self.scale
        return scaled if self.shift is None else scaled.add_(self.shift)  # addcmul is slow where it broadcasts

    def magnitude(self, r: Tensor) -> Tensor:
        return r if self.scale is None else r * self.scale.abs()

    def transpose(self, a: Tensor) -> Tensor:
        return a if self.scale is None else a * self.scale

    def offset(self, a: Tensor) -> Tensor | None:
        return None if self.shift is None else _dot(a, self.shift.expand(self.shape))


class Reshape(Affine):
    """Any row-major change of shape that leaves the batch dimension alone."""

    def __init__(self, in_shape: Sequence[int], out_shape: Sequence[int]) -> None:
        self.in_shape, self.out_shape = tuple(in_shape), tuple(out_shape)

    def forward(self, z: Tensor) -> Tensor:
        return z.reshape(len(z), *self.out_shape)

    magnitude = forward

    def transpose(self, a: Tensor) -> Tensor:
        return a.reshape(*a.shape[:2], *self.in_shape)


class Pad(Affine):
    """Constant padding (negative amounts crop), in the order of `F.pad`."""

    def __init__(self, in_shape: Sequence[int], amounts: Sequence[int], value: float) -> None:
        self.in_shape, self.amounts, self.value = tuple(in_shape), list(amounts), value

    def forward(self, z: Tensor) -> Tensor:
        return F.pad(z, self.amounts, value=self.value)

    def magnitude(self, r: Tensor) -> Tensor:
        return F.pad(r, self.amounts)

    def transpose(self, a: Tensor) -> Tensor:
        return F.pad(a, [-amount for amount in self.amounts])

    def offset(self, a: Tensor) -> Tensor | None:
        return None if not self.value else _dot(a, self.forward(a.new_zeros(self.in_shape)))


class AvgPool(Affine):
    """`nn.AvgPool2d`: M >= 0 and c = 0."""

    mixes = True

    def __init__(
        self,
        in_shape: Sequence[int],
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        ceil_mode: bool,
        count_include_pad: bool,
        divisor: int | None,
    ) -> None:
        self.in_shape = tuple(in_shape)
        self.window = (list(kernel), list(stride), list(padding), ceil_mode, count_include_pad)
        self.divisor = divisor

    def forward(self, z: Tensor) -> Tensor:
        return F.avg_pool2d(z, *self.window, self.divisor)

    magnitude = forward

    def norms(self, s: Tensor) -> Tensor:
        ones = torch.ones_like(s[:1])
        weight = self.forward(ones) / F.avg_pool2d(ones, *self.window, 1)
        return _sqrt(F.avg_pool2d(s.square(), *self.window, 1)) * weight

    def transpose(self, a: Tensor) -> Tensor:
        rows = a.flatten(0, 1)
        like = rows.new_zeros(()).expand(len(rows), *self.in_shape)
        grad = torch.ops.aten.avg_pool2d_backward(rows, like, *self.window, self.divisor)
        return grad.unflatten(0, a.shape[:2])
