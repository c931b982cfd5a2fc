"""Statistics of the bounds inside a network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from certtrain.bounds.base import PreActivation


def unstable_share(pre_activations: Sequence[PreActivation]) -> Tensor:
    """The share of ReLU inputs with `lower < 0 < upper`, over all neurons of all layers and all examples.

    Only these lose precision in the relaxation. A detached scalar in [0, 1]. NaN bounds count as unstable: nothing is
    known about them. Activations without a kink at 0 have no such state; there must be at least one that has.
    """
    pre_activations = [p for p in pre_activations if p.kink]
    with torch.no_grad():
        unstable = [(~((p.lower >= 0) | (p.upper <= 0))).sum() for p in pre_activations]
        total = sum(p.lower.numel() for p in pre_activations)
        return torch.stack(unstable).sum() / total
