"""`certtrain train`: what a name protects, which run is gone on with, and what becomes of the overrides."""

from importlib.util import find_spec

import pytest
import torch
from run_files import result, same_weights, weights

from certtrain.cli.main import main

# Importing it needs our compatibility layer, so `importorskip` would always skip.
needs_lirpa = pytest.mark.skipif(find_spec("auto_LiRPA") is None, reason="auto_LiRPA is not installed")


@pytest.mark.parametrize("other", ["optimizer.lr=0.02", "seed=1", "model.hidden=[17]", "epochs=1"])
def test_another_configuration_of_the_same_name_is_refused(runs, tiny, few_attacks, snapshot, capsys, other):
    before = snapshot(runs / "bounds")
    arguments = ["train", *tiny, *few_attacks, "method=crown_ibp", "certify_test=true", "name=bounds", other]
    assert main(arguments) == 2
    shown = capsys.readouterr().err
    assert other.split("=")[0] in shown
    assert "name=" in shown
    assert snapshot(runs / "bounds") == before


def test_a_run_without_a_key_that_there_is_now_is_refused_in_one_message(runs, snapshot, capsys):
    config, key = runs / "noise" / "config.yaml", "  precision: 32-true\n"
    then = config.read_text()
    assert then.count(f"trainer:\n  accelerator: cpu\n  devices: 1\n{key}") == 1
    config.write_text(then.replace(f"  devices: 1\n{key}", "  devices: 1\n"))
    before = snapshot(runs / "noise")
    assert main(["train", "resume=noise"]) == 2
    said = capsys.readouterr().err
    assert "trainer.precision: absent there, '32-true' now" in said
    assert "environment.json" in said
    assert snapshot(runs / "noise") == before


def test_resume_of_an_unknown_run_or_under_another_name_is_refused(runs, capsys):
    assert main(["train", "resume=bunds"]) == 2
    assert "did you mean bounds" in capsys.readouterr().err
    assert main(["train", "resume=bounds", "name=other"]) == 2
    assert "other" in capsys.readouterr().err


def test_a_run_whose_name_holds_what_hydra_reads_otherwise_resumes_and_certifies(in_tmp):
    arguments = ["data=digits", "model=mlp", "method=standard", "model.hidden=[8,8]", "val_size=0", "epochs=1"]
    assert main(["train", *arguments]) == 0
    [run] = [path for path in (in_tmp / "runs").iterdir() if path.is_dir()]
    assert "," in run.name
    assert "=" in run.name
    assert main(["train", f"resume={run}", "epochs=2"]) == 0
    assert result(run)["epochs"] == 2
    assert main(["certify", f"run={run}", "certifier=ibp", "indices=first_20"]) == 0
    assert "ibp_first_20" in result(run)["test"]


@pytest.mark.parametrize("override", ["norm=l2", pytest.param("bounds=auto_lirpa", marks=needs_lirpa)])
def test_l2_and_the_other_engine_train(in_tmp, tiny, override):
    assert main(["train", *tiny, "method=crown_ibp", "epochs=1", override, "name=run"]) == 0
    found = result(in_tmp / "runs" / "run")
    assert found["validation"]["claim"]["threat"] == ("l2" if "norm" in override else "linf")
    assert found["validation"]["invalid"] == 0
    assert found["validation"]["clean"] > 0.2


@needs_lirpa
def test_both_engines_train_the_same_weights(in_tmp, tiny):
    for engine in ("native", "auto_lirpa"):
        assert (
            main(
                ["train", *tiny, "method=ibp", "method.regulariser=0", "epochs=1", f"bounds={engine}", f"name={engine}"]
            )
            == 0
        )
    first, second = (weights(in_tmp / "runs" / engine) for engine in ("native", "auto_lirpa"))
    assert all(torch.allclose(first[key], second[key], rtol=1e-3, atol=1e-4) for key in first)


def test_special_initial_weights_depend_on_the_seed_and_on_nothing_else(in_tmp, tiny):
    for name, seed in (("a", 0), ("b", 1), ("c", 0)):
        torch.manual_seed(len(name) + seed * 100 + ord(name))  # whatever the process drew before
        arguments = ["method=ibp", "method.init=ibp", "epochs=1", "optimizer.lr=0.0", f"seed={seed}", f"name={name}"]
        assert main(["train", *(o for o in tiny if not o.startswith("optimizer")), *arguments]) == 0
    one, other, again = (weights(in_tmp / "runs" / name) for name in "abc")
    assert same_weights(one, again)
    key = next(key for key in one if key.endswith("weight"))
    assert not torch.equal(one[key], other[key])


def test_a_multirun_makes_one_run_per_value_and_a_failing_job_ends_no_other(in_tmp, tiny, capsys):
    assert main(["train", "-m", *tiny, "method=standard", "epochs=1", "seed=0,1"]) == 0
    runs = [path for path in (in_tmp / "runs").iterdir() if path.is_dir()]
    assert sorted(result(run)["seed"] for run in runs) == [0, 1]
    assert not same_weights(*(weights(run) for run in runs))
    assert main(["train", "-m", *tiny, "method=standard", "epochs=1", "model.hidden=[0],[8]", "runs_dir=more"]) == 2
    shown = capsys.readouterr().err
    assert "1 of 2 jobs failed" in shown
    assert "hidden" in shown
    [run] = [path for path in (in_tmp / "more").iterdir() if path.is_dir()]
    assert result(run)["status"] == "complete"
    assert [path.name for path in in_tmp.iterdir() if path.is_file()] == []


def test_the_test_set_cannot_choose_in_a_multirun(in_tmp, tiny, capsys):
    assert main(["train", "-m", *tiny, "certify_test=true", "seed=0,1"]) == 2
    assert "certify_test" in capsys.readouterr().err
    assert not [path for path in in_tmp.glob("runs/*") if path.is_dir()]


def test_a_run_that_learns_nothing_says_so_and_is_never_the_best(in_tmp, tiny, capsys):
    """After a step of 1e9 its weights answer one class for all, which is certified at any radius."""
    arguments = ["train", "-m", *tiny, "method=standard", "optimizer.lr=1e9,0.02", "epochs=3"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    runs = sorted(path for path in (in_tmp / "runs").iterdir() if path.is_dir())
    [learnt] = [run for run in runs if "guessing" not in result(run)["validation"]]
    [other] = [run for run in runs if run != learnt]
    assert "1000000000" in other.name
    assert "warning: on the validation examples this classifier is no better than a guess" in shown
    assert f"best by val/certified@0.05: runs/{learnt.name}\n" in shown
    assert " !" in shown
