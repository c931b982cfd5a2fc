"""`best` comes from a fresh metric after the ramp, and no checkpoint is ever half written."""

import lightning as L
import pytest
import torch
from full_disk import FullDisk
from lightning.pytorch.callbacks import ModelCheckpoint

from certtrain.errors import DiskFull, UserError
from certtrain.system.files import put
from certtrain.training.callbacks.checkpoint import Checkpoints
from certtrain.training.callbacks.guard import TrainingDiverged
from certtrain.training.callbacks.validation import CertifyValidation
from certtrain.training.checkpoints import read_checkpoint
from certtrain.training.loggers.csv_logger import CSVMetrics

STEPS = 3  # of an epoch


class Scripted(CertifyValidation):
    """Reports given values instead of certifying, when a certification is due."""

    def on_validation_epoch_end(self, trainer, module):
        if self.due(trainer):
            module.report({"val/m": self.values[trainer.current_epoch]})
            self.step = trainer.global_step


@pytest.mark.parametrize(
    ("values", "every", "ramp_end", "best_epoch"),
    [
        ([0.1, 0.3, 0.2, 0.3], 1, 0, 1),  # of equal values the first
        ([0.9, 0.8, 0.2, 0.3], 1, 2 * STEPS + 1, 3),  # better before the ramp's end counts for nothing
        ([0.9, 0.8, 0.7, 0.3], 1, 3 * STEPS, 2),  # the step at which the ramp ends counts
        ([0.1, 0.9, 0.2, 0.3], 3, 0, 3),  # epochs 3 and 4 are certified (the last one always)
        ([0.1, 0.9, 0.5, 0.3], 3, 0, 2),
        ([0.1, 0.5, 0.2, 0.3], 2, 2 * STEPS + 1, 3),  # epoch 3 shows the value of epoch 2: stale
        ([0.1, 0.5, 0.2, 0.3], 1, 4 * STEPS + 1, None),
        ([float("nan"), 0.5, float("nan"), 0.4], 1, 0, 1),  # NaN is never the best
    ],
)
def test_best(tmp_path, digits, make_module, make_trainer, make_validation, values, every, ramp_end, best_epoch):
    validation = make_validation(kind=Scripted, every_n_epochs=every)
    validation.values = values
    checkpoints = Checkpoints(tmp_path, "val/m", ramp_end, validation=validation)
    make_trainer(validation, checkpoints, epochs=4).fit(make_module(), datamodule=digits)
    assert read_checkpoint(checkpoints.last)["global_step"] == 4 * STEPS
    assert checkpoints.best.exists() == (best_epoch is not None)
    if best_epoch is not None:
        assert read_checkpoint(checkpoints.best)["global_step"] == (best_epoch + 1) * STEPS
        assert checkpoints.best_value == pytest.approx(values[best_epoch])
        assert checkpoints.best_step == (best_epoch + 1) * STEPS


def test_the_best_value_outlives_a_resume(tmp_path, digits, make_module, make_trainer, make_validation):
    def train(epochs, values, resume=None):
        validation = make_validation(kind=Scripted)
        validation.values = values
        checkpoints = Checkpoints(tmp_path, "val/m", validation=validation)
        run = make_trainer(validation, checkpoints, epochs=epochs)
        run.fit(make_module(), datamodule=digits, ckpt_path=resume, weights_only=True)
        return checkpoints

    first = train(2, [0.2, 0.6])
    kept = first.best.read_bytes()
    content = read_checkpoint(first.last)
    assert 0 < content["callbacks"]["Checkpoints"]["seconds"] <= first.seconds
    content["callbacks"]["Checkpoints"]["seconds"] = 1000.0
    torch.save(content, first.last)
    second = train(4, [0, 0, 0.5, 0.4], first.last)
    assert second.best.read_bytes() == kept
    assert (second.best_value, second.best_step) == (pytest.approx(0.6), 2 * STEPS)
    assert 1000 < second.seconds < 1500  # training time adds up over sessions


def test_a_metric_that_nobody_reports_is_an_error(tmp_path, digits, make_module, make_trainer, make_validation):
    validation = make_validation()
    checkpoints = Checkpoints(tmp_path, "val/certified@0.5", validation=validation)
    with pytest.raises(UserError, match=r"val/certified@0\.5") as error:
        make_trainer(validation, checkpoints).fit(make_module(), datamodule=digits)
    assert "val/certified@0.05" in error.value.fix


def test_without_validation_there_is_no_best(tmp_path, digits, make_module, make_trainer):
    checkpoints = Checkpoints(tmp_path, "val/clean")
    make_trainer(checkpoints).fit(make_module(), datamodule=digits)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_save_that_fails_leaves_the_old_checkpoint(tmp_path, digits, make_module, make_trainer, monkeypatch):
    module, checkpoints = make_module(), Checkpoints(tmp_path, None)
    run = make_trainer(checkpoints)
    run.fit(module, datamodule=digits)
    before = checkpoints.last.read_bytes()

    def torn(path, *args, **kwargs):
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(run, "save_checkpoint", torn)
    with pytest.raises(OSError, match="no space"):
        checkpoints.save_last(run, module)
    assert checkpoints.last.read_bytes() == before


