"""What every training method is: a pure objective, the schedules it follows, and the noise it is handed."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

from torch import Tensor, nn

from certtrain.bounds.base import BoundEngine
from certtrain.data.batch import Batch
from certtrain.errors import UserError
from certtrain.smoothing.noise import Split, gaussian_noise

Value = float | Tensor  # a number, or a scalar tensor where the objective is compiled for many steps


class Objective(NamedTuple):
    """The loss of one batch, and what to log of it.

    Attributes:
        loss: () with its graph.
        parts: by name, detached scalars on the loss's device. The `loss_*` of natural, robust, tight and relu are
            before their weights, which `Method.scheduled` gives; `loss_l1` is as it enters the sum.
    """

    loss: Tensor
    parts: dict[str, Tensor]


class Noise(Protocol):
    """Gaussian noise that depends on nothing but its arguments."""

    def __call__(self, x: Tensor, index: Tensor, draw: int, sigma: float) -> Tensor:
        """Noise of standard deviation sigma, shaped like x, for the examples at `index` in their split."""
        ...


@dataclass(frozen=True)
class KeyedNoise:
    """Training noise f(seed, split, index, draw): the same bits in any batch, order or number of devices.

    Args:
        seed: the run's seed.
        split: the split that indices count in.
    """

    seed: int
    split: Split = "train"

    def __call__(self, x: Tensor, index: Tensor, draw: int, sigma: float) -> Tensor:
        """float32 noise N(0, sigma^2 I) shaped like x (B, ...), for `index` (B,) and this draw, on x's device."""
        shape = tuple(x.shape[1:])
        return gaussian_noise(self.seed, "train", self.split, index, range(draw, draw + 1), shape, sigma, x.device)[
            :, 0
        ]


class Method:
    """A training method. It holds settings and no state: the same arguments give the same objective.

    What depends on the step is of three kinds, so that the objective itself can be compiled once for many steps
    (`methods.compiled`): the inputs, as far as noise is added to them; the phase, which says what is computed and
    changes a few times in a training; the values, numbers that change at every step.

    Attributes:
        needs_engine: whether the objective may ask for bounds.
    """

    needs_engine: ClassVar[bool] = False

    def __call__(
        self, network: nn.Module, engine: BoundEngine | None, batch: Batch, step: int, rng: Noise
    ) -> Objective:
        """The objective of one batch after `step` completed optimiser steps.

        Args:
            network: (B, ...) inputs in [0, 1] to (B, K) logits.
            engine: bounds this network; None for methods that do not need it.
            batch: the examples.
            step: completed optimiser steps.
            rng: gives the noise, for methods that add some.
        """
        return self.objective(network, engine, self.inputs(batch, step, rng), self.phase(step), self.values(step))

    def objective(
        self,
        network: nn.Module,
        engine: BoundEngine | None,
        batch: Batch,
        phase: Hashable,
        values: Mapping[str, Value],
    ) -> Objective:
        """The objective of `inputs`, in the phase and with the values of a step; see `__call__`.

        Differentiable tensor operations only, whose course depends on nothing but the phase. A method may define
        `__call__` instead, and then cannot be compiled.
        """
        raise NotImplementedError(f"{type(self).__name__} defines neither objective nor __call__")

    def inputs(self, batch: Batch, step: int, rng: Noise) -> Batch:
        """What the objective sees of a batch."""
        return batch

    def phase(self, step: int, *, sparing: bool = True) -> Hashable:
        """What is computed at this step; `sparing` leaves out at most steps what is only logged and takes time."""
        return None

    def values(self, step: int) -> dict[str, float]:
        """The numbers that the objective computes with at this step."""
        return self.scheduled(step)

    def scheduled(self, step: int) -> dict[str, float]:
        """What the method has scheduled, by name, at this step: eps, kappa, beta, ..."""
        return {}

    @property
    def ramp_end(self) -> int:
        """The first step at full strength; a checkpoint from before it is not chosen as the best."""
        return 0

    def initialise(self, network: nn.Module) -> None:
        """Set the initial weights, drawing from torch's global generator, when the method asks for special ones."""


def non_negative(value: float, where: str) -> float:
    """The value itself.

    Raises:
        UserError: it is not a finite number >= 0.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (math.isfinite(value) and value >= 0):
        raise UserError(f"{where} = {value!r} is not a finite number >= 0", where=where, fix=f"{where}=0 turns it off")
    return float(value)
