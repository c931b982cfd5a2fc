"""SmoothMix (Jeong et al. 2021, arXiv 2111.09277): towards an adversarial input predictions grow uncertain."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from certtrain.bounds.base import BoundEngine
from certtrain.data.batch import Batch
from certtrain.errors import UserError
from certtrain.methods.base import Objective, Streams, Value, non_negative, whole
from certtrain.methods.gaussian import NoisyCrossEntropy
from certtrain.methods.losses import add_l1
from certtrain.methods.noisy import Noisy, NoisyTraining, cross_entropy, log_mean_softmax, noisy_accuracy
from certtrain.methods.smoothed_attack import descending, shortened, stacked
from certtrain.schedules import Ramp
from certtrain.threat.moves import each


class Mixable(NamedTuple):
    """A batch with its noises, and what its inputs are mixed with.

    Attributes:
        x: (B, ...) the clean side, where the label's loss is taken.
        y, index, noise: see `Noisy`.
        other: (B, ...) adversarial inputs, which may be far away.
        share: (B,) of them in the mixed inputs, uniform in [0, 1/2).
    """

    x: Tensor
    y: Tensor
    index: Tensor
    noise: Tensor
    other: Tensor
    share: Tensor


def mixing_loss(mixed: Tensor, clean: Tensor, y: Tensor, share: Tensor) -> Tensor:
    """`mean_i KL(t || softmax(z_i))` over mixed inputs, (), with targets `t = (1 - share) p + share/K`.

    p is the mean softmax under noise at the clean side, not the label, and the gradient goes through it. Inputs whose
    largest p is not that of y count 0.

    Args:
        mixed: (B, m, K) logits at the mixed inputs under noise.
        clean: (B, m, K) logits at the clean side.
        y: (B,) classes.
        share: (B,) of the adversarial input.
    """
    p = log_mean_softmax(clean).exp()
    target = (1 - share[:, None]) * p + share[:, None] / p.shape[1]
    apart = F.kl_div(F.log_softmax(mixed, dim=2), target[:, None].expand_as(mixed), reduction="none").sum(2)
    return (apart * (p.argmax(1) == y)[:, None]).mean()


class SmoothMix(NoisyTraining):
    """`mean_i CE(z(x + delta_i), y) + weight_t mixing_loss`, plus `l1 ||w||_1`.

    The adversarial input is where `steps` steps of `step_size` along the gradient's direction lead, cut to [0, 1] and
    without a ball. The clean side is x itself, or (`clean_step`) where so many of them have led, within `clean_step
    step_size` of x. Its radius and weight_t rise over the ramp; the authors' rise in steps of an epoch, from a tenth.

    Args:
        sigma, ramp, noises, l1: see `NoisyTraining`.
        weight: eta of the paper, >= 0.
        steps: T of the paper, >= 1.
        step_size: alpha of the paper, in units of the input range.
        clean_step: 0 for x itself, 1 for the paper's one-step adversary; less than `steps`.

    Raises:
        UserError: a number out of its range; as `NoisyTraining`.
    """

    def __init__(
        self,
        sigma: float,
        ramp: Ramp,
        weight: float = 5.0,
        steps: int = 4,
        step_size: float = 1.0,
        clean_step: int = 0,
        noises: int = 2,
        l1: float = 0.0,
    ) -> None:
        super().__init__(sigma, NoisyCrossEntropy(), noises, ramp=ramp, l1=l1)
        self.weight, self.step_size = non_negative(weight, "method.weight"), non_negative(step_size, "method.step_size")
        self.steps, self.clean_step = whole(steps, "method.steps"), whole(clean_step, "method.clean_step", 0)
        if clean_step >= steps:
            what = f"clean_step = {clean_step} is not less than method.steps = {steps}"
            raise UserError(what, where="method.clean_step", fix="method.clean_step=0")

    def scheduled(self, step: int) -> dict[str, float]:
        """sigma, and mix_weight, which rises over the ramp."""
        return {**super().scheduled(step), "mix_weight": self.weight * self.ramp.fraction(step)}

    def prepare(  # type: ignore[override]
        self, network: nn.Module, engine: BoundEngine | None, batch: Batch, step: int, streams: Streams
    ) -> Mixable:
        """The step's noises, and the attack under them, while mixed inputs count."""
        inputs = super().prepare(network, engine, batch, step, streams)
        share = streams.uniform(batch.x.flatten(1)[:, :1], batch.index, step, "mix").flatten() / 2
        if not self.phase(step):
            return Mixable(*inputs, other=inputs.x, share=share)
        clean, other = self._search(network, inputs, self.ramp.fraction(step))
        return Mixable(clean, *inputs[1:], other=other, share=share)

    def _search(self, network: nn.Module, inputs: Noisy, risen: float) -> tuple[Tensor, Tensor]:
        """The clean side and the adversarial inputs."""
        clean = point = inputs.x
        with descending(network, inputs) as gradient:
            for number in range(self.steps):
                clean = point if number == self.clean_step else clean
                point = (point + self.step_size * gradient(point)[0]).clamp(0, 1)
        near = shortened(clean - inputs.x, self.step_size * self.clean_step * risen)
        return (inputs.x + near).clamp(0, 1), point

    def phase(self, step: int, *, sparing: bool = True) -> bool:
        """Whether mixed inputs count."""
        return self.weight * self.ramp.fraction(step) > 0

    def batch_norm_at(self, inputs: Mixable, phase: Hashable) -> tuple[Tensor, ...]:  # type: ignore[override]
        """The clean side under noise, then the mixed inputs where they count."""
        clean = super().batch_norm_at(Noisy(*inputs[:4]), phase)
        return (*clean, stacked(_mixed(inputs), inputs.noise)) if phase else clean

    def objective(  # type: ignore[override]
        self,
        network: nn.Module,
        engine: BoundEngine | None,
        inputs: Mixable,
        phase: Hashable,
        values: Mapping[str, Value],
    ) -> Objective:
        """Parts: loss_noisy and noisy, at the clean side; loss_mix, before its weight; loss_l1 when there is one."""
        if not phase:
            return super().objective(network, engine, Noisy(*inputs[:4]), phase, values)
        clean = network(stacked(inputs.x, inputs.noise)).unflatten(0, inputs.noise.shape[:2])
        mixed = network(stacked(_mixed(inputs), inputs.noise)).unflatten(0, inputs.noise.shape[:2])
        noisy, apart = cross_entropy(clean, inputs.y), mixing_loss(mixed, clean, inputs.y, inputs.share)
        parts = {
            "loss_noisy": noisy.detach(),
            "noisy": noisy_accuracy(clean, inputs.y),
            "loss_mix": apart.detach(),
        }
        return Objective(add_l1(noisy + values["mix_weight"] * apart, parts, network, self.l1), parts)


def _mixed(inputs: Mixable) -> Tensor:
    """(B, ...) inputs between the clean side and the adversarial ones."""
    share = each(inputs.share, inputs.x)
    return (1 - share) * inputs.x + share * inputs.other
