"""Methods of a user's own, whatever arguments they take; and runs that failed before anything was learnt."""

import csv
import json
from pathlib import Path

import pytest
import torch.nn.functional as F

from certtrain.cli import main as cli
from certtrain.config.build import build_lr, build_method
from certtrain.errors import UserError
from certtrain.methods import IBP, Method, Objective, Ramp, Schedule, Weight
from certtrain.methods.inner_attack import InnerAttack
from certtrain.methods.mixture import Mixture
from certtrain.methods.regions import SmallBoxes
from certtrain.runs.directory import RunDirectory
from certtrain.schedules import Timed

SCHEDULE = {"epochs": 4, "scale": False, "warmup": 1, "ramp": 2, "shape": "linear", "mid": 0.25}


class Plain(Method):
    def objective(self, network, engine, batch, phase, values):
        return Objective(F.cross_entropy(network(batch.x), batch.y), {})


class Kappa(Plain):
    """Its kappa is a number, and it has no regulariser."""

    def __init__(self, kappa):
        self.kappa = kappa


class Scheduled(Plain):
    def __init__(self, ramp, gamma: Weight, delta=0.0):
        self.ramp, self.gamma, self.delta = ramp, gamma, delta


class Tuned(IBP):
    def __init__(self, extra, **options):
        super().__init__(**options)
        self.extra = extra


def built(kind, **node):
    config = {"method": {"_target_": f"{__name__}.{kind.__name__}", **node}, "schedule": SCHEDULE, "epochs": 4}
    return build_method({**config, "train_eps": "0.1"}, steps_per_epoch=10)


def test_a_method_gets_what_it_takes():
    assert isinstance(built(Plain), Plain)
    assert built(Kappa, kappa=0.5).kappa == 0.5
    weight = {"_target_": "certtrain.schedules.Weight", "start": 1.0, "end": 0.2, "by": "step"}
    made = built(Scheduled, gamma=weight, delta=0.3)
    assert (made.ramp, made.gamma, made.delta) == (Ramp(10, 20), Weight(1.0, 0.2, "step"), 0.3)
    tuned = built(Tuned, extra=1, kappa={**weight, "end": 0.0}, regulariser=0.5)
    assert (tuned.train_eps, tuned.ramp, tuned.regulariser.weight, tuned.extra) == (0.1, Ramp(10, 20), 0.5, 1)
    assert built(Tuned, extra=1, regulariser=0.0).regulariser is None


class Sawtooth(Schedule):
    """Falls from 1 to 0 every `period`, without looking at the ramp."""

    lengths = {"period": 1}  # noqa: RUF012

    def __init__(self, period):
        self.period = period

    def at(self, step, ramp):
        return 1 - step % self.period / self.period


class Late(Ramp):
    """A jump at the end of the ramp."""

    def fraction(self, step):
        return float(step >= self.end)


class Free(Plain):
    def __init__(self, delta, zeta, ramp=None):
        self.delta, self.zeta, self.ramp = delta, zeta, ramp


def test_any_schedule_may_stand_under_any_key():
    saw = {"_target_": f"{__name__}.Sawtooth", "period": 0.5}
    late = {"_target_": f"{__name__}.Late", "start": 1, "length": 2.5}
    made = built(Free, delta=saw, zeta={**saw, "period": 2}, ramp=late)
    assert made.scheduled(12) == {"delta": 1 - 2 / 5, "zeta": 1 - 12 / 20}
    assert (made.ramp, made.ramp_end) == (Late(10, 25), 35)
    assert built(Tuned, extra=1, kappa=saw).scheduled(4)["kappa"] == 1 - 4 / 5
    bent = built(Tuned, extra=1, ramp=late)
    assert [bent.eps(step) for step in (34, 35)] == [0, 0.1]


def test_the_learning_rate_may_follow_a_class_of_ones_own():
    schedule = {**SCHEDULE, "lr": {"_target_": f"{__name__}.Halving", "every": 0.5}}
    factor = build_lr({"schedule": schedule, "epochs": 4}, steps_per_epoch=10)
    assert [factor(step) for step in (0, 4, 5, 11)] == [1, 1, 0.5, 0.25]


def test_the_command_line_replaces_the_learning_rates_shape(own, tiny):
    """And a run that has it is resumed."""
    Path("own_rates.py").write_text(
        "from certtrain.schedules import Timed\n\n\nclass Halving(Timed):\n    lengths = {'every': 1}\n\n"
        "    def __init__(self, every):\n        self.every = every\n\n"
        "    def __call__(self, step):\n        return 0.5 ** (step // self.every)\n"
    )
    shape = ["~schedule.lr", "+schedule.lr={_target_: own_rates.Halving, every: 1}"]
    assert cli.main([*own, *tiny, *shape, "method=standard", "epochs=2", "optimizer.lr=0.5", "name=run"]) == 0
    assert cli.main([*own, "resume=run", "epochs=3", "trust=own_rates"]) == 0
    with Path("runs/run/metrics.csv").open() as file:
        rates = [float(row["schedule/lr"]) for row in csv.DictReader(file) if row["schedule/lr"]]
    assert (rates[0], rates[-1]) == (0.25, 0.0625)
    assert cli.main([*own, *tiny, *shape, "+schedule.lr.evry=2", "method=standard", "name=other"]) == 2


