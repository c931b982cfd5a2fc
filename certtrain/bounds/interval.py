"""Interval bound propagation (Gowal et al. 2018, arXiv 1810.12715), the clean activations travelling with the box.

A `Region` holds the clean activation, the box's centre and its radius. The centre is not the clean activation: clipping
to the input range and ReLU shift it. On accelerators the two are stacked along the batch, so that a layer acts on both
in one call; on a processor they are apart, because half as much at a time stays in its cache.

For l2 balls a box is only drawn after the first layer that mixes coordinates. Until then every coordinate is
`clean_i + s_i d_k` with a k of its own and `||d||_2 <= eps` (normalisation, padding, reshaping), the region's radius is
s, and the first mixing layer's outputs have the exact bounds `W x + b -+ eps ||W_row diag(s)||_2`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from certtrain.bounds.affine import Affine
from certtrain.bounds.base import unsupported_set
from certtrain.bounds.nonlinear import Nonlinear
from certtrain.kernels.relu import IntervalRelu, halves
from certtrain.threat import Box, L2Ball, Threat


class Mixing(IntEnum):
    """How far the coordinates of a region are from the input's."""

    NONE = 0  # each is an affine function of one input coordinate of its own; for l2 the radius still lacks eps
    ONCE = 1  # one affine layer mixed them: the interval bounds are the exact ones
    MORE = 2


