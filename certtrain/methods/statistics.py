"""Figures that tell how a training with bounds goes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from certtrain.bounds.base import Bounds, PreActivation
from certtrain.methods.losses import margins_at


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


def tightness(logits: Tensor, bounds: Bounds, y: Tensor) -> dict[str, float]:
    """`sum(m - m_crown_ibp) / sum(m - m_ibp)` of the margins m at the inputs and their lower bounds.

    1 where the propagated boxes lose nothing against the linear relaxation, near 0 where they lose nearly everything.
    Nothing where IBP's bounds are the margins themselves, as at eps = 0, or are not finite.

    Args:
        logits: (B, K) at the inputs.
        bounds: with `ibp` and `crown_ibp`.
        y: (B,) classes.
    """
    margins = margins_at(logits, y).double()
    wide, tight = (float((margins - bounds.margins[method].double()).sum()) for method in ("ibp", "crown_ibp"))
    rounding = 1e-5 * float(margins.abs().sum())
    return {"tightness": tight / wide} if math.isfinite(tight) and rounding < wide < math.inf else {}


def attack_success(clean: Tensor, attacked: Tensor, y: Tensor) -> dict[str, float]:
    """The share of the examples right at x that are wrong at x*; nothing where none is right.

    Args:
        clean, attacked: (B, K) logits at x and x*.
        y: (B,) classes.
    """
    right = clean.argmax(1) == y
    turned = right & (attacked.argmax(1) != y)
    return {"attack_success": float(turned.sum() / right.sum())} if bool(right.any()) else {}
