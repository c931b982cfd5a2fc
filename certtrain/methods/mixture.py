"""The bounds that a robust loss is made of: IBP's, CROWN-IBP's, or a mixture that moves from one to the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from certtrain.bounds.base import BoundEngine, Bounds, FusedLoss
from certtrain.methods.base import Value
from certtrain.methods.losses import proved_share, robust_cross_entropy
from certtrain.methods.regions import Prepared
from certtrain.methods.robust import RobustLoss
from certtrain.schedules import Ramp, Schedule, as_schedule, share_at
from certtrain.threat import Threat

NEGLIGIBLE_BETA = 1e-5  # below it the CROWN pass costs much and moves nothing


@dataclass(frozen=True)
class Mixture(RobustLoss):
    """Margins `m = beta m_crown_ibp + (1 - beta) m_ibp` and the loss `CE([0, -m], 0)`.

    Both are lower bounds, so their mixture is one. Below beta = 1e-5 only IBP is computed, at beta = 1 only CROWN-IBP.

    With `loss_fusion` (Xu et al. 2020, arXiv 2002.12920) CROWN-IBP bounds the loss itself, in one backward pass instead
    of one per class, and the robust loss is the mean of

        beta L_fused + (1 - beta) CE([0, -m_ibp], 0),

    a mixture of two upper bounds of an example's loss, and so one itself, and IBP's loss at beta = 0. Losses are mixed,
    not bounds of `exp(loss)` under one logarithm: one of these can be e^50 times the other, and then nothing is left of
    the tighter one, neither in the value nor in the gradient.

    Args:
        beta: weight of CROWN-IBP, in [0, 1].
        loss_fusion: bound the loss instead of the margins. There is then no bound of single margins to count examples
            with: instead of train_verified the parts have train_verified_ibp, from the IBP bounds, at every step.

    Raises:
        UserError: beta is not a schedule.
    """

    beta: Schedule
    loss_fusion: bool = False

    def __post_init__(self) -> None:
        as_schedule(self.beta, "method.beta")

    def methods(self, step: int, ramp: Ramp) -> tuple[str, ...]:
        """The bounds to compute at this step."""
        beta = share_at(self.beta, step, ramp, "method.beta")
        if beta < NEGLIGIBLE_BETA:
            return ("ibp",)
        return ("ibp", "crown_ibp") if beta < 1 else ("crown_ibp",)

    def bounds(
        self,
        engine: BoundEngine,
        inputs: Prepared,
        threat: Threat,
        methods: tuple[str, ...],
        at: tuple[str, ...] = (),
    ) -> Bounds:
        """What `loss` needs: the bounds of the methods, or the fused loss, which has IBP's with it."""
        if self.loss_fusion and "crown_ibp" in methods:
            return engine.fused_loss(inputs.x, inputs.y, threat, "crown_ibp")
        return super().bounds(engine, inputs, threat, methods)

    def loss(
        self,
        network: nn.Module,
        bounds: Bounds,
        inputs: Prepared,
        methods: tuple[str, ...],
        values: Mapping[str, Value],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Parts: train_verified, or train_verified_ibp; `values` has beta, where two are mixed."""
        y = inputs.y
        if not self.loss_fusion:
            margins = self._margins(bounds, methods, values)
            return robust_cross_entropy(margins), {"train_verified": proved_share(margins, bounds.clean, y)}
        ibp = bounds.margins["ibp"]
        parts = {"train_verified_ibp": proved_share(ibp, bounds.clean, y)}
        if not isinstance(bounds, FusedLoss):
            return robust_cross_entropy(ibp), parts
        if "ibp" not in methods:
            return bounds.loss.mean(), parts
        beta = values["beta"]
        return beta * bounds.loss.mean() + (1 - beta) * robust_cross_entropy(ibp), parts

    def _margins(self, bounds: Bounds, methods: tuple[str, ...], values: Mapping[str, Value]) -> Tensor:
        """(B, K-1) lower bounds of the margins."""
        if len(methods) == 1:
            return bounds.margins[methods[0]]
        beta = values["beta"]
        return beta * bounds.margins["crown_ibp"] + (1 - beta) * bounds.margins["ibp"]
