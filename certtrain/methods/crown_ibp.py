"""CROWN-IBP (Zhang, Chen, Xiao, Gowal, Stanforth, Li, Boning and Hsieh 2020, arXiv 1906.06316)."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from torch import Tensor

from certtrain.bounds.base import BoundEngine, Bounds, FusedLoss
from certtrain.data.batch import Batch
from certtrain.methods.base import Value
from certtrain.methods.ibp import IBP, Init, Phase, Regulariser
from certtrain.methods.losses import proved_share, robust_cross_entropy
from certtrain.scales import Scales
from certtrain.schedules import Ramp, Weight, as_weight
from certtrain.threat import Norm, ThreatModel

KAPPA, BETA = Weight(1.0, 0.5, "eps"), Weight(1.0, 0.0, "eps")
NEGLIGIBLE_BETA = 1e-5  # below it the CROWN pass costs much and moves nothing


class CrownIBP(IBP):
    """IBP's objective with the margins `m = beta m_crown_ibp + (1 - beta) m_ibp`.

    Both are lower bounds, so their mixture is one: beta moves from the tight bound, which trains well early, to the one
    that the network will be certified with. Below beta = 1e-5 only IBP is computed, at beta = 1 only CROWN-IBP.

    With `loss_fusion` (Xu et al. 2020, arXiv 2002.12920) CROWN-IBP bounds the loss itself, in one backward pass instead
    of one per class, and the robust loss is the mean of

        beta L_fused + (1 - beta) CE([0, -m_ibp], 0),

    a mixture of two upper bounds of an example's loss, and so one itself, and IBP's loss at beta = 0. Losses are mixed,
    not bounds of `exp(loss)` under one logarithm: one of these can be e^50 times the other, and then nothing is left of
    the tighter one, neither in the value nor in the gradient.

    Args:
        train_eps, ramp, norm, l1, regulariser, init, lower, upper, scales: see `IBP`.
        kappa: weight of the clean loss. Theirs: from 1 to 0.5 by eps, or 0 throughout.
        beta: weight of CROWN-IBP. Theirs: from 1 to 0 by eps; 1 throughout for small radii such as 2/255.
        loss_fusion: bound the loss instead of the margins. There is then no bound of single margins to count examples
            with: instead of train_verified the parts have train_verified_ibp, from the IBP bounds, at every step.

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
        regulariser: Regulariser = None,
        init: Init = "default",
        lower: float | None = 0.0,
        upper: float | None = 1.0,
        loss_fusion: bool = False,
        scales: Scales | None = None,
    ) -> None:
        super().__init__(train_eps, ramp, norm, kappa, l1, regulariser, init, lower, upper, scales)
        self.beta, self.loss_fusion = as_weight(beta, "method.beta"), loss_fusion

    def scheduled(self, step: int) -> dict[str, float]:
        """eps, kappa, beta, and the regulariser's weight when there is one."""
        return {**super().scheduled(step), "beta": self.beta.at(step, self.ramp)}

    def phase(self, step: int, *, sparing: bool = True) -> Phase:
        """As of `IBP`, with IBP's bounds, CROWN-IBP's or both, as beta asks for."""
        phase, beta = super().phase(step, sparing=sparing), self.beta.at(step, self.ramp)
        if not phase.robust or beta < NEGLIGIBLE_BETA:
            return phase
        return phase._replace(methods=("ibp", "crown_ibp") if beta < 1 else ("crown_ibp",))

    def bounds(self, engine: BoundEngine, batch: Batch, threat: ThreatModel, phase: Phase) -> Bounds:
        """The bounds of the phase; the fused loss, which has IBP's with it."""
        if self.loss_fusion and "crown_ibp" in phase.methods:
            return engine.fused_loss(batch.x, batch.y, threat, "crown_ibp")
        return super().bounds(engine, batch, threat, phase)

    def margins(self, bounds: Bounds, phase: Phase, values: Mapping[str, Value]) -> Tensor:
        """(B, K-1) the mixture."""
        if len(phase.methods) == 1:
            return bounds.margins[phase.methods[0]]
        beta = values["beta"]
        return beta * bounds.margins["crown_ibp"] + (1 - beta) * bounds.margins["ibp"]

    def robust(
        self, bounds: Bounds, y: Tensor, phase: Phase, values: Mapping[str, Value]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The robust loss of the mixture: of margins, or with loss fusion of losses."""
        if not self.loss_fusion:
            return super().robust(bounds, y, phase, values)
        ibp, beta = bounds.margins["ibp"], values["beta"]
        parts = {"train_verified_ibp": proved_share(ibp, bounds.clean, y)}
        if not isinstance(bounds, FusedLoss):
            return robust_cross_entropy(ibp), parts
        if "ibp" not in phase.methods:
            return bounds.loss.mean(), parts
        return beta * bounds.loss.mean() + (1 - beta) * robust_cross_entropy(ibp), parts
