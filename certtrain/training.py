"""One training run: a Trainer with our callbacks around a module, ended whole, by a signal, or by a failure."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import Logger
from rich.console import Console

from certtrain.callbacks.checkpoint import Checkpoints
from certtrain.callbacks.guard import FiniteGuard
from certtrain.callbacks.progress import TrainingProgress
from certtrain.callbacks.signals import Interrupted, SignalFlag, StopAtSignal
from certtrain.callbacks.training_log import TrainingLog
from certtrain.callbacks.validation import CertifyValidation
from certtrain.errors import UserError
from certtrain.methods.module import CertifiedTraining


@dataclass(frozen=True)
class TrainerSettings:
    """What the trainer group configures."""

    accelerator: str = "auto"
    devices: int = 1
    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = None
    check_every_n_steps: int = 50
    channels_last: bool = False

    def __post_init__(self) -> None:
        for key, least in (("accumulate_grad_batches", 1), ("check_every_n_steps", 1), ("devices", 1)):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UserError(
                    f"trainer.{key} = {value!r} is not a whole number >= {least}",
                    where=f"configuration key trainer.{key}",
                    fix=f"trainer.{key}={least}",
                )
        if self.devices > 1:  # Lightning would start the others with a command line that is not ours, and wait for ever
            raise UserError(
                f"trainer.devices = {self.devices}: training runs in one process on one device",
                where="configuration key trainer.devices",
                fix="trainer.devices=1; seeds and settings side by side are runs of their own",
            )


@dataclass(frozen=True)
class Outcome:
    """How a training run ended."""

    seconds: float
    """Of training, in all sessions of the run."""
    steps: int
    epochs: int
    checkpoint: Path
    chosen_because: str


def fit(
    module: CertifiedTraining,
    data: L.LightningDataModule,
    *,
    epochs: int,
    settings: TrainerSettings,
    checkpoints: Checkpoints,
    use: str,
    validation: CertifyValidation | None,
    loggers: Sequence[Logger],
    console: Console,
    flag: SignalFlag,
    resume_from: Path | None = None,
    progress: bool = True,
    more: Sequence[L.Callback] = (),
) -> Outcome:
    """Train until the epochs are done.

    Args:
        module: network, method, optimiser.
        data: with a train and, when it is not empty, a validation loader.
        epochs: in all, those of a resumed run included.
        settings: of the trainer.
        checkpoints: where and when to save.
        use: `last` or `best`: which checkpoint is the result.
        validation: certifies in training; None when there is nothing to validate on.
        loggers: get the metrics.
        console: for the progress.
        flag: set by SIGINT and SIGTERM.
        resume_from: a checkpoint to continue.
        progress: draw it.
        more: callbacks beside our own, called after checkpoints are written.

    Raises:
        Interrupted: a signal came; `last.ckpt` is saved.
        TrainingDiverged: the loss became NaN or infinite; the last good checkpoint is kept.
        UserError: the checkpoint to continue is corrupt or of another model.
    """
    quiet_lightning()
    callbacks: list[L.Callback] = [FiniteGuard(settings.check_every_n_steps)]
    callbacks.append(TrainingLog(settings.check_every_n_steps))
    if validation is not None:
        callbacks.append(validation)
    if progress:
        callbacks.append(TrainingProgress(console, validation))
    callbacks += [checkpoints, *more, StopAtSignal(flag, checkpoints)]
    trainer = _trainer(
        settings,
        max_epochs=epochs,
        callbacks=callbacks,
        logger=list(loggers),
        limit_val_batches=0 if validation is None else 1.0,
        num_sanity_val_steps=0,
        inference_mode=False,  # attacks and alpha-CROWN need gradients under validate() and test()
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        trainer.fit(module, datamodule=data, ckpt_path=str(resume_from) if resume_from else None, weights_only=True)
    finally:
        for logger in loggers:
            logger.finalize("success")
    chosen, because = checkpoints.last, "last epoch"
    if use == "best" and checkpoints.best.exists():
        chosen = checkpoints.best
        because = (
            f"best {checkpoints.monitor} after the ramp: {checkpoints.best_value:.4f} at step {checkpoints.best_step}"
        )
    elif use == "best":
        because = "last epoch (no validation after the ramp to choose a best by)"
    return Outcome(checkpoints.seconds, trainer.global_step, trainer.current_epoch, chosen, because)


def _trainer(settings: TrainerSettings, **options: Any) -> L.Trainer:
    try:
        return L.Trainer(
            accelerator=settings.accelerator,
            devices=settings.devices,
            accumulate_grad_batches=settings.accumulate_grad_batches,
            gradient_clip_val=settings.gradient_clip_val,
            log_every_n_steps=settings.check_every_n_steps,
            **options,
        )
    except (MisconfigurationException, ValueError) as error:
        raise UserError(
            f"Lightning refuses the trainer: {error}", where="configuration group trainer", fix="trainer=default"
        ) from error


def quiet_lightning() -> None:
    """Silences adverts and hints that do not concern a user of ours; our own messages say what matters."""
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*The number of training batches.*",
        ".*`LightningModule.configure_callbacks`.*",
        ".*lr_scheduler.step.*optimizer.step.*",
        ".*isinstance.treespec, LeafSpec.*",
        ".*No device id is provided.*",
    ):
        warnings.filterwarnings("ignore", message=message)


__all__ = ["Interrupted", "Outcome", "TrainerSettings", "fit", "quiet_lightning"]
