"""AD-CERT (Melis et al. 2026, arXiv 2606.31653): bounds, and the predictions of a robust teacher instead of labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Unpack

from torch import Tensor, nn

from certtrain.bounds.base import Bounds
from certtrain.errors import UserError
from certtrain.methods.base import Streams, Value
from certtrain.methods.bound_training import BoundTraining, Options
from certtrain.methods.expressive import NO_CLEAN_LOSS, MixedLoss
from certtrain.methods.inner_attack import InnerAttack
from certtrain.methods.losses import robust_cross_entropy
from certtrain.methods.mtl_ibp import mtl_ibp
from certtrain.methods.regions import Prepared
from certtrain.methods.teacher import Teacher, checked_teacher
from certtrain.methods.trades import divergence
from certtrain.schedules import Ramp
from certtrain.threat import Linf, Threat


@dataclass(frozen=True)
class ADCertLoss(MixedLoss):
    """`alpha CE([0, -m], 0) + (1 - alpha) L_T` with m the IBP lower bounds of the margins and

        L_T = (1 - natural) KL(p_T(x) || p(x*)) + natural KL(p_T(x) || p(x)),

    p_T the teacher's prediction at the unperturbed input. The paper's variants: natural = 1/6 with `soft_attack` is
    RSLAD's mixture, natural = 1 learns from the unperturbed input alone (NAT-KL).

    Args:
        teacher: of the same classes; robust in the paper.
        natural: weight of the divergence at x, in [0, 1].
        soft_attack: x* by the divergence from the teacher's prediction; otherwise by the cross-entropy.
        alpha, attack: see `MixedLoss`.

    Raises:
        UserError: natural out of its range, no teacher; as `MixedLoss`.
    """

    teacher: Teacher = field(kw_only=True)
    natural: float = field(default=0.0, kw_only=True)
    soft_attack: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "teacher", checked_teacher(self.teacher))
        share = self.natural
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
            raise UserError(f"natural = {share!r} is not in [0, 1]", where="method.natural", fix="method.natural=0")
        if not isinstance(self.soft_attack, bool):
            what = f"soft_attack = {self.soft_attack!r} is neither true nor false"
            raise UserError(what, where="method.soft_attack", fix="method.soft_attack=false")

    def prepare(self, network: nn.Module, inputs: Prepared, threat: Threat, step: int, streams: Streams) -> Prepared:
        """Ask the teacher, and attack."""
        assert isinstance(threat, Linf)
        target = self.teacher(inputs.x)
        losses = partial(divergence, target) if self.soft_attack else None
        return inputs._replace(points=(self.attack.find(network, inputs, threat, step, streams, losses), target))

    def batch_norm_at(self, inputs: Prepared) -> tuple[Tensor, ...]:
        """x, where its prediction counts."""
        return (inputs.x,) if self.natural else ()

    def loss(
        self,
        network: nn.Module,
        bounds: Bounds,
        inputs: Prepared,
        methods: tuple[str, ...],
        values: Mapping[str, Value],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Parts: those of `MixedLoss`, and loss_teacher, L_T before its weight."""
        logits, target = bounds.clean, inputs.points[1]
        if target.shape != logits.shape:
            what = f"a teacher of {target.shape[1]} classes, and a network of {logits.shape[1]}"
            raise UserError(what, where="method.teacher", fix="a teacher of the same classes")
        apart = divergence(target, logits).mean()
        if self.natural:
            apart = (1 - self.natural) * apart + self.natural * divergence(target, network(inputs.x)).mean()
        loss = mtl_ibp(apart, robust_cross_entropy(bounds.margins["ibp"]), self.alpha)
        return loss, {**self.parts(bounds, inputs.y), "loss_teacher": apart.detach()}


class ADCert(BoundTraining):
    """Training with `ADCertLoss`; a clean loss, of the labels, counts only where kappa is given.

    At alpha 1 this is IBP. While eps_t = 0 it is the plain cross-entropy, as for every method with bounds.

    Args:
        train_eps, ramp, options: see `BoundTraining`.
        teacher: a network; in a configuration a run, or a file of weights.
        alpha: weight of the bounds, in [0, 1].
        natural: weight of the teacher's prediction at the unperturbed input, in [0, 1].
        soft_attack: attack what is learnt instead of the label.
        attack: finds x*.

    Raises:
        UserError: as `ADCertLoss` and `BoundTraining`.
    """

    def __init__(
        self,
        train_eps: Fraction | float | str,
        ramp: Ramp,
        teacher: Teacher | nn.Module,
        alpha: float = 0.5,
        natural: float = 0.0,
        soft_attack: bool = False,
        attack: InnerAttack = InnerAttack(),  # noqa: B008 - frozen
        **options: Unpack[Options],
    ) -> None:
        options.setdefault("kappa", NO_CLEAN_LOSS)
        learnt = {"teacher": checked_teacher(teacher), "natural": natural, "soft_attack": soft_attack}
        super().__init__(train_eps, ramp, ADCertLoss(attack, alpha=alpha, **learnt), **options)  # type: ignore[arg-type]
