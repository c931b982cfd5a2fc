"""Jobs in other processes leave the same runs, their own logs, and a summary that is read from their directories."""

import json
from importlib.util import find_spec

import pytest

from certtrain.cli.main import main

needs = pytest.mark.skipif(find_spec("hydra_plugins") is None, reason="the launchers are not installed")


def results(folder) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/result.json")}


@needs
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "submitit_slurm"])
def test_presets_compose(launcher, capsys):
    assert main(["train", f"hydra/launcher={launcher}", "--cfg", "hydra"]) == 0
    assert f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher" in capsys.readouterr().out


def test_a_launcher_that_is_missing_or_mistyped_is_named(in_tmp, capsys, tiny):
    assert main(["train", "-m", *tiny, "seed=0,1", "hydra/launcher=jobilb"]) == 2
    assert "joblib" in capsys.readouterr().err
    missing = "hydra.launcher._target_=hydra_plugins.nothing.Launcher"
    assert main(["train", "-m", *tiny, "seed=0,1", missing]) == 2
    assert "pip install 'certtrain[sweep]'" in capsys.readouterr().err
    assert list(in_tmp.iterdir()) == []


@needs
@pytest.mark.slow
def test_joblib_runs_two_jobs_side_by_side_with_their_share_of_the_cores(in_tmp, tiny, capfd):
    arguments = [
        "train",
        "-m",
        *tiny,
        "method=standard",
        "epochs=1",
        "hydra/launcher=joblib",
        "eps=0.05,-1",
        "seed=0,1",
    ]
    assert main(arguments) == 2
    shown = capfd.readouterr()
    assert "2 of 4 jobs failed, the first because: the radius -1 is negative" in shown.err
    assert "2 runs, best first by the validation metric val/certified@0.05" in shown.out
    found = results(in_tmp / "runs")
    assert sorted(run["seed"] for run in found.values()) == [0, 1]
    environments = [json.loads(path.read_text()) for path in in_tmp.glob("runs/*/environment.json")]
    assert all(" -m " in environment["command"] for environment in environments)  # what was typed
    logs = list(in_tmp.glob("runs/.multirun/*/*.log"))
    assert len(logs) == 4
    assert sum("trained 1 epochs" in log.read_text() for log in logs) == 2
    assert sum("the radius -1 is negative" in log.read_text() for log in logs) == 2
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True)  # its idle workers would live as long as the tests


@needs
@pytest.mark.slow
def test_submitit_on_this_machine_runs_seeds(in_tmp, tiny, capfd):
    arguments = ["train", *tiny, "method=standard", "epochs=1", "hydra/launcher=submitit_local", "seeds=2", "name=it"]
    assert main(arguments) == 0
    assert "mean ± sd over 2 seeds" in capfd.readouterr().out
    assert sorted(results(in_tmp / "runs")) == ["it-seed0", "it-seed1"]
