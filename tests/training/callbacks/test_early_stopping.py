"""Early stopping waits for the ramp, watches fresh certificates, keeps its count over a resume."""

import lightning as L
import pytest

from certtrain.errors import UserError
from certtrain.training.callbacks.checkpoint import Checkpoints
from certtrain.training.callbacks.early_stopping import EarlyStopping
from certtrain.training.callbacks.validation import CertifyValidation


class Falling(CertifyValidation):
    """Certificates that get worse with each validation."""

    def on_validation_epoch_end(self, trainer, module):
        super().on_validation_epoch_end(trainer, module)
        module.log("val/falling", -float(trainer.global_step), logger=False)


@pytest.mark.parametrize(("every", "last"), [(1, 4), (2, 6)])
def test_it_counts_validations_after_the_ramp(digits, make_module, make_trainer, make_validation, every, last):
    """Three steps an epoch, and the ramp ends at step 6: the best is seen at epoch 2, and two worse ones after it."""
    validation, stopping = make_validation(kind=Falling, every_n_epochs=every), EarlyStopping("val/falling", patience=2)
    run = make_trainer(validation, stopping, epochs=9)
    run.fit(make_module(), datamodule=digits)
    assert run.current_epoch == last


def test_it_watches_what_chooses_the_best_checkpoint(tmp_path, digits, make_module, make_trainer, make_validation):
    validation, stopping = make_validation(), EarlyStopping()
    checkpoints = Checkpoints(tmp_path, "val/certified@0.05", validation=validation)
    make_trainer(validation, stopping, checkpoints).fit(make_module(), datamodule=digits)
    assert stopping.monitor == "val/certified@0.05"


def test_its_count_is_in_the_checkpoint(tmp_path, digits, make_module, make_trainer, make_validation):
    """An interrupted run ends where an undisturbed one does."""
    for epochs, resumed in ((3, None), (9, tmp_path / "last.ckpt")):
        validation, stopping = make_validation(kind=Falling), EarlyStopping("val/falling", patience=2)
        run = make_trainer(validation, stopping, Checkpoints(tmp_path, None), epochs=epochs)
        run.fit(make_module(), datamodule=digits, ckpt_path=resumed, weights_only=True)
    assert run.current_epoch == 4


def test_a_metric_that_there_is_not(digits, make_module, make_trainer, make_validation):
    with pytest.raises(UserError, match="no validation metric is called 'val/clen'") as error:
        make_trainer(make_validation(), EarlyStopping("val/clen"), epochs=3).fit(make_module(), datamodule=digits)
    assert "val/clean" in error.value.fix
    with pytest.raises(UserError, match="there are no validation examples"):
        make_trainer(EarlyStopping("val/clean"), L.Callback()).fit(make_module(), datamodule=digits)
