"""Lightning's early stopping, which waits for the end of the ramp: until then a certified metric falls as eps rises."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping

from certtrain.errors import UserError, nearest
from certtrain.training.callbacks.checkpoint import Checkpoints
from certtrain.training.callbacks.validation import CertifyValidation
from certtrain.training.module import CertifiedTraining


class EarlyStopping(LightningEarlyStopping):
    """Ends a training whose metric has not improved in `patience` validations after the ramp.

    Args:
        monitor: validation metric; None for the one that chooses `best.ckpt`.
        patience: validations by certificates without an improvement.
        mode: `max` or `min`.
        options: Lightning's others: `min_delta`, `stopping_threshold`, `divergence_threshold`, ...

    Raises:
        UserError: there are no validation examples, or no metric of that name.
    """

    def __init__(self, monitor: str | None = None, patience: int = 10, mode: str = "max", **options: Any) -> None:
        # After a validation, not at an epoch's end, where Lightning would call it after our checkpoint was written.
        options["check_on_train_epoch_end"] = False
        super().__init__(monitor, patience=patience, mode=mode, **options)  # type: ignore[arg-type]

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if self.monitor is None:
            self.monitor = next((one.monitor for one in trainer.callbacks if isinstance(one, Checkpoints)), None)
        if not any(isinstance(one, CertifyValidation) for one in trainer.callbacks):
            raise UserError(
                "early stopping watches a validation metric, and there are no validation examples",
                where="callbacks.early_stopping",
                fix="val_size=0.1, or callbacks=null",
            )

    def on_validation_end(self, trainer: L.Trainer, pl_module: CertifiedTraining) -> None:
        if self._is_due(trainer, pl_module):
            super().on_validation_end(trainer, pl_module)

    def _is_due(self, trainer: L.Trainer, module: CertifiedTraining) -> bool:
        """Whether the ramp has ended and certificates were just validated: between, Lightning keeps the last value."""
        step = trainer.global_step
        validations = [one for one in trainer.callbacks if isinstance(one, CertifyValidation)]
        if step < module.method.ramp_end or not any(one.step == step for one in validations):
            return False
        if self.monitor not in trainer.callback_metrics:
            found = [name for name in trainer.callback_metrics if name.startswith("val/")]
            raise UserError(
                f"no validation metric is called {self.monitor!r}",
                where="configuration key callbacks.early_stopping.monitor",
                fix=nearest(str(self.monitor), found),
            )
        return True
