"""One training run: a Trainer with our callbacks around a module, ended whole, by a signal, or by a failure."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import Logger
from rich.console import Console

from certtrain.bounds.batchnorm import whole_batch_norm
from certtrain.callbacks.checkpoint import Checkpoints
from certtrain.callbacks.guard import FiniteGuard
from certtrain.callbacks.progress import TrainingProgress
from certtrain.callbacks.signals import Interrupted, SignalFlag, StopAtSignal
from certtrain.callbacks.training_log import TrainingLog
from certtrain.callbacks.validation import CertifyValidation
from certtrain.data.batch import Batch
from certtrain.errors import UserError, nearest
from certtrain.evaluation import float32_products
from certtrain.methods.compiled import COMPILE_MODES, WITH_GRAPHS, Compiled
from certtrain.methods.module import CertifiedTraining
from certtrain.ranks import Rank

PRECISIONS = ("32-true", "tf32", "bf16-mixed")
TENSOR_FLOATS = (8, 0)  # compute capability of the first NVIDIA GPUs with TF32 and bfloat16
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
COMPILE = (False, True, *COMPILE_MODES)


@dataclass(frozen=True)
class TrainerSettings:
    """What the trainer group configures."""

    accelerator: str = "auto"
    devices: int | str = 1
    precision: str = "32-true"
    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = None
    check_every_n_steps: int = 50
    channels_last: bool = False
    compile: bool | str = False

    def __post_init__(self) -> None:
        for key in ("accumulate_grad_batches", "check_every_n_steps", "devices"):
            value = getattr(self, key)
            if key == "devices" and value == "auto":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(
                    f"trainer.{key} = {value!r} is not a whole number >= 1",
                    where=f"configuration key trainer.{key}",
                    fix=f"trainer.{key}=1",
                )
        if self.precision not in PRECISIONS:
            raise UserError(
                f"trainer.precision = {self.precision!r} is unknown",
                where="configuration key trainer.precision",
                fix=nearest(str(self.precision), PRECISIONS),
            )
        self._check_accelerator()
        if self.precision == "tf32" and self.device_type != "cuda":
            raise UserError(
                "trainer.precision = 'tf32' is for NVIDIA GPUs, and none is used here",
                where="configuration key trainer.precision",
                fix="trainer.precision=32-true",
            )
        self._check_hardware_precision()
        self._check_compile()

    def _check_accelerator(self) -> None:
        """What is asked for by name is there: on a GPU that is not, nobody wants to wait for a processor."""
        if self.accelerator not in ACCELERATORS:
            raise UserError(
                f"trainer.accelerator = {self.accelerator!r} is not supported",
                where="configuration key trainer.accelerator",
                fix=f"{', '.join(ACCELERATORS)}; trainer.accelerator=cpu runs everywhere",
            )
        cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
        there = {"gpu": cuda or mps, "cuda": cuda, "mps": mps}.get(self.accelerator, True)
        if not there:
            raise UserError(
                f"trainer.accelerator = {self.accelerator} asks for a GPU, and torch sees none",
                where="configuration key trainer.accelerator",
                fix="trainer.accelerator=cpu, or a machine and a build of torch with one",
            )

    def _check_hardware_precision(self) -> None:
        """Older GPUs run both modes without a word: tf32 as float32, bfloat16 emulated and slower than float32."""
        if self.device_type != "cuda" or self.precision == "32-true":
            return
        capability = torch.cuda.get_device_capability()
        if capability < TENSOR_FLOATS:
            raise UserError(
                f"trainer.precision = {self.precision!r} needs compute capability {TENSOR_FLOATS[0]}.0 or higher, this "
                f"GPU has {capability[0]}.{capability[1]}",
                where="configuration key trainer.precision",
                fix="trainer.precision=32-true",
            )

    def _check_compile(self) -> None:
        if self.compile not in COMPILE:
            raise UserError(
                f"trainer.compile = {self.compile!r} is unknown",
                where="configuration key trainer.compile",
                fix=f"false, true (as default), {', '.join(COMPILE_MODES)}",
            )
        if self.compile in WITH_GRAPHS and self.accumulate_grad_batches > 1:
            raise UserError(
                f"trainer.compile={self.compile} with trainer.accumulate_grad_batches={self.accumulate_grad_batches}: "
                "a CUDA graph's gradients last until the next batch",
                where="configuration key trainer.compile",
                fix="trainer.compile=true",
            )
        if self.compile and self.devices != 1:
            raise UserError(
                f"trainer.compile={str(self.compile).lower()} with trainer.devices={self.devices} is not supported",
                where="configuration key trainer.compile",
                fix="trainer.devices=1, or trainer.compile=false",
            )

    @property
    def compile_mode(self) -> str | None:
        """The mode of torch.compile for the objective; None to leave it as it is."""
        return {False: None, True: "default"}.get(self.compile, self.compile)  # type: ignore[call-overload]

    @property
    def products(self) -> Literal["ieee", "tf32"]:
        """How training multiplies float32 numbers on GPUs, see `evaluation.float32_products`."""
        return "tf32" if self.precision == "tf32" else "ieee"

    @property
    def device_type(self) -> str:
        """`cuda` or `cpu`: of several devices. One device may be of another type."""
        return "cuda" if self.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available() else "cpu"

    def device_count(self) -> int:
        """How many devices train together; `auto` is all GPUs there are, or with accelerator `cpu` one process.

        Raises:
            UserError: more GPUs than there are; several devices, without a word that processors are meant.
        """
        found = torch.cuda.device_count() if self.device_type == "cuda" else None
        if found is None and self.devices != 1 and self.accelerator != "cpu":
            raise UserError(
                f"trainer.devices = {self.devices} asks for NVIDIA GPUs, and torch sees none",
                where="configuration keys trainer.devices and trainer.accelerator",
                fix="trainer.accelerator=cpu for so many processes on the processor, or trainer.devices=1",
            )
        if self.devices == "auto":
            return max(1, found or 1)
        assert isinstance(self.devices, int)
        if found is not None and self.devices > max(1, found):
            raise UserError(
                f"trainer.devices = {self.devices}, and torch sees {found} GPU(s)",
                where="configuration key trainer.devices",
                fix=f"trainer.devices={max(1, found)}, or trainer.accelerator=cpu",
            )
        return self.devices


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
        more: callbacks beside our own, called after checkpoints are written.
        place: of this process among several that have joined; the others call `fit` at the same time.

    Raises:
        Interrupted: a signal came; `last.ckpt` is saved.
        TrainingDiverged: the loss became NaN or infinite; the last good checkpoint is kept.
        UserError: the checkpoint to continue is corrupt or of another model.
    """
    quiet_lightning()
    settings, begun = settings or TrainerSettings(), time.monotonic()
    if isinstance(module.objective, Compiled):
        module.objective.tell = console.print
    callbacks: list[L.Callback] = [FiniteGuard(settings.check_every_n_steps)]
    log = TrainingLog(settings.check_every_n_steps)
    callbacks.append(log)
    if validation is not None:
        callbacks.append(validation)
    if progress:
        callbacks.append(TrainingProgress(console, validation))
    if checkpoints is not None:
        callbacks.append(checkpoints)
    callbacks += more
    if checkpoints is not None and flag is not None:
        callbacks.append(StopAtSignal(flag, checkpoints))
    trainer = _trainer(
        settings,
        place,
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
    module.apart()
    source = {"datamodule" if isinstance(data, L.LightningDataModule) else "train_dataloaders": data}
    try:
        with whole_batch_norm(module.network), float32_products(settings.products):
            trainer.fit(module, **source, ckpt_path=str(resume_from) if resume_from else None, weights_only=True)
    finally:
        for logger in loggers:
            logger.finalize("success")
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
