"""Averaged weights are validated, kept and certified; training goes on with its own, over a resume bit for bit."""

import signal

import lightning as L
import pytest
import torch
from torch import nn

from certtrain.bounds import NativeEngine
from certtrain.data import Digits
from certtrain.errors import UserError
from certtrain.methods import Ramp
from certtrain.methods.mtl_ibp import MTLIBP
from certtrain.models.normalize import Normalize
from certtrain.system.signals import Interrupted, SignalFlag
from certtrain.training.callbacks.averaging import WeightAveraging
from certtrain.training.callbacks.checkpoint import Checkpoints
from certtrain.training.callbacks.population import PopulationStatistics, set_population_statistics
from certtrain.training.callbacks.signals import StopAtSignal
from certtrain.training.checkpoints import network_state, read_checkpoint
from certtrain.training.module import CertifiedTraining


def data() -> Digits:
    """Six batches an epoch, augmented."""
    found = Digits("unused", batch_size=100, val_size=0.6, seed=3, augment={"crop_padding": 1, "fill": "zero"})
    found.setup()
    return found


def module(lr: float = 1e-2) -> CertifiedTraining:
    """An attack that reads running statistics, so that these change what is trained."""
    torch.manual_seed(0)
    network = nn.Sequential(
        *(Normalize([0.3], [0.4], (1, 8, 8)), nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU()),
        nn.Linear(8, 10),
    )
    method = MTLIBP(0.05, Ramp(1, 3))
    optimizer = torch.optim.RAdam
    return CertifiedTraining(network, method, NativeEngine(network), lambda p: optimizer(p, lr=lr), lambda step: 1.0)


class Watch(L.Callback):
    """The weights after every step, those of every validation, and signals."""

    def __init__(self, flag=None, stop=-1):
        self.steps, self.validated, self.flag, self.stop = [], [], flag, stop

    def on_train_batch_end(self, trainer, module, *args):
        self.steps.append(state(module))
        if trainer.global_step == self.stop:
            self.flag.number = signal.SIGINT

    def on_validation_end(self, trainer, module):
        self.validated.append(state(module))


