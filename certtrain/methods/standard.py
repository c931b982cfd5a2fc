"""Ordinary training: the baseline that every certificate is compared with."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from certtrain.bounds.base import BoundEngine
from certtrain.data.batch import Batch
from certtrain.methods.base import Method, Objective, Value, non_negative
from certtrain.methods.losses import accuracy, add_l1


class Standard(Method):
    """`CE(z(x), y) + l1 ||w||_1`.

    Args:
        l1: weight of the sum of |w| over linear and convolution weights.

    Raises:
        UserError: l1 is negative or not finite.
    """

    def __init__(self, l1: float = 0.0) -> None:
        self.l1 = non_negative(l1, "method.l1")

    def objective(
        self,
        network: nn.Module,
        engine: BoundEngine | None,
        inputs: Batch,
        phase: Hashable,
        values: Mapping[str, Value],
    ) -> Objective:
        """Parts: loss_natural, clean, and loss_l1 when there is one."""
        return natural_objective(network, inputs, self.l1)


def natural_objective(network: nn.Module, batch: Batch, l1: float) -> Objective:
    """Cross-entropy at the unperturbed inputs, with L1; the bound-propagation methods warm up with it."""
    logits: Tensor = network(batch.x)
    loss = F.cross_entropy(logits, batch.y)
    parts = {"loss_natural": loss.detach(), "clean": accuracy(logits, batch.y)}
    return Objective(add_l1(loss, parts, network, l1), parts)