def test_weights_that_are_not_finite_are_not_saved(tmp_path, digits, make_module, make_trainer):
    module, checkpoints = make_module(), Checkpoints(tmp_path, None)
    run = make_trainer(checkpoints)
    run.fit(module, datamodule=digits)
    before = checkpoints.last.read_bytes()
    with torch.no_grad():
        module.network[2].weight[0, 0] = float("inf")
    with pytest.raises(TrainingDiverged, match=r"2\.weight"):
        checkpoints.save_last(run, module)
    assert checkpoints.last.read_bytes() == before


class Saved(Checkpoints):
    """Remembers the batch of every save of `last`."""

    batches: list[int]

    def save_last(self, trainer, module):
        super().save_last(trainer, module)
        self.batches.append(trainer.fit_loop.epoch_loop.batch_progress.current.ready)


@pytest.mark.parametrize(("accumulate", "expected"), [(1, [1, 2, 3] * 2), (2, [2, 3] * 2)])
def test_saves_come_at_the_boundaries_of_optimiser_steps(
    tmp_path, digits, make_module, make_trainer, accumulate, expected
):
    checkpoints = Saved(tmp_path, None, every_n_seconds=0)
    checkpoints.batches = []
    make_trainer(checkpoints, accumulate=accumulate).fit(make_module(), datamodule=digits)
    assert checkpoints.batches == expected


def test_a_checkpoint_brings_the_metrics_of_its_steps_to_the_disk(tmp_path, digits, make_module, make_trainer):
    from certtrain.training.callbacks.training_log import TrainingLog

    logger = CSVMetrics(tmp_path / "metrics.csv")
    seen = []

    class Look(L.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if trainer.global_step == 2:
                seen.append(logger.path.read_text().splitlines()[-1].split(",")[0])

    checkpoints = Checkpoints(tmp_path, None, every_n_seconds=0)
    run = make_trainer(TrainingLog(1), checkpoints, Look(), epochs=1, loggers=[logger])
    run.fit(make_module(), datamodule=digits)
    assert seen == ["2"]


def test_a_full_disk_leaves_the_old_checkpoint_and_no_part(tmp_path, digits, make_module, make_trainer, monkeypatch):
    module, checkpoints = make_module(), Checkpoints(tmp_path, None)
    run = make_trainer(checkpoints)
    run.fit(module, datamodule=digits)
    before = checkpoints.last.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("certtrain.training.callbacks.checkpoint.put", FullDisk(put))
        with pytest.raises(DiskFull, match=r"there is no room for .*last\.ckpt: No space left"):
            checkpoints.save_last(run, module)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert checkpoints.last.read_bytes() == before
    checkpoints.save_last(run, module)
    assert read_checkpoint(checkpoints.last)["global_step"] == run.global_step


class Keeps(L.Callback):
    def __init__(self, state):
        self.state = state

    def state_dict(self):
        return {"state": self.state}

    def load_state_dict(self, state):
        self.state = state["state"]


def test_a_callbacks_state_comes_back(tmp_path, digits, make_module, make_trainer):
    state = {"seen": [1, "two"], "best": torch.tensor(3.0)}
    make_trainer(Keeps(state), Checkpoints(tmp_path, None), epochs=1).fit(make_module(), datamodule=digits)
    again, last = Keeps(None), str(tmp_path / "last.ckpt")
    make_trainer(again, epochs=1).fit(make_module(), datamodule=digits, ckpt_path=last, weights_only=True)
    assert again.state == state


@pytest.mark.parametrize("state", [Keeps(None), lambda: None])
def test_a_state_that_no_reader_would_take_leaves_the_old_checkpoint(
    tmp_path, digits, make_module, make_trainer, state
):
    """Written, it would be found out when the run is certified or resumed: too late."""
    checkpoints = Checkpoints(tmp_path, None)
    make_trainer(checkpoints, epochs=1).fit(make_module(), datamodule=digits)
    before = checkpoints.last.read_bytes()
    with pytest.raises(UserError, match="the state that a callback puts into checkpoints cannot be read again"):
        make_trainer(Keeps(state), Checkpoints(tmp_path, None), epochs=1).fit(make_module(), datamodule=digits)
    assert checkpoints.last.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_callback_may_keep_checkpoints_of_its_own(tmp_path, digits, make_module, make_trainer):
    checkpoints, more = Checkpoints(tmp_path, None), ModelCheckpoint(tmp_path / "more", save_top_k=-1)
    run = make_trainer(checkpoints, more, epochs=2, enable_checkpointing=True)
    run.fit(make_module(), datamodule=digits)
    assert sorted(path.name for path in (tmp_path / "more").iterdir()) == ["epoch=0-step=3.ckpt", "epoch=1-step=6.ckpt"]
