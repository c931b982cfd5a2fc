"""Loss fusion (Xu et al. 2020, arXiv 2002.12920): bound the loss itself, by one backward pass instead of K-1.

With the margins `m_j = z_y - z_j` the cross-entropy is `log g`, `g = 1 + sum_{j != y} exp(-m_j)`. On interval bounds
[l_j, u_j] of the margins each convex exp lies below its chord,

    exp(-m_j) <= exp(-u_j) + s_j (u_j - m_j),   s_j = (exp(-l_j) - exp(-u_j)) / (u_j - l_j) >= 0,

so that `g <= 1 + sum exp(-u_j) + T`, `T = sum s_j u_j - min sum s_j m_j`: the minimum is that of one linear function.
All of it is computed divided by `exp(M)`, M = max(0, -l_j), and put together as logarithms: no logit is too large.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SERIES_BELOW = 1e-3  # widths u - l under which the chord's slope comes from a series


def fused_upper_bound(lower: Tensor, upper: Tensor, least: Callable[[Tensor], Tensor]) -> Tensor:
    """Upper bounds (B,) of the cross-entropy; NaN or infinite where those of the margins are.

    Args:
        lower: (B, K-1) lower bounds l of the margins.
        upper: (B, K-1) upper bounds u of the margins.
        least: maps weights s >= 0, (B, 1, K-1), to lower bounds (B, 1) of `sum_j s_j m_j`.
    """
    limits = torch.finfo(lower.dtype)
    # M only scales: the value does not depend on it, and so neither does the gradient.
    largest = F.pad(-lower.detach(), (1, 0)).amax(1, keepdim=True)
    # A slope that underflows would drop its class from the bound. A steeper line through (u, exp(-u)) is sound.
    slopes = (-lower - largest).exp().clamp_min(limits.tiny) * _mean_decay(upper - lower)
    reach = (slopes * upper).sum(1, keepdim=True)
    rise = reach - least(slopes[:, None])
    # T >= 0. What is left of two sums that cancel is rounding, which the logarithm must not take for a small T.
    noise = limits.eps * (slopes * upper).abs().sum(1, keepdim=True) + limits.tiny
    rise = torch.maximum(rise, noise.detach())
    flat = torch.logsumexp(F.pad(-upper, (1, 0)), 1)  # 1 + sum exp(-u_j): the chords at their lower ends
    return torch.logaddexp(flat, (largest + rise.log()).squeeze(1))


def _mean_decay(width: Tensor) -> Tensor:
    """`(1 - exp(-w)) / w`, the mean of exp(-t) over [0, w]; for small w the series, which lies above it (sound)."""
    small = width < SERIES_BELOW
    series = 1 - width / 2 + width.square() / 6
    safe = torch.where(small, torch.ones_like(width), width)  # the branch not taken must not divide by 0 either
    return torch.where(small, series, -torch.expm1(-safe) / safe)