def test_a_combination_of_parts_is_a_yaml_file():
    weight = {"_target_": "certtrain.schedules.Weight", "start": 1.0, "end": 0.5, "by": "step"}
    attack = {"_target_": "certtrain.methods.inner_attack.InnerAttack", "steps": 3}
    node = {
        "_target_": "certtrain.methods.BoundTraining",
        "robust": {"_target_": "certtrain.methods.mixture.Mixture", "beta": weight},
        "region": {"_target_": "certtrain.methods.regions.SmallBoxes", "share": 0.2, "attack": attack},
    }
    made = build_method({"method": node, "schedule": SCHEDULE, "epochs": 4, "train_eps": "0.1"}, steps_per_epoch=10)
    assert made.robust == Mixture(Weight(1.0, 0.5, "step"))
    assert made.region == SmallBoxes(0.2, InnerAttack(steps=3))
    assert made.scheduled(20)["beta"] == 0.75


class Halving(Timed):
    lengths = {"every": 1}  # noqa: RUF012

    def __init__(self, every):
        self.every = every

    def __call__(self, step):
        return 0.5 ** (step // self.every)


@pytest.mark.parametrize(
    "node", [{"kappa": 0.5}, {"kappa": {"start": 1}}, {"regulariser": -1.0}, {"extra": 2, "zeta": 1}]
)
def test_what_it_does_not_take_is_refused(node):
    with pytest.raises(UserError, match=r"kappa|regulariser|zeta"):
        built(Tuned, **{"extra": 1, **node})


@pytest.fixture
def own(in_tmp, monkeypatch):
    """A folder of configuration with methods of the user's own."""
    (in_tmp / "own_methods.py").write_text(
        "from certtrain.methods import Standard\n\n\nclass Broken(Standard):\n"
        "    def objective(self, *of):\n        raise KeyError('mine')\n"
    )
    monkeypatch.syspath_prepend(in_tmp)
    folder = in_tmp / "conf" / "method"
    folder.mkdir(parents=True)
    (folder / "bare.yaml").write_text("_target_: certtrain.methods.Standard\n")
    head = "# @package method\ndefaults:\n  - /certifier@_global_.certifier: bounds\n  - _self_\n"
    (folder / "broken.yaml").write_text(f"{head}_target_: own_methods.Broken\n")
    return ["train", "--config-dir", str(in_tmp / "conf")]


def test_a_method_without_a_certifier_is_told_which_to_name(own, tiny, capsys):
    assert cli.main([*own, *tiny, "method=bare", "name=run"]) == 2
    assert "+certifier=bounds" in capsys.readouterr().err
    assert not Path("runs").exists()
    assert cli.main([*own, *tiny, "method=bare", "name=run", "+certifier=bounds"]) == 0


def test_a_run_that_failed_on_a_users_class_leaves_the_name_free(own, tiny):
    with pytest.raises(KeyError, match="mine"):
        cli.main([*own, *tiny, "method=broken", "name=run"])
    assert not Path("runs/run").exists()


def test_an_empty_run_gives_way_to_the_mended_configuration(in_tmp):
    """As a training that diverges in its first steps leaves it."""
    run, state = RunDirectory.open("run", {"lr": 9.0}, [])
    run.write_result({"status": "failed", "reason": "diverged"})
    run.close()
    run, state = RunDirectory.open("run", {"lr": 0.1}, ["lr=0.1"])
    assert state == "new"
    assert run.read_result() is None
    assert run.read_config() == {"lr": 0.1}
    assert run.read_overrides() == ["lr=0.1"]
    run.write_result({"status": "failed", "reason": "diverged"})
    run.metrics.write_text("step\n")
    run.close()
    with pytest.raises(UserError, match="another configuration"):
        RunDirectory.open("run", {"lr": 0.2}, [])


def test_batch_norm_with_a_last_batch_of_one(in_tmp, tiny, capsys):
    """1,437 training images in batches of 1,436."""
    arguments = ["train", *tiny, "method=ibp", "val_size=0", "data.batch_size=1436", "name=run"]
    arguments[arguments.index("model=mlp")] = "model._target_=torch.nn.Sequential"
    arguments[arguments.index("model.hidden=[16]")] = (
        "model._args_=[{_target_: torch.nn.Flatten},{_target_: torch.nn.Linear,in_features: 64,out_features: 10},"
        "{_target_: torch.nn.BatchNorm1d,num_features: 10}]"
    )
    assert cli.main(arguments) == 2
    assert "data.drop_last=true" in capsys.readouterr().err
    assert not Path("runs/run").exists()
    assert cli.main([*arguments, "data.drop_last=true"]) == 0
    assert json.loads(Path("runs/run/result.json").read_text())["model"] == "torch.nn.Sequential"
