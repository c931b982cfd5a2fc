"""Stops training whose loss has become NaN or infinite, before anything good is overwritten."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch

from certtrain.errors import UserError
from certtrain.system.collective import global_max
from certtrain.training.module import UNSEEN, CertifiedTraining

NEVER = 2**62  # later than any step


class TrainingDiverged(UserError):
    """The loss or the weights are not finite. `step` is the first bad optimiser step, when the loss showed it."""

    def __init__(self, what: str, step: int | None) -> None:
        super().__init__(
            what,
            where="training",
            fix="lower optimizer.lr, set trainer.gradient_clip_val, or lengthen schedule.ramp; "
            "the last good checkpoint is kept",
        )
        self.step = step


def check_finite(module: CertifiedTraining) -> None:
    """Raises TrainingDiverged when a loss so far, or any weight now, is not finite. Waits for the device."""
    own = int(module.first_bad_step)
    # The first of all processes' first ones: what is NaN in one share of a batch spoils the others' in the next step.
    step = NEVER - global_max(NEVER - own if own != UNSEEN else 0)
    if step != NEVER:
        raise TrainingDiverged(f"the loss is NaN or infinite since step {step}", step)
    finite = torch.stack([torch.isfinite(p).all() for p in module.network.state_dict().values()])
    if not bool(finite.all()):
        name = list(module.network.state_dict())[int((~finite).nonzero()[0])]
        raise TrainingDiverged(
            f"the weights hold NaN or infinity, first in {name!r}, after step {module.global_step}", None
        )


class FiniteGuard(L.Callback):
    """Looks every `every_n_steps` steps and before a validation; checkpoints look before each save by themselves.

    Args:
        every_n_steps: steps between two looks. Between them nothing waits for the device.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        self.every_n_steps = max(1, every_n_steps)

    def on_train_batch_end(self, trainer: L.Trainer, module: CertifiedTraining, *args: Any) -> None:
        if trainer.global_step % self.every_n_steps == 0:
            check_finite(module)

    def on_validation_start(self, trainer: L.Trainer, module: CertifiedTraining) -> None:
        check_finite(module)

    def on_train_epoch_end(self, trainer: L.Trainer, module: CertifiedTraining) -> None:
        check_finite(module)
