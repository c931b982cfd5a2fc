"""Binary classifiers that give one logit: class 1 where it is above 0."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

READ_AS = "one logit z, read as (0, z): class 1 where z > 0, with the margin z, and class 0 otherwise, with -z"


class TwoLogits(nn.Module):
    """`z` to `(0, z)`, from (B, 1) to (B, 2): class 0 has the logit 0.

    The margin of class 1 is then z and that of class 0 is -z, and the cross-entropy that of the sigmoid of z. Bound
    engines take it for the linear layer that it is, which costs them nothing. It has no parameters and nothing in a
    state_dict.
    """

    weight: Tensor
    bias = None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.tensor([[0.0], [1.0]]), persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        """(B, 2) logits of (B, 1)."""
        return F.linear(z, self.weight)


def reads_one_logit(network: nn.Module) -> bool:
    """Whether the network is one of a single logit with `TwoLogits` behind it."""
    return isinstance(network, nn.Sequential) and len(network) > 0 and isinstance(network[-1], TwoLogits)
