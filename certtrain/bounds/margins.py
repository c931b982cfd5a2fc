"""The margins `z_y - z_j` through the last linear layer, by its rows: `(W_y - W_j) h + b_y - b_j` of what it reads, h.

As a matrix of all classes for each example, (B, K-1, K), they would cost B K^2 n where the rows cost B K n.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from certtrain.bounds.affine import LinearMap
from certtrain.bounds.base import other_classes
from certtrain.bounds.interval import Mixing, Region
from certtrain.kernels.distance import WeightedDistance

FEW_CLASSES = 32  # up to which the products of all pairs of classes are cheaper than each example's own


def margin_rows(layer: LinearMap, y: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """The margins as functions (B, S, n) of what the layer reads, and constants (B, S), or () where it has no bias.

    Args:
        layer: the last one, from (B, n) to logits (B, K).
        y: (B,) classes.
        others: (B, S) classes j.
    """
    functions = F.embedding(y[:, None], layer.weight) - F.embedding(others, layer.weight)
    if layer.bias is None:
        return functions, functions.new_zeros(())
    return functions, layer.bias[y][:, None] - layer.bias[others]


def margin_interval(region: Region, layer: LinearMap, y: Tensor) -> tuple[Tensor, Tensor]:
    """Interval bounds (B, K-1) of the margins over a region of what the layer reads.

    The middle of margin j is `z_y - z_j` at the box's centre; only `|W_y - W_j| r` needs both rows.
    """
    classes = len(layer.weight)
    others = other_classes(y, classes)
    if region.ball is not None and region.mixing is Mixing.NONE:  # the norms of rows, not their absolute values
        functions, constant = margin_rows(layer, y, others)
        lower, upper = region.range(functions)
        return lower + constant, upper + constant
    radius = region.radius.flatten(1)
    if classes <= FEW_CLASSES:
        gaps = (layer.weight[:, None] - layer.weight).abs().flatten(0, 1)
        spread = F.linear(radius, gaps).unflatten(1, (classes, classes)).expand(len(y), -1, -1)
        spread = spread.gather(1, y[:, None, None].expand(-1, 1, classes))[:, 0]
    else:
        spread = WeightedDistance.apply(F.embedding(y, layer.weight), layer.weight, radius.expand(len(y), -1))
    logits = layer.forward(region.centre.flatten(1))
    middle = logits.gather(1, y[:, None]) - logits
    middle, spread = middle.gather(1, others), spread.gather(1, others)
    return middle - spread, middle + spread


def combined(weights: Tensor, y: Tensor) -> Tensor:
    """The functions (B, S, K) of the logits that weighted sums (B, S, K-1) of the margins are."""
    others = other_classes(y, weights.shape[2] + 1)[:, None].expand_as(weights)
    own = y[:, None, None].expand(-1, weights.shape[1], 1)
    functions = weights.new_zeros(*weights.shape[:2], weights.shape[2] + 1)
    return functions.scatter(2, others, -weights).scatter(2, own, weights.sum(2, keepdim=True))
