"""Training under Gaussian noise, for randomized smoothing (Cohen, Rosenfeld and Kolter 2019, arXiv 1902.02918)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping

import torch.nn.functional as F
from torch import nn

from certtrain.bounds.base import BoundEngine
from certtrain.data.batch import Batch
from certtrain.errors import UserError
from certtrain.methods.base import Method, Objective, Streams, Value, non_negative
from certtrain.methods.losses import accuracy, add_l1


class Gaussian(Method):
    """`CE(z(x + delta), y) + l1 ||w||_1` with one fresh delta ~ N(0, sigma^2 I) per example and step.

    The noise is added to the input in [0, 1] and not clamped, before the network's normalisation: as the smoothed
    classifier will draw it. The draw's number is the step, so that resuming needs no generator's state.

    Args:
        sigma: standard deviation of the noise, in units of the input range, > 0.
        l1: weight of the sum of |w| over linear and convolution weights.

    Raises:
        UserError: sigma is not a finite number > 0, or l1 is negative.
    """

    def __init__(self, sigma: float, l1: float = 0.0) -> None:
        if isinstance(sigma, bool) or not isinstance(sigma, (int, float)) or not (math.isfinite(sigma) and sigma > 0):
            raise UserError(
                f"sigma = {sigma!r} is not a finite number > 0",
                where="sigma",
                fix="sigma=0.25; method=standard trains without noise",
            )
        self.sigma, self.l1 = float(sigma), non_negative(l1, "method.l1")

    def prepare(
        self, network: nn.Module, engine: BoundEngine | None, batch: Batch, step: int, streams: Streams
    ) -> Batch:
        """The batch under the step's noise."""
        return batch._replace(x=batch.x + streams.normal(batch.x, batch.index, step, self.sigma))

    def objective(
        self,
        network: nn.Module,
        engine: BoundEngine | None,
        inputs: Batch,
        phase: Hashable,
        values: Mapping[str, Value],
    ) -> Objective:
        """Parts: loss_noisy, noisy (the accuracy under noise), and loss_l1 when there is one."""
        logits = network(inputs.x)
        loss = F.cross_entropy(logits, inputs.y)
        parts = {"loss_noisy": loss.detach(), "noisy": accuracy(logits, inputs.y)}
        return Objective(add_l1(loss, parts, network, self.l1), parts)

    def scheduled(self, step: int) -> dict[str, float]:
        """sigma, constant."""
        return {"sigma": self.sigma}
