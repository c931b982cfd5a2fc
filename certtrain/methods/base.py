"""What every training method is: what it prepares of a batch, a pure objective, the schedules it follows, its hooks."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from certtrain.bounds.base import BoundEngine
from certtrain.data.batch import Batch
from certtrain.errors import UserError
from certtrain.kernels.noise import keyed_uniforms, normal_rows
from certtrain.randomness import key
from certtrain.schedules import Ramp, Schedule
from certtrain.smoothing.noise import Split, gaussian_noise
from certtrain.system.collective import global_sum, shares

Value = float | Tensor  # a number, or a scalar tensor where the objective is compiled for many steps
Inputs = Any  # what `Method.prepare` returns: a Batch, or a NamedTuple of tensors with x and y among its fields


class Objective(NamedTuple):
    """The loss of one batch, and what to log of it.

    Attributes:
        loss: () with its graph.
        parts: by name, detached scalars on the loss's device. The `loss_*` of natural, robust, tight and relu are
            before their weights, which `Method.scheduled` gives; `loss_l1` is as it enters the sum.
    """

    loss: Tensor
    parts: dict[str, Tensor]


@dataclass(frozen=True)
class Streams:
    """Keyed random numbers of a training, f(seed, purpose, split, index, draw): the same bits in any batch, order or
    number of devices, so that resuming needs no generator's state.

    Args:
        seed: the run's seed.
        split: the split that indices count in.
    """

    seed: int
    split: Split = "train"

    def normals(self, x: Tensor, index: Tensor, draws: range, sigma: float) -> Tensor:
        """(B, m, ...) float32 noises N(0, sigma^2 I) of x (B, ...), for `index` (B,) and m draws, on x's device."""
        return gaussian_noise(self.seed, "train", self.split, index, draws, tuple(x.shape[1:]), sigma, x.device)

    def normal(self, x: Tensor, index: Tensor, draw: int, sigma: float) -> Tensor:
        """The same of one draw, shaped like x."""
        return self.normals(x, index, range(draw, draw + 1), sigma)[:, 0]

    def uniform(self, x: Tensor, index: Tensor, draw: int, purpose: str) -> Tensor:
        """float32 numbers in [0, 1) shaped like x (B, ...); two purposes, such as two attacks, are independent."""
        words = f"{self.split} {purpose}"
        return keyed_uniforms(self.seed, words, draw, index.to(x.device), x[0].numel()).reshape(x.shape)

    @torch.no_grad()
    def weights(self, weights: Sequence[Tensor], draw: int, number: int, std: float) -> list[Tensor]:
        """Noise N(0, std^2 I) shaped like each of a network's weights, on their device; a step may draw several."""
        sizes = [weight.numel() for weight in weights]
        device, blocks = weights[0].device, -(-sum(sizes) // 4)
        index, step = (torch.full((1,), value, dtype=torch.int64, device=device) for value in (number, draw))
        rows = normal_rows(key(self.seed, "noise", "weights", self.split), index, step, blocks, std)
        parts = rows.flatten()[: sum(sizes)].split(sizes)
        return [part.reshape(weight.shape).to(weight.dtype) for part, weight in zip(parts, weights, strict=True)]


@dataclass
class Context:
    """What a method's hooks may use: the training as it stands.

    Attributes:
        network: in training mode, on its device.
        engine: bounds the network, for methods that need bounds.
        optimizer: of the network's parameters.
        batches: the training split's batches, at each iteration the epoch's from its start.
        step: completed optimiser steps.
        epoch: number of the epoch, from 0.
        streams: keyed random numbers.
    """

    network: nn.Module
    engine: BoundEngine | None
    optimizer: Optimizer
    batches: Iterable[Batch]
    step: int
    epoch: int
    streams: Streams

    def descend(self, loss: Tensor, examples: int) -> None:
        """One step of the optimiser on a loss, beside those that the training counts.

        Gradients that were collected before stay as they are. Of several processes all call it, and take the same step.

        Args:
            loss: () with its graph: a mean over this process' share of a batch.
            examples: in that share.
        """
        weights = [w for group in self.optimizer.param_groups for w in group["params"] if w.requires_grad]
        share = shares([examples], loss)
        # Not `backward`, which would wake the hooks of a distributed training in the midst of its own step.
        found = torch.autograd.grad(loss if share is None else loss * share[0], weights, allow_unused=True)
        before = [weight.grad for weight in weights]
        for weight, gradient in zip(weights, found, strict=True):
            # In the weight's own layout, as `backward` makes it: fused optimisers do not look at strides.
            weight.grad = None if gradient is None else torch.empty_like(weight).copy_(global_sum(gradient))
        self.optimizer.step()
        for weight, gradient in zip(weights, before, strict=True):
            weight.grad = gradient


class Part:
    """A value that methods are composed of: a region that is bounded, a robust loss, a regulariser, an attack."""

    def scheduled(self, step: int, ramp: Ramp) -> dict[str, float]:
        """The numbers that the part computes with at this step: its schedules, and its parts', by name."""
        return schedules_of(self, step, ramp)


def schedules_of(owner: object, step: int, ramp: Ramp) -> dict[str, float]:
    """Every `Schedule` among an object's attributes at this step, by name, and what its parts have scheduled.

    Raises:
        ValueError: two of them have the same name.
    """
    found: dict[str, float] = {}
    for name, value in vars(owner).items():
        if isinstance(value, Schedule):
            more = {name: value.at(step, ramp)}
        elif isinstance(value, Part):
            more = value.scheduled(step, ramp)
        else:
            continue
        if twice := found.keys() & more.keys():
            raise ValueError(f"{type(owner).__name__} has two schedules called {' and '.join(sorted(twice))}")
        found |= more
    return found


class Method:
    """A training method. Its objective is a function of its arguments; what it remembers is in its `state_dict`.

    What depends on the step is of three kinds, so that the objective itself can be compiled once for many steps
    (`methods.compiled`): the inputs, such as noise that is added to them or attacks; the phase, which says what is
    computed and changes a few times in a training; the values, numbers that change at every step.

    Attributes:
        needs_engine: whether the objective may ask for bounds.
        ramp: the rise of eps; a method without one is at full strength from the start.
    """

    needs_engine: ClassVar[bool] = False
    ramp: Ramp = Ramp(0, 0)

    def __call__(
        self, network: nn.Module, engine: BoundEngine | None, batch: Batch, step: int, streams: Streams
    ) -> Objective:
        """The objective of one batch after `step` completed optimiser steps: `prepare`, then `objective`.

        Args:
            network: (B, ...) inputs in [0, 1] to (B, K) logits.
            engine: bounds this network; None for methods that do not need it.
            batch: the examples.
            step: completed optimiser steps.
            streams: keyed random numbers, for methods that draw some.
        """
        inputs = self.prepare(network, engine, batch, step, streams)
        return self.objective(network, engine, inputs, self.phase(step), self.values(step))

    def prepare(
        self, network: nn.Module, engine: BoundEngine | None, batch: Batch, step: int, streams: Streams
    ) -> Inputs:
        """What the objective sees of a batch: noise is added here, and attacks run here.

        Not compiled, and outside the graph of the loss: what it returns has no gradient. An attack runs in eval mode
        and without gradients of the weights where the paper does so (`certtrain.models.evaluation.frozen`).
        """
        return batch

    def objective(
        self,
        network: nn.Module,
        engine: BoundEngine | None,
        inputs: Inputs,
        phase: Hashable,
        values: Mapping[str, Value],
    ) -> Objective:
        """The objective of what `prepare` returned, in the phase and with the values of a step; see `__call__`.

        Differentiable tensor operations only, whose course depends on nothing but the phase.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no objective(network, engine, inputs, phase, values)")

    def batch_norm_at(self, inputs: Inputs, phase: Hashable) -> tuple[Tensor, ...]:
        """(B, ...) inputs of the passes in which the objective lets BatchNorm take statistics of the batch, in order.

        A batch that is computed in parts (`methods.in_parts`) takes them of the whole batch there.
        """
        return (inputs.x,)

    def phase(self, step: int, *, sparing: bool = True) -> Hashable:
        """What is computed at this step; `sparing` leaves out at most steps what is only logged and takes time."""
        return None

    def values(self, step: int) -> dict[str, float]:
        """The numbers that the objective computes with at this step."""
        return self.scheduled(step)

    def scheduled(self, step: int) -> dict[str, float]:
        """What the method has scheduled at this step: each `Schedule` among its attributes, and its parts', by name."""
        return schedules_of(self, step, self.ramp)

    def figures(
        self, network: nn.Module, engine: BoundEngine | None, batch: Batch, streams: Streams
    ) -> dict[str, float]:
        """What tells how the training goes, at full strength on a few examples: logged as `val/NAME` at validations.

        Args:
            network: as it stands, left as it was.
            engine: bounds it, for methods that need bounds.
            batch: pinned validation examples.
            streams: keyed random numbers, of the validation split.
        """
        return {}

    @property
    def ramp_end(self) -> int:
        """The first step at full strength; a checkpoint from before it is not chosen as the best."""
        return self.ramp.end

    def initialise(self, network: nn.Module) -> None:
        """Set the initial weights, drawing from torch's global generator, when the method asks for special ones."""

    def begin(self, context: Context) -> None:
        """Called once before the first step of a session, a resumed one too, after the state was loaded."""

    def before_step(self, context: Context, batch: Batch) -> None:
        """Called before each batch's objective; may change weights, as by `context.descend`."""

    def epoch_end(self, context: Context) -> None:
        """Called after an epoch's last step, before validation and checkpoint: statistics of BatchNorm over the whole
        split, averages of weights, weights of examples."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs of the method beside the step: tensors and plain containers."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave when the checkpoint was written."""


def non_negative(value: float, where: str) -> float:
    """The value itself.

    Raises:
        UserError: it is not a finite number >= 0.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (math.isfinite(value) and value >= 0):
        raise UserError(f"{where} = {value!r} is not a finite number >= 0", where=where, fix=f"{where}=0 turns it off")
    return float(value)


def whole(value: int, where: str, least: int = 1, good: int | None = None) -> int:
    """The value itself.

    Raises:
        UserError: it is not a whole number that is at least this.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        what = f"{where.removeprefix('method.')} = {value!r} is not a whole number >= {least}"
        raise UserError(what, where=where, fix=f"{where}={least if good is None else good}")
    return value