@dataclass(frozen=True)
class Region:
    """A set of activations around the clean one.

    Attributes:
        parts: the clean activations and the centres, (B, ...) each, or one (2B, ...) of both, in that order.
        radius: (B or 1, ...), >= 0; for an l2 ball with `Mixing.NONE` per unit of eps.
        mixing: see `Mixing`.
        ball: eps as a tensor of shape () or (B,) when the input set is an l2 ball, else None.
    """

    parts: tuple[Tensor, ...]
    radius: Tensor
    mixing: Mixing
    ball: Tensor | None

    @property
    def clean(self) -> Tensor:
        """(B, ...) the activations at the unperturbed input."""
        return halves(self.parts)[0]

    @property
    def centre(self) -> Tensor:
        """(B, ...) the middle of the box."""
        return halves(self.parts)[1]

    @property
    def example_shape(self) -> torch.Size:
        """The shape of one example."""
        return self.parts[0].shape[1:]

    def box_radius(self) -> Tensor:
        """The radius of a box that holds the region, (B or 1, ...)."""
        if self.ball is None or self.mixing > Mixing.NONE:
            return self.radius
        return self._times_eps(self.radius)

    def affine(self, op: Affine) -> Region:
        """The region after `op`; exact when nothing was mixed before."""
        parts = tuple(op.forward(part) for part in self.parts)
        if not op.mixes:
            return Region(parts, op.magnitude(self.radius), self.mixing, self.ball)
        if self.mixing > Mixing.NONE or self.ball is None:
            radius = op.magnitude(self.radius)
        else:
            radius = self._times_eps(op.norms(self.radius))
        return Region(parts, radius, Mixing.ONCE if self.mixing is Mixing.NONE else Mixing.MORE, self.ball)

    def relu(self) -> tuple[Region, tuple[Tensor, Tensor]]:
        """The region after ReLU, and lower and upper bounds (B, ...) of what was before it."""
        radius = self.box_radius().expand_as(self.centre)
        *parts, radius, lower, upper = IntervalRelu.apply(radius, *self.parts)
        return Region(tuple(parts), radius, Mixing.MORE, self.ball), (lower, upper)

    def nonlinear(self, op: Nonlinear) -> tuple[Region, tuple[Tensor, Tensor]]:
        """The region after `op`, and lower and upper bounds (B, ...) of what was before it."""
        radius = self.box_radius().expand_as(self.centre)
        lower, upper = self.centre - radius, self.centre + radius
        low, high = op.interval(lower, upper)
        parts = op.forward(self.clean), (low + high) / 2
        parts = parts if len(self.parts) == 2 else (torch.cat(parts),)
        return Region(parts, (high - low) / 2, Mixing.MORE, self.ball), (lower, upper)

    def range(self, functions: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds (B, S) of linear functions (B, S, n) of the region; exact where nothing was mixed."""
        radius = self.radius.flatten(1)
        if self.ball is not None and self.mixing is Mixing.NONE:
            spread = self._times_eps(torch.linalg.vector_norm(functions * radius[:, None], dim=2))
        else:
            spread = (functions.abs() @ radius[:, :, None]).squeeze(2)
        middle = (functions @ self.centre.flatten(1)[:, :, None]).squeeze(2)
        return middle - spread, middle + spread

    def _times_eps(self, norms: Tensor) -> Tensor:
        assert self.ball is not None
        return norms * self.ball.reshape(-1, *([1] * (norms.dim() - 1)))


def combine(left: Region, right: Region, sign: int) -> Region:
    """The region of left + sign * right: no dependence between the two is used (sound)."""
    parts = tuple(torch.add(one, other, alpha=sign) for one, other in zip(left.parts, right.parts, strict=True))
    return Region(parts, left.box_radius() + right.box_radius(), Mixing.MORE, left.ball)


def concatenate(parts: Sequence[Region], dim: int) -> Region:
    """The regions joined along `dim` of their (B, ...): a box, as two of them may depend on the same coordinate."""
    joined = tuple(torch.cat(some, dim) for some in zip(*(part.parts for part in parts), strict=True))
    radius = torch.cat([part.box_radius().expand_as(part.centre) for part in parts], dim)
    return Region(joined, radius, Mixing.MORE, parts[0].ball)


@dataclass(frozen=True)
class InputSet:
    """The perturbed inputs around a batch: a box (l-inf) or balls of radius `eps` (l2).

    Attributes:
        x: (B, ...) the batch.
        centre: (B, ...) of the box; x for balls.
        radius: (B, ...) of the box; None for balls.
        eps: () or (B,) radius of the balls; None for a box.
    """

    x: Tensor
    centre: Tensor
    radius: Tensor | None
    eps: Tensor | None

    @classmethod
    def of(cls, x: Tensor, threat: Threat) -> InputSet:
        """The set that the threat model allows around x.

        Raises:
            UserError: it is neither a box nor an l2 ball.
        """
        found = threat.region(x)
        if isinstance(found, Box):
            return cls(x, (found.lower + found.upper) / 2, (found.upper - found.lower) / 2, None)
        if isinstance(found, L2Ball):
            return cls(x, x, None, found.eps)
        raise unsupported_set(threat, "native")

    def region(self, *, channels_last: bool = False) -> Region:
        """The set as a region, for the interval pass.

        Args:
            channels_last: lay float32 images out on a processor as its convolutions are quickest, which all that
                follows inherits.
        """
        radius = self.radius if self.radius is not None else torch.ones_like(self.x[:1])
        if not self.x.is_cpu:
            return Region((torch.cat([self.x, self.centre]),), radius, Mixing.NONE, self.eps)
        if not channels_last or self.x.dim() != 4 or self.x.dtype != torch.float32:
            return Region((self.x, self.centre), radius, Mixing.NONE, self.eps)
        x, centre, radius = (_channels_last(one) for one in (self.x, self.centre, radius))
        return Region((x, centre), radius, Mixing.NONE, self.eps)

    def minimum(self, a: Tensor, rows: Tensor | None = None) -> Tensor:
        """min of <a, x'> over the set, exactly: (N, S) for a (N, S, *shape).

        `A centre - |A| radius` for a box, `A x - eps ||A||_2` for a ball.

        Args:
            a: S linear functions for each of N examples.
            rows: (N,) which example each is about; None when N = B, in order.
        """
        a = a.flatten(2)
        centre = _pick(self.centre, rows).flatten(1)[:, :, None]
        if self.radius is not None:
            spread = a.abs() @ _pick(self.radius, rows).flatten(1)[:, :, None]
            return (a @ centre - spread).squeeze(2)
        assert self.eps is not None
        eps = _pick(self.eps, rows)[:, None] if self.eps.dim() else self.eps
        return (a @ centre).squeeze(2) - eps * torch.linalg.vector_norm(a, dim=2)


def _pick(values: Tensor, rows: Tensor | None) -> Tensor:
    return values if rows is None else values[rows]


def _channels_last(x: Tensor) -> Tensor:
    """(B, C, H, W) with the channels of each pixel side by side in memory."""
    channels, height, width = x.shape[1:]
    if channels == 1 and x.is_contiguous():  # it is both ways at once, and torch goes by the strides alone
        return x.as_strided(x.shape, (height * width, 1, width, 1))
    return x.contiguous(memory_format=torch.channels_last)
