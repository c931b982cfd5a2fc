"""Divergence is found soon, by the first bad step, and before anything certifies a broken network."""

import lightning as L
import pytest
import torch

from certtrain.training.callbacks import guard
from certtrain.training.callbacks.guard import FiniteGuard, TrainingDiverged, check_finite
from certtrain.training.module import UNSEEN


class Poison(L.Callback):
    """Makes a weight NaN after so many steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, module, *args):
        if trainer.global_step == self.step:
            with torch.no_grad():
                module.network[2].bias[0] = float("nan")


class Last(L.Callback):
    """The last step that began."""

    def on_train_batch_start(self, trainer, module, *args):
        self.step = trainer.global_step


@pytest.mark.parametrize(("poisoned", "every", "noticed"), [(1, 2, 2), (2, 2, 2), (4, 1, 4), (3, 5, 5)])
def test_looks_every_n_steps(digits, make_module, make_trainer, poisoned, every, noticed):
    last = Last()
    callback, run = FiniteGuard(every), None
    run = make_trainer(Poison(poisoned), callback, last, epochs=4)
    run.limit_val_batches = 0
    with pytest.raises(TrainingDiverged) as error:
        run.fit(make_module(), datamodule=digits)
    # The weights break after the step; the loss shows it in the next one.
    ends_epoch = -(-max(poisoned, 1) // 3) * 3
    assert run.global_step == min(noticed, ends_epoch)
    assert error.value.step == (poisoned if run.global_step > poisoned else None)
    assert "optimizer.lr" in error.value.fix


def test_looks_before_a_validation(digits, make_module, make_trainer, make_validation):
    validation = make_validation()
    with pytest.raises(TrainingDiverged):
        make_trainer(Poison(3), FiniteGuard(1000), validation).fit(make_module(), datamodule=digits)
    assert validation.summary is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_names_the_first_bad_parameter_or_buffer(make_module, value):
    module = make_module()
    check_finite(module)
    module.network[4].bias.data[3] = value
    with pytest.raises(TrainingDiverged, match=r"'4\.bias'"):
        check_finite(module)


@pytest.mark.parametrize(("own", "others", "first"), [(6, 5, 5), (5, 6, 5), (UNSEEN, 4, 4), (0, UNSEEN, 0)])
def test_of_several_processes_the_first_bad_step_is_told(make_module, monkeypatch, own, others, first):
    """What is NaN in one share of a batch is in all of them a step later."""
    module, asked = make_module(), []

    def told(step):
        module.first_bad_step.fill_(step)
        with pytest.raises(TrainingDiverged) as error:
            check_finite(module)
        return error.value.step

    monkeypatch.setattr(guard, "global_max", lambda value: asked.append(value) or value)
    if others != UNSEEN:
        assert told(others) == others
    monkeypatch.setattr(guard, "global_max", lambda value: max(value, *asked, 0))
    assert told(own) == first
