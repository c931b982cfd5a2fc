"""Bounds inside a network, kept for smaller balls: what holds in a ball holds in every ball inside of it.

The dear part of CROWN are the bounds of the neurons inside. Found at a radius R they stay valid at r <= R around the
same input, where they settle neurons for nothing. The other way round it would be unsound, and so `Intermediates` carry
the set that they are about, and give their boxes for no set that reaches out of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from certtrain.bounds.base import unsupported_set
from certtrain.threat import Box as Set
from certtrain.threat import L2Ball, Threat

Box = tuple[Tensor, Tensor]
Weights = tuple[tuple[int, int], ...]
SAME = 1e-6  # the relative difference of logits that another batch size may make


@dataclass(frozen=True)
class Intermediates:
    """Bounds of the inputs of a network's nonlinearities over sets around x: all l-inf boxes, or all l2 balls.

    Attributes:
        x: (B, ...) inputs.
        corners: lower and upper corners (B, ...) of the boxes that were bounded; None for balls.
        eps: (B,) radii of the balls; None for boxes.
        clean: (B, K) logits at x.
        boxes: by step, lower and upper bounds (B, ...). Where the set is all of space, so are they.
        weights: of the network, see `weights_of`.
    """

    x: Tensor
    corners: Box | None
    eps: Tensor | None
    clean: Tensor
    boxes: Mapping[int, Box]
    weights: Weights

    @classmethod
    def of(cls, x: Tensor, threat: Threat, clean: Tensor, boxes: Mapping[int, Box], weights: Weights) -> Intermediates:
        """Bounds that were found over the threat model around x."""
        found = threat.region(x)
        if isinstance(found, Set):
            return cls(x, (found.lower, found.upper), None, clean, boxes, weights)
        if isinstance(found, L2Ball):
            return cls(x, None, _radii(found), clean, boxes, weights)
        raise unsupported_set(threat, "native")

    def unknown(self, x: Tensor, clean: Tensor) -> Intermediates:
        """Nothing, about other inputs of the same network, to `put` such bounds in."""
        corners = None if self.corners is None else _all_of_space(self.corners, len(x))
        eps = None if self.eps is None else self.eps.new_full((len(x),), torch.inf)
        boxes = {step: _all_of_space(box, len(x)) for step, box in self.boxes.items()}
        return replace(self, x=x, corners=corners, eps=eps, clean=clean.clone(), boxes=boxes)

    def put(self, rows: Tensor, other: Intermediates) -> None:
        """Take over those of the examples `rows`, (N,): all that `other` has.

        Raises:
            ValueError: they are of another network or of other inputs.
        """
        if other.weights != self.weights or not torch.equal(other.x, self.x[rows]):
            raise ValueError("these bounds are of another network or other inputs")
        for mine, theirs in zip(self._tensors(), other._tensors(), strict=True):
            mine[rows] = theirs

    def at(self, rows: Tensor) -> Intermediates:
        """Those of the examples `rows`, (N,)."""
        corners = None if self.corners is None else _rows(self.corners, rows)
        eps = None if self.eps is None else self.eps[rows]
        boxes = {step: _rows(box, rows) for step, box in self.boxes.items()}
        return replace(self, x=self.x[rows], corners=corners, eps=eps, clean=self.clean[rows], boxes=boxes)

    def holds(self, threat: Threat) -> Tensor:
        """(B,) whether the threat model's set around x lies in the one bounded; nothing lies in what is no number."""
        found = threat.region(self.x)
        if isinstance(found, Set) and self.corners is not None:
            lowest, highest = self.corners
            return ((lowest <= found.lower) & (found.upper <= highest)).flatten(1).all(1)
        if isinstance(found, L2Ball) and self.eps is not None:
            return _radii(found) <= self.eps
        return torch.zeros(len(self.x), dtype=torch.bool, device=self.x.device)

    def reaching(self, threat: Threat) -> Intermediates:
        """These, with nothing known of the examples whose set does not hold the threat model's."""
        rows = self.holds(threat).nonzero().flatten()
        if len(rows) == len(self.x):
            return self
        found = self.unknown(self.x, self.clean)
        found.put(rows, self.at(rows))
        return found

    def over(self, x: Tensor, threat: Threat, clean: Tensor, weights: Weights) -> Mapping[int, Box]:
        """The boxes, for the threat model around x: the same inputs, and sets inside of those bounded.

        Raises:
            ValueError: another network, precision, input or norm, or a set that reaches out of the one bounded.
        """
        if weights != self.weights:
            raise ValueError("these bounds are of another network, or of weights that were changed since")
        if x.dtype != self.x.dtype:
            raise ValueError(f"bounds computed in {self.x.dtype} prove nothing in {x.dtype}")
        if x.shape != self.x.shape or not torch.equal(x, self.x):
            raise ValueError("these bounds are about other inputs")
        if not torch.allclose(clean, self.clean, rtol=SAME, atol=SAME * float(self.clean.abs().max())):
            raise ValueError("these bounds are of a network with other logits")
        if not bool(self.holds(threat).all()):
            raise ValueError("bounds hold in smaller sets only: this one reaches out of theirs")
        return self.boxes

    def _tensors(self) -> list[Tensor]:
        shape = [*(self.corners or ()), *([] if self.eps is None else [self.eps])]
        return [*shape, self.clean, *(end for step in sorted(self.boxes) for end in self.boxes[step])]


def weights_of(network: nn.Module) -> Weights:
    """What changes with the network's parameters, buffers and mode: their identities and versions."""
    tensors = [*network.parameters(), *network.buffers()]
    modes = [(id(module), int(module.training)) for module in network.modules()]
    return (*((id(t), -1 if t.is_inference() else t._version) for t in tensors), *modes)


def narrowed(box: Box, known: Box | None) -> Box:
    """The intersection of two boxes of the same thing; where the known one is no number it says nothing."""
    if known is None:
        return box
    lower, upper = (torch.where(end.isnan(), own, end) for own, end in zip(box, known))
    return torch.maximum(box[0], lower), torch.minimum(box[1], upper)


def _radii(ball: L2Ball) -> Tensor:
    return ball.eps.flatten().expand(len(ball.x)).clone()


def _rows(box: Box, rows: Tensor) -> Box:
    return box[0][rows], box[1][rows]


def _all_of_space(box: Box, count: int) -> Box:
    shape = (count, *box[0].shape[1:])
    return box[0].new_full(shape, -torch.inf), box[1].new_full(shape, torch.inf)
