"""What makes no study is refused before the first trial, and a study's directory belongs to it alone."""

import json

import pytest
from composing import composed

from certtrain.cli.main import main
from certtrain.cli.study_request import flat
from certtrain.config.overrides import options
from certtrain.sweeps.space import read_space

pytest.importorskip("optuna")


@pytest.mark.parametrize(
    ("arguments", "expecting"),
    [
        (["+sweep.space.optimizer.lrr={low: 0.1, high: 1}"], "did you mean optimizer.lr"),
        (["+sweep.space.seed={low: 0, high: 9, step: 1}"], "cannot be searched"),
        (["sweep.n_trails=3"], "sweep.n_trials"),
        (["sweep=optnua"], "did you mean optuna"),
        (["sweep/space=crown_ipb"], "crown_ibp"),
        (["sweep.metric=val/certified@0.07"], "val/certified@0.05"),
        (["sweep.pruner=medain"], "did you mean median"),
        (["seeds=2"], "makes its own runs"),
        (["-m", "seed=0,1"], "makes its own runs"),
        (["val_size=0"], "validation examples"),
        (["hydra/launcher=joblib"], "one after another"),
        (["sweep.floors.clean=90"], "sweep.floors.clean = 90 is not a validation accuracy in [0, 1)"),
        (["sweep.floors.natural=0.9"], "sweep.floors.clean"),
        (["~sweep.space.optimizer"], "no search space for method=standard"),
    ],
)
def test_mistakes_before_the_first_trial(in_tmp, study, capsys, arguments, expecting):
    assert main([*study, *arguments]) == 2
    shown = capsys.readouterr().err
    assert expecting in shown
    assert "Traceback" not in shown
    assert not [path for path in in_tmp.rglob("*") if path.is_file() and path.name != "study.json"]


@pytest.mark.parametrize("method", [name for name in options("method") if f"space/{name}" in options("sweep")])
def test_a_space_is_of_keys_that_its_method_has(method):
    found = composed(f"method={method}", "sweep=optuna")
    groups = {group: options(group) for group in ("optimizer", "model")}
    space = read_space(found["sweep"]["space"], flat(found), groups)
    assert "optimizer.lr" in {parameter.key for parameter in space}
    assert any(parameter.key.startswith("method.") for parameter in space) or method == "gaussian"


def test_another_study_of_the_same_name_is_refused(in_tmp, study, capsys, snapshot):
    assert main([*study, "sweep.n_trials=1"]) == 0
    before = snapshot(in_tmp / "runs")
    for other in ("sweep.space.optimizer.lr.high=0.2", "epochs=2", "sweep.pareto=true", "seed=3"):
        assert main([*study, other]) == 2
        shown = capsys.readouterr().err
        assert "exists with other settings" in shown
        assert other.split("=")[0].removeprefix("sweep.pareto") in shown
    assert snapshot(in_tmp / "runs") == before


@pytest.mark.parametrize("content", ["{", "[]", '{"sweep": {}}'])
def test_a_damaged_description_of_a_study_is_refused(in_tmp, study, capsys, content):
    (in_tmp / "runs" / "it").mkdir(parents=True)
    (in_tmp / "runs" / "it" / "study.json").write_text(content)
    assert main(study) == 2
    assert "cannot read runs/it/study.json" in capsys.readouterr().err


def test_a_study_without_a_key_that_there_is_now_is_another_one(in_tmp, study, capsys):
    assert main([*study, "sweep.n_trials=1"]) == 0
    path = in_tmp / "runs" / "it" / "study.json"
    described = json.loads(path.read_text())
    assert described["config"]["trainer"].pop("channels_last") is False
    path.write_text(json.dumps(described))
    assert main([*study, "sweep.n_trials=1"]) == 2
    assert "trainer.channels_last: absent there, False now" in capsys.readouterr().err
    assert json.loads(path.read_text()) == described
