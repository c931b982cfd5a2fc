"""SmoothAdv (Salman et al. 2019, arXiv 1906.04584): noise around inputs that fool the smoothed network."""

from __future__ import annotations

from certtrain.methods.gaussian import NoisyCrossEntropy
from certtrain.methods.noisy import NoisyTraining
from certtrain.methods.smoothed_attack import SmoothedAttack, SmoothedPGD
from certtrain.schedules import Ramp


class SmoothAdv(NoisyTraining):
    """`mean_i CE(z(x* + delta_i), y) + l1 ||w||_1`, with x* attacked under the same noises.

    The authors' eps rises over 10 epochs in steps of an epoch, from a tenth of it; ours over the ramp.

    Args:
        sigma, noises, ramp, l1: see `NoisyTraining`.
        attack: `SmoothedPGD` or `SmoothedDDN`.

    Raises:
        UserError: as `NoisyTraining`.
    """

    def __init__(
        self,
        sigma: float,
        ramp: Ramp,
        noises: int = 4,
        attack: SmoothedAttack = SmoothedPGD(),  # noqa: B008 - frozen
        l1: float = 0.0,
    ) -> None:
        super().__init__(sigma, NoisyCrossEntropy(), noises, attack, ramp, l1)