def state(module):
    return {name: value.clone() for name, value in module.network.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


WEIGHT = "2.weight"


def test_the_mean_of_the_weights_is_validated_and_kept_and_training_is_not_disturbed(make_trainer, tmp_path):
    plain, seen = module(), Watch()
    make_trainer(seen, epochs=3).fit(plain, datamodule=data())
    averaged, watch, checkpoints = module(), Watch(), Checkpoints(tmp_path, None)
    make_trainer(WeightAveraging(8, every=2), watch, checkpoints, epochs=3).fit(averaged, datamodule=data())
    assert all(same(one, other) for one, other in zip(watch.steps, seen.steps, strict=True))
    assert same(watch.validated[0], seen.steps[5])  # nothing was averaged yet
    for epoch, steps in ((1, (10, 12)), (2, (10, 12, 14, 16, 18))):
        mean = torch.stack([seen.steps[step - 1][WEIGHT].double() for step in steps]).mean(0)
        torch.testing.assert_close(watch.validated[epoch][WEIGHT].double(), mean, rtol=1e-5, atol=1e-7)
    kept = network_state(read_checkpoint(checkpoints.last))
    assert same(kept, watch.validated[2])
    assert same(kept, state(averaged))
    again, loader = module(), data().train_dataloader()
    loader.set_epoch(2)
    again.network.load_state_dict(kept)
    set_population_statistics(again.network, loader)
    assert same(kept, state(again))


def test_the_average_of_constant_weights_is_the_weights(make_trainer):
    still, watch = module(lr=0.0), Watch()
    make_trainer(WeightAveraging(0), watch, epochs=1).fit(still, datamodule=data())
    weights = dict(still.network.named_parameters())
    assert all(torch.equal(weights[name], watch.steps[0][name]) for name in weights)


def callbacks():
    return PopulationStatistics(), WeightAveraging(6, every=2)


@pytest.mark.parametrize("stop", [3, 9, 14])  # before the first average, in the epoch of it, after an epoch of averages
def test_resuming_in_mid_epoch_gives_the_same_bits(stop, make_trainer, tmp_path):
    whole, seen = module(), Watch()
    make_trainer(*callbacks(), seen, epochs=3).fit(whole, datamodule=data())
    first, flag, checkpoints = module(), SignalFlag(), Checkpoints(tmp_path, None)
    run = make_trainer(
        *callbacks(), Watch(flag, stop), checkpoints, StopAtSignal(flag, checkpoints), epochs=3
    )  # fmt: skip
    with pytest.raises(Interrupted):
        run.fit(first, datamodule=data())
    kept = network_state(read_checkpoint(checkpoints.last))
    before = seen.validated[(stop - 1) // 6 - 1] if stop > 12 else seen.steps[stop - 1]
    assert same(kept, before)  # in mid-epoch the averages of the last epoch's end, when there are any
    second, watch = module(), Watch()
    resumed = make_trainer(*callbacks(), watch, epochs=3)
    resumed.fit(second, datamodule=data(), ckpt_path=checkpoints.last, weights_only=True)
    assert all(same(one, other) for one, other in zip(watch.steps, seen.steps[stop:], strict=True))
    assert same(state(second), state(whole))


def test_a_training_that_is_resumed_at_its_end_keeps_its_averages(make_trainer, tmp_path):
    checkpoints = Checkpoints(tmp_path, None)
    first = module()
    make_trainer(WeightAveraging(4), checkpoints, epochs=2).fit(first, datamodule=data())
    kept = network_state(read_checkpoint(checkpoints.last))
    second, checkpoints = module(), Checkpoints(tmp_path, None)
    make_trainer(WeightAveraging(4), checkpoints, epochs=2).fit(
        second, datamodule=data(), ckpt_path=checkpoints.last, weights_only=True
    )
    assert same(kept, state(second))
    assert same(kept, network_state(read_checkpoint(checkpoints.last)))
    third, watch = module(), Watch()
    make_trainer(WeightAveraging(4), watch, epochs=3).fit(
        third, datamodule=data(), ckpt_path=checkpoints.last, weights_only=True
    )
    longer, seen = module(), Watch()
    make_trainer(WeightAveraging(4), seen, epochs=3).fit(longer, datamodule=data())
    assert same(watch.steps[0], seen.steps[12])
    assert same(state(third), state(longer))


@pytest.mark.parametrize("order", [1, -1])
def test_population_statistics_of_the_trained_weights_do_not_depend_on_the_order(order, make_trainer):
    one, watch = module(), Watch()
    make_trainer(*callbacks()[::order], watch, epochs=2).fit(one, datamodule=data())
    other, seen = module(), Watch()
    make_trainer(PopulationStatistics(), seen, epochs=2).fit(other, datamodule=data())
    assert same(watch.steps[7], seen.steps[7])


def test_without_a_validation_the_averages_are_kept_too(make_trainer):
    one, watch = module(), Watch()
    make_trainer(WeightAveraging(8, every=2), watch, epochs=2, limit_val_batches=0).fit(one, datamodule=data())
    mean = (watch.steps[9][WEIGHT] + watch.steps[11][WEIGHT]) / 2
    torch.testing.assert_close(one.network[2].weight.detach(), mean)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start": -1}, "start = -1"),
        ({"start": 1.5}, "start = 1.5"),
        ({"start": 0, "every": 0}, "every = 0"),
        ({"start": 12}, "from step 12 on, every 1, in a training of 12 steps"),
        ({"start": 10, "every": 7}, "from step 10 on, every 7, in a training of 12 steps"),
    ],
)
def test_what_averages_nothing_is_refused(options, words, make_trainer):
    with pytest.raises(UserError, match=words):
        make_trainer(WeightAveraging(**options), epochs=2).fit(module(), datamodule=data())
