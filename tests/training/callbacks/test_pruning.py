"""A study hears of validations after the ramp's end only, and a trial that it stops keeps what it has."""

import pytest

from certtrain.training.callbacks.checkpoint import Checkpoints
from certtrain.training.callbacks.pruning import Pruned, ReportValidation
from certtrain.training.checkpoints import read_checkpoint


@pytest.fixture
def reporting(tmp_path, make_validation):
    """The callbacks of a trial whose ramp ends at step 6, the end of the second epoch."""

    def make(report, every: int = 1):
        validation = make_validation(every_n_epochs=every)
        checkpoints = Checkpoints(tmp_path, "val/certified@0.05", 6, validation=validation)
        return validation, checkpoints, ReportValidation(report, validation, checkpoints, ramp_end=6)

    return make


@pytest.mark.parametrize(("every", "epochs"), [(1, [2, 3, 4]), (3, [3, 4])])
def test_epochs_of_the_ramp_and_stale_validations_are_not_reported(
    reporting, make_trainer, make_module, digits, every, epochs
):
    seen = []
    validation, *rest = reporting(lambda epoch, entry: seen.append((epoch, entry["certified"])), every)
    make_trainer(validation, *rest, epochs=4).fit(make_module(), datamodule=digits)
    assert [epoch for epoch, _ in seen] == epochs
    assert seen[-1][1] == validation.summary["certified"]


def test_a_pruned_trial_is_saved_and_the_last_epoch_is_never_pruned(
    reporting, make_trainer, make_module, digits, tmp_path
):
    seen = []
    callbacks = reporting(lambda epoch, entry: seen.append(epoch) or True)
    with pytest.raises(Pruned, match="after epoch 2"):
        make_trainer(*callbacks, epochs=4).fit(make_module(), datamodule=digits)
    assert seen == [2]
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == 6
    make_trainer(*reporting(lambda epoch, entry: True), epochs=2).fit(make_module(), datamodule=digits)
