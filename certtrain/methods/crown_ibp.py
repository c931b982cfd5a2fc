"""CROWN-IBP (Zhang, Chen, Xiao, Gowal, Stanforth, Li, Boning and Hsieh 2020, arXiv 1906.06316)."""

from __future__ import annotations

from fractions import Fraction

from torch import Tensor

from certtrain.bounds.base import Bounds
from certtrain.methods.ibp import IBP, Init
from certtrain.methods.regularisers import ShiRegulariser
from certtrain.schedules import Ramp, Weight
from certtrain.threat import Norm

KAPPA, BETA = Weight(1.0, 0.5, "eps"), Weight(1.0, 0.0, "eps")
NEGLIGIBLE_BETA = 1e-5  # below it the CROWN pass costs much and moves nothing


class CrownIBP(IBP):
    """IBP's objective with the margins `m = beta m_crown_ibp + (1 - beta) m_ibp`.

    Both are lower bounds, so their mixture is one: beta moves from the tight bound, which trains well early, to the one
    that the network will be certified with. Below beta = 1e-5 only IBP is computed, at beta = 1 only CROWN-IBP.

    Args:
        train_eps, ramp, norm, l1, regulariser, init, lower, upper: see `IBP`.
        kappa: weight of the clean loss. Theirs: from 1 to 0.5 by eps, or 0 throughout.
        beta: weight of CROWN-IBP. Theirs: from 1 to 0 by eps; 1 throughout for small radii such as 2/255.

    Raises:
        UserError: as `IBP`.
    """

    def __init__(
        self,
        train_eps: Fraction | float | str,
        ramp: Ramp,
        norm: Norm = "linf",
        kappa: Weight = KAPPA,
        beta: Weight = BETA,
        l1: float = 0.0,
        regulariser: ShiRegulariser | None = None,
        init: Init = "default",
        lower: float | None = 0.0,
        upper: float | None = 1.0,
        loss_fusion: bool = False,
    ) -> None:
        super().__init__(train_eps, ramp, norm, kappa, l1, regulariser, init, lower, upper)
        self.beta, self.loss_fusion = beta, loss_fusion

    def scheduled(self, step: int) -> dict[str, float]:
        """eps, kappa, beta, and the regulariser's weight when there is one."""
        return {**super().scheduled(step), "beta": self.beta.at(step, self.ramp)}

    def bound_methods(self, step: int) -> tuple[str, ...]:
        """`ibp`, `crown_ibp` or both, as beta asks for."""
        beta = self.beta.at(step, self.ramp)
        if beta < NEGLIGIBLE_BETA:
            return ("ibp",)
        return ("ibp", "crown_ibp") if beta < 1 else ("crown_ibp",)

    def margins(self, bounds: Bounds, step: int) -> Tensor:
        """(B, K-1) the mixture."""
        methods = self.bound_methods(step)
        if len(methods) == 1:
            return bounds.margins[methods[0]]
        beta = self.beta.at(step, self.ramp)
        return beta * bounds.margins["crown_ibp"] + (1 - beta) * bounds.margins["ibp"]
