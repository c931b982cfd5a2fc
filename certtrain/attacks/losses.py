"""What attacks descend: functions of the logits that are small where the network errs."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from certtrain.errors import UserError, nearest
from certtrain.models.invariance import refuse_one_logit

LOSSES: tuple[str, ...] = ("margin", "cross_entropy", "dlr")
DLR_CLASSES = 3


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """(B,) `min_j z_y - z_j` over j != y, for (B, K) logits.

    Raises:
        UserError: K < 2: the margin would be infinite.
    """
    refuse_one_logit(logits.shape[1])
    others = logits.scatter(1, y[:, None], -math.inf).amax(1)
    return logits.gather(1, y[:, None])[:, 0] - others


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """(B,) the margin over the largest minus the third largest logit, `(z_y - max_j z_j) / (z_1st - z_3rd)`, j != y.

    Minus the difference of logits ratio of Croce and Hein 2020 (arXiv 2003.01690, eq. 6): like the margin it does not
    change when logits are shifted, and unlike it not when they are scaled, either. Fewer than three classes have no
    third logit: there it is the margin.
    """
    if logits.shape[1] < DLR_CLASSES:
        return margin(logits, y)
    top = logits.topk(DLR_CLASSES, dim=1).values
    return margin(logits, y) / (top[:, 0] - top[:, 2]).clamp_min(1e-12)


def descended(loss: str, logits: Tensor, y: Tensor) -> Tensor:
    """(B,) the values that an attack makes small; `cross_entropy` with the opposite sign."""
    if loss == "cross_entropy":
        return -F.cross_entropy(logits, y, reduction="none")
    return margin(logits, y) if loss == "margin" else dlr(logits, y)


def check_loss(loss: str) -> None:
    """Refuse an unknown loss.

    Raises:
        UserError: with the nearest names.
    """
    if loss not in LOSSES:
        raise UserError(f"unknown loss {loss!r} of an attack", where="loss", fix=nearest(loss, LOSSES))
