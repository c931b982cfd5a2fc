"""Stochastic weight averaging (Izmailov et al. 2018, arXiv 1803.05407)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import lightning as L
import torch
from torch import Tensor, nn

from certtrain.bounds.batchnorm import training_norms
from certtrain.errors import UserError
from certtrain.schedules import Timed
from certtrain.training.callbacks.population import set_population_statistics
from certtrain.training.checkpoints import PREFIX
from certtrain.training.module import CertifiedTraining


class WeightAveraging(Timed, L.Callback):
    """From `start` on, the mean of the weights after every `every`-th step is what is validated, kept and certified.

    Training itself goes on with its own weights. At an epoch's end the averages take their place in the network, with
    BatchNorm's statistics over the training split, until the next step begins; a checkpoint holds them as its weights,
    in mid-epoch those of the last epoch's end, and the training's own beside them. Until the first epoch's end with
    an average there is nothing but the training's own weights.

    Not Lightning's callbacks: its `WeightAveraging` validates initial weights until it begins, and swaps them back
    before `CertifyValidation` or the checkpoint sees them, its `StochasticWeightAveraging` has averages after the last
    epoch only.

    Args:
        start: completed optimiser steps from which weights are averaged; in a configuration, epochs of the recipe.
        every: optimiser steps between two of them, counted from the training's beginning.

    Raises:
        UserError: no number of steps; nothing is averaged before the training ends.
    """

    lengths: ClassVar[Mapping[str, int]] = {"start": 0}

    def __init__(self, start: int, every: int = 1) -> None:
        for key, value, least in (("start", start, 0), ("every", every, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                where = f"callbacks.weight_averaging.{key}"
                raise UserError(f"{key} = {value!r} is not a whole number >= {least}", where=where, fix=f"{where}=10")
        self.start, self.every = start, every
        self.count, self.step = 0, -1  # weights in the mean, and the step of the last ones
        self.mean: dict[str, Tensor] = {}
        self.shown = False  # whether the averages are in the network
        self.norms: list[nn.Module] = []
        self.aside: dict[str, Tensor] = {}  # the other state of the network: its own, or the averages of an epoch's end

    def on_train_start(self, trainer: L.Trainer, module: CertifiedTraining) -> None:
        self._to_device(module)
        self._show(module, False)
        self.norms = [*training_norms(module.network).values()]  # in validation they are in eval mode
        total = int(trainer.estimated_stepping_batches)
        if not self.count and total // self.every * self.every <= self.start:
            raise UserError(
                f"weight averaging from step {self.start} on, every {self.every}, in a training of {total} steps",
                where="callbacks.weight_averaging",
                fix="callbacks.weight_averaging.start before the training's end, or schedule.scale=true",
            )

    def on_train_batch_start(self, trainer: L.Trainer, module: CertifiedTraining, *args: Any) -> None:
        self._show(module, False)

    def on_train_batch_end(self, trainer: L.Trainer, module: CertifiedTraining, *args: Any) -> None:
        step = trainer.global_step
        if step > self.start and step % self.every == 0 and step != self.step:
            self.step, self.count = step, self.count + 1
            with torch.no_grad():
                for name, weight in module.network.named_parameters():
                    if name not in self.mean:
                        self.mean[name] = weight.detach().clone()
                    self.mean[name].lerp_(weight.detach(), 1 / self.count)

    def on_validation_start(self, trainer: L.Trainer, module: CertifiedTraining) -> None:
        self._average(module)

    def on_train_epoch_end(self, trainer: L.Trainer, module: CertifiedTraining) -> None:
        self._average(module)  # where nothing was validated

    def on_train_end(self, trainer: L.Trainer, module: CertifiedTraining) -> None:
        self._show(module, True)  # of a resumed training that had no step left

    def _average(self, module: CertifiedTraining) -> None:
        """Put the averages into the network, with statistics of their own."""
        if self.shown or not self.count:
            return
        self.aside = {name: value.detach().clone() for name, value in module.network.state_dict().items()}
        self.shown = True
        with torch.no_grad():
            for name, weight in module.network.named_parameters():
                weight.copy_(self.mean[name])
        set_population_statistics(module.network, module.batches(), self.norms)

    def _show(self, module: CertifiedTraining, shown: bool) -> None:
        """Exchange what is in the network for the other state, where it is not the one that is wanted."""
        if self.shown != shown and self.aside:
            state = module.network.state_dict()
            before = {name: value.detach().clone() for name, value in state.items()}
            with torch.no_grad():
                for name, value in state.items():
                    value.copy_(self.aside[name])
            self.aside, self.shown = before, shown

    def _to_device(self, module: CertifiedTraining) -> None:
        for tensors in (self.mean, self.aside):
            for name in tensors:
                tensors[name] = tensors[name].to(module.device)

    def on_save_checkpoint(self, trainer: L.Trainer, module: CertifiedTraining, checkpoint: dict[str, Any]) -> None:
        """The checkpoint's weights are the averages."""
        if self.shown or not self.aside:
            return
        own = checkpoint["callbacks"][self.state_key]
        trained = {name: checkpoint["state_dict"][PREFIX + name] for name in self.aside}
        checkpoint["state_dict"] |= {PREFIX + name: value for name, value in self.aside.items()}
        own |= {"aside": trained, "shown": True}

    def state_dict(self) -> dict[str, Any]:
        """The mean, and the state of the network that is not in the checkpoint's weights."""
        return {name: getattr(self, name) for name in ("count", "step", "mean", "aside", "shown")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
