"""The losses and counts that the methods share."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from certtrain.bounds.verdict import verified

# Exactly the layers whose weights multiply activations: L1 and the IBP initialisation leave biases and BatchNorm alone.
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def robust_cross_entropy(margins: Tensor, reduction: Literal["mean", "none"] = "mean") -> Tensor:
    """Cross-entropy at the worst logits that the bounds allow, `CE([0, -m], class 0) = logsumexp([0, -m])`.

    An upper bound of the cross-entropy anywhere in the threat model (Wong and Kolter 2018, Gowal et al. 2018).

    Args:
        margins: (B, K-1) lower bounds of `z_y - z_j`.
        reduction: `mean` over the batch, or `none`: (B,).
    """
    losses = torch.logsumexp(torch.cat([torch.zeros_like(margins[:, :1]), -margins], dim=1), dim=1)
    return losses.mean() if reduction == "mean" else losses


def margins_at(logits: Tensor, y: Tensor) -> Tensor:
    """(B, K-1) margins `z_y - z_j` for j != y, in ascending order of j, as those of bounds are.

    Args:
        logits: (B, K).
        y: (B,) classes.
    """
    others = torch.arange(logits.shape[1] - 1, device=logits.device)
    others = others + (others >= y[:, None])
    return logits.gather(1, y[:, None]) - logits.gather(1, others)


def proved_share(margins: Tensor, logits: Tensor, y: Tensor) -> Tensor:
    """The share of examples classified correctly whose margins' lower bounds prove it: a detached scalar."""
    return (verified(margins.detach()) & (logits.detach().argmax(1) == y)).float().mean()


def l1_norm(network: nn.Module) -> Tensor:
    """The sum of |w| over the weights of all linear and convolution layers; a module used twice counts once."""
    weights = [module.weight for module in network.modules() if isinstance(module, WEIGHTED)]
    return torch.stack([weight.abs().sum() for weight in weights]).sum() if weights else torch.zeros(())


def accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """The share of (B, K) logits whose largest is the class y: a detached scalar."""
    return (logits.detach().argmax(1) == y).float().mean()


def add_l1(loss: Tensor, parts: dict[str, Tensor], network: nn.Module, l1: float) -> Tensor:
    """The loss plus `l1 ||w||_1`, noted in the parts as `loss_l1`; nothing is computed for l1 = 0."""
    if not l1:
        return loss
    penalty = l1 * l1_norm(network)
    parts["loss_l1"] = penalty.detach()
    return loss + penalty
