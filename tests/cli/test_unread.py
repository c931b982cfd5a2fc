"""A key that nothing reads is refused, wherever it was written; what a part's constructor takes may be added to it."""

import json
import sys

import pytest

from certtrain.cli import main as cli
from certtrain.cli.compose import call_hydra
from certtrain.cli.unread import _extra, _missing, refuse_unread
from certtrain.config.overrides import options
from certtrain.errors import UserError

OWN = '''
"""A network and a method with arguments of their own."""
from certtrain.methods import Standard
from certtrain.models import mlp


def network(input_shape, num_classes, mean, std, hidden=(4,), depth=1):
    return mlp(input_shape, num_classes, mean, std, hidden=[*hidden] * depth)


class Own(Standard):
    def __init__(self, l1=0.0, my_arg=0):
        super().__init__(l1)
        assert my_arg == 3
'''


def composed(*overrides: str, command: str = "train") -> None:
    """Compose and check, without running anything."""
    call_hydra(command, list(overrides), lambda config: refuse_unread(command, config))


def refused(*overrides: str, command: str = "train") -> str:
    with pytest.raises(UserError) as caught:
        composed(*overrides, command=command)
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "near"),
    [
        ("+label_noise=0.1", "leave it out"),
        ("+epsilon=0.3", "eps"),
        ("++epsilon=0.3", "eps"),
        ("+lr=0.1", "did you mean optimizer.lr"),
        ("+schedule.rampp=3", "did you mean schedule.ramp"),
        ("+trainer.clip_val=3", "did you mean trainer.gradient_clip_val"),
        ("+logger.wand.project=x", "did you mean logger.wandb"),
        ("+bounds.foo=1", "leave it out"),  # which Gaussian training never builds
        ("+certifier.x=1", "leave it out"),
        ("+certifier.smoothing.batchsize=1", "did you mean batch_size"),
    ],
)
def test_an_appended_key_that_nothing_reads(override, near):
    shown = refused("method=gaussian", override)
    assert override.lstrip("+").split("=")[0].split(".")[0] in shown
    assert near in shown
    assert f"{override} on the command line" in shown


@pytest.mark.parametrize("command", ["certify", "predict", "export"])
def test_other_commands(command):
    needed = ["run=some", *(["input=x.png"] if command == "predict" else [])]
    assert "+targets=[1] on the command line" in refused(*needed, "+targets=[1]", command=command)
    composed(*needed, command=command)


@pytest.mark.parametrize(
    "override",
    [
        "+data.augment.rotate=3",  # refused where it is read, which knows better
        "+logger.wandb.project=x",
        "logger=[csv,tensorboard]",
        "+certifier.mine={_target_: certtrain.certifiers.SmoothingCertifier, sigma: 0.1, radii: [0.1]}",
        "scales={others: 0.1}",
        "+model._convert_=all",
        "model._target_=torch.nn.Linear",
        "~trainer.compile",
    ],
)
def test_what_is_read_stays_possible(override):
    composed(override)


@pytest.mark.parametrize("override", ["~eps", "~schedule.ramp", "~logger", "~checkpoint.use"])
def test_a_key_that_is_needed_cannot_be_taken_away(override):
    assert f"{override} on the command line" in refused(override)


def test_arguments_of_a_part_of_the_users_own(in_tmp, tiny, monkeypatch):
    (in_tmp / "own_parts.py").write_text(OWN)
    monkeypatch.syspath_prepend(in_tmp)
    own = ["model._target_=own_parts.network", "+model.depth=2", "method=standard", "method._target_=own_parts.Own"]
    assert "did you mean depth" in refused(*own, "+model.dept=2", "+method.my_arg=3")
    arguments = ["train", *tiny, "model=mlp", *own, "+method.my_arg=3", "epochs=1", "name=own", "++trainer.devices=1"]
    assert cli.main(arguments) == 0
    sys.modules.pop("own_parts")
    assert json.loads((in_tmp / "runs" / "own" / "result.json").read_text())["status"] == "complete"


def test_a_key_appended_by_an_experiment_of_the_users_own(in_tmp):
    (in_tmp / "mine" / "experiment").mkdir(parents=True)
    file = in_tmp / "mine" / "experiment" / "noisy.yaml"
    file.write_text("# @package _global_\nepsilon: 0.3\n")
    assert "experiment=noisy" in refused(f"--config-dir={in_tmp / 'mine'}", "experiment=noisy")
    file.write_text("# @package _global_\ndefaults:\n  - override /method: ibp\neps: 0.3\nmethod: {l1: 0.1}\n")
    composed(f"--config-dir={in_tmp / 'mine'}", "experiment=noisy")


@pytest.mark.slow
def test_no_experiment_of_ours_sets_what_nothing_reads():
    names = options("experiment")
    assert len(names) > 30
    for name in names:
        composed(f"experiment={name}")
    composed("sweep=optuna", "method=ibp", "+sweep.space.optimizer.lr={low: 0.1, high: 1}")


def test_in_a_multirun_the_job_fails_and_no_run_is_left(in_tmp, tiny, capsys):
    assert cli.main(["train", "-m", *tiny, "+epsilon=0.3", "seed=0,1"]) == 2
    assert "2 of 2 jobs failed" in capsys.readouterr().err
    assert not [path for path in in_tmp.rglob("*") if path.is_file()]


def test_a_run_that_was_made_with_such_a_key_can_be_resumed(in_tmp, tiny):
    assert cli.main(["train", *tiny, "epochs=1", "schedule.ramp=0", "method=ibp", "name=old"]) == 0
    run = in_tmp / "runs" / "old"
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config + "label_noise: 0.1\n")
    (run / "overrides.yaml").write_text((run / "overrides.yaml").read_text() + "- +label_noise=0.1\n")
    assert cli.main(["train", "resume=old", "epochs=2"]) == 0
    assert "epochs: 2" in (run / "config.yaml").read_text()


def test_the_comparison_itself():
    known = {"a": 1, "b": {"c": 1}, "d": {"_target_": "torch.nn.Linear", "bias": True}, "e": None}
    made = {"a": {"x": 1}, "b": {"c": 2, "y": 1}, "d": {"_target_": "torch.nn.Linear", "out_features": 1, "z": 1}}
    assert list(_extra(made, known)) == ["b.y", "d.z"]
    assert list(_missing(made, known)) == ["e"]
