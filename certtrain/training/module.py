"""The one LightningModule: it owns network, optimiser, schedules and the record of a step; the method owns the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from certtrain.bounds.base import BoundEngine
from certtrain.bounds.batchnorm import refuse_batch_of_one
from certtrain.data.batch import Batch
from certtrain.data.loader import TensorLoader
from certtrain.methods.base import Context, Method, Streams
from certtrain.methods.compiled import Compiled
from certtrain.system.collective import gather, global_sum, processes, rank

CHECKPOINT_SCHEMA = 1
UNSEEN = -1  # no bad step so far


class CertifiedTraining(L.LightningModule):
    """Trains a network with a method. Parameters are saved under the prefix `network.`.

    Everything that is scheduled is a function of the number of completed optimiser steps, and all noise is keyed, so a
    checkpoint needs no more than the step, and what the method itself remembers, to continue as if it had never
    stopped.

    Args:
        network: maps inputs in [0, 1] to (B, K) logits.
        method: the objective and its schedules.
        engine: bounds the network, for methods that need bounds.
        optimizer: makes the optimiser of an iterable of parameters.
        lr_factor: multiplier of the learning rate as a function of the step.
        seed: keys the training noise.
        record: plain containers kept in every checkpoint: input contract, configuration.
        compiled: the method, compiled, to take its place.
    """

    def __init__(
        self,
        network: nn.Module,
        method: Method,
        engine: BoundEngine | None,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        lr_factor: Callable[[int], float],
        seed: int = 0,
        record: dict[str, Any] | None = None,
        compiled: Compiled | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.method, self.engine = method, engine
        self.objective = compiled or method
        self.make_optimizer, self.lr_factor = optimizer, lr_factor
        self.streams = Streams(seed, split="train")
        self.record = dict(record or {})
        self.parts: dict[str, Tensor] = {}
        self.weight: Tensor | None = None
        self.validated: dict[str, Any] = {}
        self.register_buffer("first_bad_step", torch.tensor(UNSEEN), persistent=False)
        self.register_buffer("clean_correct", torch.tensor(0), persistent=False)
        self.register_buffer("clean_seen", torch.tensor(0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, K) logits of inputs in [0, 1]."""
        return self.network(x)

    def on_train_start(self) -> None:
        loader: Any = self.trainer.train_dataloader
        if getattr(loader, "smallest", None) == 1:
            refuse_batch_of_one(self.network, loader.one().to(self.device))
        self.method.begin(self._context())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The method's loss at the current optimiser step; its parts stay on the device in `self.parts`.

        Of several processes each has a share of the batch, which its loss and parts are about; in the mean over the
        processes they count `self.weight` times.
        """
        step = self.global_step
        objective = self.objective(self.network, self.engine, batch, step, self.streams)
        loss = objective.loss
        if processes() > 1:
            # Their gradients are averaged, and each one's loss is the mean over its share of the batch.
            examples = loss.new_full((), len(batch.y))
            self.weight = examples * processes() / global_sum(examples)
            loss = loss * self.weight
        # Kept on the device: asking for it every step would stall an accelerator.
        bad = ~torch.isfinite(loss.detach()) & (self.first_bad_step == UNSEEN)
        self.first_bad_step = torch.where(bad, step, self.first_bad_step)
        self.parts = {"loss": objective.loss.detach(), **objective.parts}
        return loss

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if self._has("before_step"):
            self.method.before_step(self._context(), batch)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        # Not `on_train_epoch_end`, which Lightning calls after the validation of the same epoch.
        if self.trainer.is_last_batch and self._has("epoch_end"):
            self.method.epoch_end(self._context())

    def _has(self, hook: str) -> bool:
        """Whether the method defines a hook: most do not, and a step of a small network is short."""
        return getattr(type(self.method), hook) is not getattr(Method, hook)

    def _context(self) -> Context:
        place = {"step": self.global_step, "epoch": self.current_epoch, "streams": self.streams}
        return Context(self.network, self.engine, self.trainer.optimizers[0], self.batches(), **place)

    def batches(self) -> Iterable[Batch]:
        """The training split's batches on the device, at each iteration the epoch's from its start."""
        return _Batches(self.trainer.train_dataloader, self.device, self.trainer.precision_plugin.convert_input)

    def scheduled(self) -> dict[str, float]:
        """eps, kappa, beta, ... and the learning rate at the current step."""
        return {**self.method.scheduled(self.global_step), "lr": self.trainer.optimizers[0].param_groups[0]["lr"]}

    def on_validation_epoch_start(self) -> None:
        self.clean_correct.zero_()
        self.clean_seen.zero_()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Counts the unperturbed accuracy over the whole validation split, in integers; never in reduced precision."""
        with torch.autocast(batch.x.device.type, enabled=False):
            logits = self.network(batch.x)
        self.clean_correct += (logits.argmax(1) == batch.y).sum()
        self.clean_seen += len(batch.y)

    def report(self, metrics: dict[str, float]) -> None:
        """Add metrics of the validation that runs now, from a callback's `on_validation_epoch_end`."""
        self.validated |= metrics

    def on_validation_epoch_end(self) -> None:
        counts = gather((int(self.clean_correct), int(self.clean_seen)))
        correct, seen = (sum(column) for column in zip(*counts))
        metrics = {"val/clean": correct / max(1, seen), **self.validated}
        self.validated = {}
        self.log_dict(metrics, logger=False)
        # Not through Lightning, whose step is one less here: a row of metrics.csv belongs to the step of its weights.
        for logger in self.trainer.loggers:
            logger.log_metrics({**metrics, "epoch": self.trainer.current_epoch}, step=self.trainer.global_step)

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimiser over the network's parameters, and its schedule by optimiser step."""
        optimizer = self.make_optimizer(self.network.parameters())
        # LambdaLR saves and restores a callable object's attributes: a plain function leaves a resumed run its own.
        scheduler = LambdaLR(optimizer, lambda step: self.lr_factor(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["certtrain"] = {
            "schema": CHECKPOINT_SCHEMA,
            **self.record,
            "method": self.method.state_dict(),
            "rng": torch.get_rng_state(),
            "threads": torch.get_num_threads(),
            "device": self.device.type,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Only dropout and the like draw from the global generator; everything of ours is keyed.
        torch.set_rng_state(checkpoint["certtrain"]["rng"].cpu())
        self.method.load_state_dict(checkpoint["certtrain"]["method"])
        self.apart()

    def apart(self) -> None:
        """Give each of several processes a generator state of its own, or dropout would repeat itself in all shares."""
        if rank() > 0:
            torch.manual_seed(torch.initial_seed() + (rank() << 40) + int(torch.randint(2**32, ())))


class _Batches:
    """The training split's batches on the device, the epoch's from its start at each iteration.

    Training goes on where it is: our loaders give a second one. Others are asked for another iteration.

    Args:
        loader: of the training split; None outside a training.
        device: where they go.
        converted: in the precision of the training.
    """

    def __init__(
        self, loader: Iterable[Batch] | None, device: torch.device, converted: Callable[[Batch], Batch]
    ) -> None:
        self.loader, self.device, self.converted = loader, device, converted

    def __iter__(self) -> Iterator[Batch]:
        loader = self.loader.again() if isinstance(self.loader, TensorLoader) else self.loader
        for batch in loader or ():
            yield self.converted(Batch(*(part.to(self.device) for part in batch)))
