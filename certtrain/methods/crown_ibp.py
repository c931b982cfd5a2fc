"""CROWN-IBP (Zhang, Chen, Xiao, Gowal, Stanforth, Li, Boning and Hsieh 2020, arXiv 1906.06316)."""

from __future__ import annotations

from fractions import Fraction

from certtrain.methods.ibp import IBP, Init, Regulariser
from certtrain.methods.mixture import Mixture
from certtrain.schedules import Ramp, Weight, as_weight
from certtrain.threat import Threat
from certtrain.threat.scales import Scales

KAPPA, BETA = Weight(1.0, 0.5, "eps"), Weight(1.0, 0.0, "eps")


class CrownIBP(IBP):
    """IBP's objective with the margins `m = beta m_crown_ibp + (1 - beta) m_ibp`, see `Mixture`.

    beta moves from the tight bound, which trains well early, to the one that the network will be certified with. With
    `loss_fusion` (Xu et al. 2020, arXiv 2002.12920) CROWN-IBP bounds the loss itself.

    Args:
        train_eps, ramp, norm, l1, regulariser, init, lower, upper, scales: see `IBP`.
        kappa: weight of the clean loss. Theirs: from 1 to 0.5 by eps, or 0 throughout.
        beta: weight of CROWN-IBP. Theirs: from 1 to 0 by eps; 1 throughout for small radii such as 2/255.
        loss_fusion: bound the loss instead of the margins.

    Raises:
        UserError: as `IBP`.
    """

    def __init__(
        self,
        train_eps: Fraction | float | str,
        ramp: Ramp,
        norm: str | Threat = "linf",
        kappa: Weight = KAPPA,
        beta: Weight = BETA,
        l1: float = 0.0,
        regulariser: Regulariser = None,
        init: Init = "default",
        lower: float | None = 0.0,
        upper: float | None = 1.0,
        loss_fusion: bool = False,
        scales: Scales | None = None,
    ) -> None:
        super().__init__(train_eps, ramp, norm, kappa, l1, regulariser, init, lower, upper, scales)
        self.mixture = Mixture(as_weight(beta, "method.beta"), loss_fusion)
