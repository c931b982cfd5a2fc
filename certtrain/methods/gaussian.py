"""Training under Gaussian noise, for randomized smoothing (Cohen, Rosenfeld and Kolter 2019, arXiv 1902.02918)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from certtrain.methods.base import Value
from certtrain.methods.noisy import Noisy, NoisyLoss, NoisyTraining, cross_entropy


class NoisyCrossEntropy(NoisyLoss):
    """`mean_i CE(z(x + delta_i), y)`."""

    def loss(
        self, network: nn.Module, logits: Tensor, inputs: Noisy, values: Mapping[str, Value]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Parts: loss_noisy, the loss itself."""
        loss = cross_entropy(logits, inputs.y)
        return loss, {"loss_noisy": loss.detach()}


class Gaussian(NoisyTraining):
    """`mean_i CE(z(x + delta_i), y) + l1 ||w||_1`.

    Args:
        sigma: standard deviation of the noise, in units of the input range, > 0.
        noises: m, of each input and step; 1 in the paper.
        l1: weight of the sum of |w| over linear and convolution weights.

    Raises:
        UserError: as `NoisyTraining`.
    """

    def __init__(self, sigma: float, noises: int = 1, l1: float = 0.0) -> None:
        super().__init__(sigma, NoisyCrossEntropy(), noises, l1=l1)
