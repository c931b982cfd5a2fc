"""One training run: a Trainer with our callbacks around a module, ended whole, by a signal, or by a failure."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import DummyLogger
from rich.console import Console

from certtrain.bounds.batchnorm import whole_batch_norm
from certtrain.data.batch import Batch
from certtrain.errors import UserError
from certtrain.methods.compiled import Compiled
from certtrain.methods.in_parts import InParts
from certtrain.models.evaluation import float32_products
from certtrain.system.signals import Interrupted, SignalFlag
from certtrain.training.callbacks.checkpoint import Checkpoints
from certtrain.training.callbacks.guard import FiniteGuard
from certtrain.training.callbacks.progress import TrainingProgress
from certtrain.training.callbacks.signals import StopAtSignal
from certtrain.training.callbacks.training_log import TrainingLog
from certtrain.training.callbacks.validation import CertifyValidation
from certtrain.training.module import CertifiedTraining
from certtrain.training.ranks import Rank
from certtrain.training.trainer_settings import TrainerSettings


@dataclass(frozen=True)
class Outcome:
    """How a training run ended."""

    seconds: float
    """Of training, in all sessions of the run."""
    steps: int
    epochs: int
    checkpoint: Path | None
    """The one that is the result; None where none are kept."""
    chosen_because: str
    metrics: dict[str, float]
    """The parts of the loss, means over the last steps: `train/loss`, `train/clean`, ..."""


def fit(
    module: CertifiedTraining,
    data: L.LightningDataModule | Iterable[Batch],
    *,
    epochs: int,
    console: Console,
    settings: TrainerSettings | None = None,
    checkpoints: Checkpoints | None = None,
    use: str = "last",
    validation: CertifyValidation | None = None,
    loggers: Sequence[Logger] = (),
    flag: SignalFlag | None = None,
    resume_from: Path | None = None,
    progress: bool = True,
    callbacks: Sequence[L.Callback] = (),
    more: Sequence[L.Callback] = (),
    place: Rank | None = None,
) -> Outcome:
    """Train until the epochs are done: a run of the command line, and `certtrain.fit`.

    Args:
        module: network, method, optimiser.
        data: with a train and, when it is not empty, a validation loader; or the batches of the training split.
        epochs: in all, those of a resumed run included.
        console: for the progress.
        settings: of the trainer; None for its defaults.
        checkpoints: where and when to save; None to keep none.
        use: `last` or `best`: which checkpoint is the result.
        validation: certifies in training; None when there is nothing to validate on.
        loggers: get the metrics.
        flag: set by SIGINT and SIGTERM, at which a training with checkpoints saves the last one and stops.
        resume_from: a checkpoint to continue.
        progress: draw it.
        callbacks: the user's own, called before checkpoints are written, which hold their state.
        more: callbacks beside our own, called after checkpoints are written.
        place: of this process among several that have joined; the others call `fit` at the same time.

    Raises:
        Interrupted: a signal came; `last.ckpt` is saved.
        TrainingDiverged: the loss became NaN or infinite; the last good checkpoint is kept.
        UserError: the checkpoint to continue is corrupt or of another model; Lightning refuses the trainer.
    """
    quiet_lightning()
    settings, begun = settings or TrainerSettings(), time.monotonic()
    if isinstance(module.objective, Compiled):
        module.objective.tell = console.print
    if settings.accumulate_grad_batches > 1:
        module.objective = InParts(module.method, settings.accumulate_grad_batches)
    log = TrainingLog(settings.check_every_n_steps)
    every: list[L.Callback] = [FiniteGuard(settings.check_every_n_steps), log]
    if validation is not None:
        every.append(validation)
    if progress:
        every.append(TrainingProgress(console, validation))
    every += callbacks
    if checkpoints is not None:
        every.append(checkpoints)
    every += more
    if checkpoints is not None and flag is not None:
        every.append(StopAtSignal(flag, checkpoints))
    trainer = _trainer(
        settings,
        place,
        max_epochs=epochs,
        callbacks=every,
        logger=list(loggers) or [DummyLogger()],  # processes without one: callbacks may log in each
        limit_val_batches=0 if validation is None else 1.0,
        num_sanity_val_steps=0,
        inference_mode=False,  # attacks and alpha-CROWN need gradients under validate() and test()
        use_distributed_sampler=False,
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module.apart()
    source = {"datamodule" if isinstance(data, L.LightningDataModule) else "train_dataloaders": data}
    try:
        with whole_batch_norm(module.network), float32_products(settings.products):
            trainer.fit(module, **source, ckpt_path=str(resume_from) if resume_from else None, weights_only=True)
    except MisconfigurationException as error:
        raise _refused(error) from error
    finally:
        for logger in loggers:
            logger.save()
    seconds = time.monotonic() - begun if checkpoints is None else checkpoints.seconds
    return Outcome(seconds, trainer.global_step, trainer.current_epoch, *_chosen(checkpoints, use), dict(log.latest))


def _chosen(checkpoints: Checkpoints | None, use: str) -> tuple[Path | None, str]:
    """The checkpoint that is the result, and why it is."""
    if checkpoints is None:
        return None, "last epoch"
    if use == "best" and checkpoints.best.exists():
        best = f"{checkpoints.best_value:.4f} at step {checkpoints.best_step}"
        return checkpoints.best, f"best {checkpoints.monitor} after the ramp: {best}"
    nothing = " (no validation after the ramp to choose a best by)" if use == "best" else ""
    return checkpoints.last, f"last epoch{nothing}"


def _trainer(settings: TrainerSettings, place: Rank | None, **options: Any) -> L.Trainer:
    if place is None:
        options["devices"] = 1
    else:
        nodes = place.of // place.local_of
        options |= {"devices": place.local_of, "num_nodes": nodes, "strategy": place.strategy()}
    try:
        return L.Trainer(
            accelerator=settings.accelerator if place is None else settings.device_type,
            precision="32-true" if settings.precision == "tf32" else settings.precision,
            gradient_clip_val=settings.gradient_clip_val,
            log_every_n_steps=settings.check_every_n_steps,
            **options,
        )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise _refused(error) from error


def _refused(error: Exception) -> UserError:
    return UserError(
        f"Lightning refuses the training: {error}",
        where="configuration groups trainer and callbacks",
        fix="trainer=default, or without the callback that the cause names",
    )


def quiet_lightning() -> None:
    """Silences adverts and hints that do not concern a user of ours; our own messages say what matters."""
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*no `val_dataloader`.*",
        ".*The number of training batches.*",
        ".*`LightningModule.configure_callbacks`.*",
        ".*lr_scheduler.step.*optimizer.step.*",
        ".*isinstance.treespec, LeafSpec.*",
        ".*No device id is provided.*",
        ".*sync_dist=True.*",  # what is logged is the same on all processes already
    ):
        warnings.filterwarnings("ignore", message=message)


__all__ = ["Interrupted", "Outcome", "TrainerSettings", "fit", "quiet_lightning"]
