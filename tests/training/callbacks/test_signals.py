"""A training stops at the next step after a signal."""

import os
import signal

import pytest

from certtrain.system.signals import Interrupted, SignalFlag
from certtrain.training.callbacks.checkpoint import Checkpoints
from certtrain.training.callbacks.signals import StopAtSignal


@pytest.mark.parametrize(("at", "accumulate", "stopped_after"), [(0, 1, 1), (2, 1, 3), (0, 2, 1), (4, 1, 5)])
def test_training_stops_at_the_next_step_with_a_checkpoint(
    tmp_path, digits, make_module, make_trainer, monkeypatch, at, accumulate, stopped_after
):
    flag, checkpoints, module = SignalFlag(), Checkpoints(tmp_path, None), make_module()
    step_of = module.training_step

    def training_step(batch, batch_idx):
        if module.global_step == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return step_of(batch, batch_idx)

    monkeypatch.setattr(module, "training_step", training_step)
    run = make_trainer(checkpoints, StopAtSignal(flag, checkpoints), accumulate=accumulate)
    with flag, pytest.raises(Interrupted):
        run.fit(module, datamodule=digits)
    assert run.global_step == stopped_after
    assert checkpoints.last.exists()
