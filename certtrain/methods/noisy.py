"""What training for randomized smoothing has in common: noises of an input, and a loss of the logits under them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from typing import ClassVar, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from certtrain.bounds.base import BoundEngine
from certtrain.data.batch import Batch
from certtrain.errors import UserError
from certtrain.methods.base import Method, Objective, Part, Streams, Value, non_negative, whole
from certtrain.methods.losses import accuracy, add_l1
from certtrain.methods.smoothed_attack import SmoothedAttack, stacked
from certtrain.schedules import Ramp


class Noisy(NamedTuple):
    """A batch with its noises.

    Attributes:
        x: (B, ...) where the noises are added: the inputs, or adversarial ones.
        y, index: of the batch.
        noise: (B, m, ...), the same in the attack and in the loss, bit for bit.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    noise: Tensor


class NoisyLoss(Part, ABC):
    """A loss of the logits under noise, as a value. Its attributes that are schedules are numbers in `values`.

    Attributes:
        least: noises of an input that it compares, at least.
    """

    least: ClassVar[int] = 1

    def batch_norm_at(self, inputs: Noisy) -> tuple[Tensor, ...]:
        """Inputs that `loss` runs the network on by itself, see `Method.batch_norm_at`."""
        return ()

    @abstractmethod
    def loss(
        self, network: nn.Module, logits: Tensor, inputs: Noisy, values: Mapping[str, Value]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, (), with its graph, and the parts to log with it; pure, as `Method.objective`.

        Args:
            network: for losses at further points.
            logits: (B, m, K), of each input under each of its noises.
            inputs: as they were prepared.
            values: what is scheduled, by name.
        """


class NoisyTraining(Method):
    """`L(z(x* + delta_1), ..., z(x* + delta_m); y) + l1 ||w||_1` with fresh delta_i ~ N(0, sigma^2 I).

    The noise is added to the input in [0, 1] and not clamped, before the network's normalisation: as the smoothed
    classifier will draw it. All m B rows take one forward pass. A step's draws are numbered from m times the step, so
    that resuming needs no generator's state, and one noise is Cohen et al.'s whatever the loss.

    x* is x, or where there is an attack an adversarial input of the smoothed network under the same noises. The radius
    of the attack rises from 0 over the ramp.

    Args:
        sigma: standard deviation of the noise, in units of the input range, > 0.
        loss: of the logits under noise.
        noises: m, of each input and step.
        attack: finds x*; None for none.
        ramp: the rise of the attack's radius, and of what the loss has scheduled.
        l1: weight of the sum of |w| over linear and convolution weights.

    Raises:
        UserError: sigma is not a finite number > 0; fewer noises than the loss compares; l1 is negative.
    """

    def __init__(
        self,
        sigma: float,
        loss: NoisyLoss,
        noises: int = 1,
        attack: SmoothedAttack | None = None,
        ramp: Ramp = Ramp(0, 0),  # noqa: B008 - frozen
        l1: float = 0.0,
    ) -> None:
        if isinstance(sigma, bool) or not isinstance(sigma, (int, float)) or not (math.isfinite(sigma) and sigma > 0):
            raise UserError(
                f"sigma = {sigma!r} is not a finite number > 0",
                where="sigma",
                fix="sigma=0.25; method=standard trains without noise",
            )
        whole(noises, "method.noises", loss.least)
        if not isinstance(attack, SmoothedAttack | None):
            fix = "{_target_: certtrain.methods.smoothed_attack.SmoothedPGD, eps: 1.0}"
            raise UserError(f"attack = {attack!r} is not an attack under noise", where="method.attack", fix=fix)
        self.sigma, self.l1 = float(sigma), non_negative(l1, "method.l1")
        self.loss, self.noises, self.attack, self.ramp = loss, noises, attack, ramp

    def prepare(
        self, network: nn.Module, engine: BoundEngine | None, batch: Batch, step: int, streams: Streams
    ) -> Noisy:
        """The batch with the step's noises, attacked under them."""
        noise = streams.normals(batch.x, batch.index, range(self.noises * step, self.noises * (step + 1)), self.sigma)
        inputs = Noisy(*batch, noise)
        if self.attack is None or not self.ramp.fraction(step):
            return inputs
        return inputs._replace(x=self.attack.find(network, inputs, self.ramp.fraction(step)))

    def batch_norm_at(self, inputs: Noisy, phase: Hashable) -> tuple[Tensor, ...]:  # type: ignore[override]
        """All rows under noise, then the loss's own."""
        return (stacked(inputs.x, inputs.noise), *self.loss.batch_norm_at(inputs))

    def objective(
        self,
        network: nn.Module,
        engine: BoundEngine | None,
        inputs: Noisy,  # type: ignore[override]
        phase: Hashable,
        values: Mapping[str, Value],
    ) -> Objective:
        """Parts: noisy, the accuracy over all rows; those of the loss; loss_l1 when there is one."""
        logits = network(stacked(inputs.x, inputs.noise)).unflatten(0, inputs.noise.shape[:2])
        loss, parts = self.loss.loss(network, logits, inputs, values)
        parts["noisy"] = noisy_accuracy(logits, inputs.y)
        return Objective(add_l1(loss, parts, network, self.l1), parts)

    def scheduled(self, step: int) -> dict[str, float]:
        """sigma, constant; with an attack its radius; what the loss has scheduled."""
        return {"sigma": self.sigma, **super().scheduled(step)}


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """The mean cross-entropy, (), of (B, m, K) logits for (B,) classes, over all rows."""
    return F.cross_entropy(logits.flatten(0, 1), y.repeat_interleave(logits.shape[1]))


def noisy_accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """The share of rows of (B, m, K) logits whose largest is the class: a detached scalar."""
    return accuracy(logits.flatten(0, 1), y.repeat_interleave(logits.shape[1]))


def log_mean_softmax(logits: Tensor) -> Tensor:
    """(B, K) `log mean_i softmax(z_i)` of (B, m, K) logits, the log-probabilities of the smoothed network."""
    return F.log_softmax(logits, dim=2).logsumexp(dim=1) - math.log(logits.shape[1])
