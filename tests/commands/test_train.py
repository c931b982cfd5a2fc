"""`certtrain train`: the evidence a run leaves, what a name protects, and going on where a run stopped."""

import csv
import json
import time
from importlib.util import find_spec

import pytest
import torch
import yaml

from certtrain.checkpoints import network_state, read_checkpoint
from certtrain.cli import main
from certtrain.runs import RunDirectory

# Importing it needs our compatibility layer, so `importorskip` would always skip.
needs_lirpa = pytest.mark.skipif(find_spec("auto_LiRPA") is None, reason="auto_LiRPA is not installed")


def result(path) -> dict:
    return json.loads((path / "result.json").read_text())


def weights(path) -> dict[str, torch.Tensor]:
    return network_state(read_checkpoint(path / "checkpoints" / "last.ckpt"))


def equal(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def rows(path) -> list[dict[str, str]]:
    with (path / "metrics.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]


@pytest.mark.parametrize("name", ["bounds", "noise"])
def test_a_run_leaves_all_its_evidence(trained_runs, name):
    run = trained_runs / name
    logs = {"bounds": ["crown", "crown_ibp", "ibp"], "noise": ["smoothing_n100"]}[name]
    for file in ("config.yaml", "overrides.yaml", "environment.json", "metrics.csv", "checkpoints/last.ckpt"):
        assert (run / file).stat().st_size > 0, file
    assert (run / "certified_accuracy.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(path.name for path in (run / "certificates").iterdir()) == sorted(
        f"{log}.{suffix}" for log in logs for suffix in ("tsv", "json")
    )
    found = result(run)
    assert {key: found[key] for key in ("schema", "status", "seed", "method", "data", "model", "epochs")} == {
        "schema": 1,
        "status": "complete",
        "seed": 0,
        "method": {"bounds": "crown_ibp", "noise": "gaussian"}[name],
        "data": "digits",
        "model": "mlp",
        "epochs": 2,
    }
    assert found["parameters"] == 64 * 16 + 16 + 16 * 10 + 10
    assert found["checkpoint"] == "last.ckpt"
    assert found["seconds"] > 0
    assert found["experiment"] is None
    assert sorted(found["test"]) == sorted(logs)
    assert not {"reason", "step"} & found.keys()
    for entry in [found["validation"], *found["test"].values()]:
        assert entry["norm"] == {"bounds": "linf", "noise": "l2"}[name]
        assert set(entry["certified"]) == {"0.02", "0.05"}
        assert 0 <= entry["certified"]["0.05"] <= entry["certified"]["0.02"] <= entry["clean"] <= 1
        assert ("acr" if name == "noise" else "acr_grid") in entry
        for key in ("abstained", "invalid", "indices_sha256", "certifier", "settings", "seconds"):
            assert key in entry
    assert found["validation"]["n"] == 20
    assert {entry["n"] for entry in found["test"].values()} == {360}
    assert all(entry["clean"] > 0.5 for entry in found["test"].values())  # it has learnt something


def test_metrics_have_one_step_and_hold_schedule_losses_and_validation(trained_runs):
    found = rows(trained_runs / "bounds")
    steps = read_checkpoint(trained_runs / "bounds" / "checkpoints" / "last.ckpt")["global_step"] // 2
    training = [row for row in found if "train/loss" in row]
    validation = [row for row in found if "val/clean" in row]
    assert [int(row["step"]) for row in training] == [steps, 2 * steps]
    assert [int(row["step"]) for row in validation] == [steps, 2 * steps]
    assert {row["epoch"] for row in training if int(row["step"]) == steps} == {"0"}
    for key in ("schedule/eps", "schedule/kappa", "schedule/beta", "schedule/lr", "train/loss_robust"):
        assert key in training[-1], key
    for key in ("val/certified@0.02", "val/certified@0.05", "val/acr_grid", "val/invalid", "val/certify_seconds"):
        assert key in validation[-1], key
    assert float(training[-1]["schedule/eps"]) == 0.05


def test_the_same_command_again_is_complete_and_does_not_train(runs, tiny, few_attacks, snapshot, capsys):
    before = snapshot(runs / "bounds")
    assert main(["train", *tiny, *few_attacks, "method=crown_ibp", "certify_test=true", "name=bounds"]) == 0
    shown = capsys.readouterr().out
    assert "is complete" in shown
    assert "CROWN-IBP" in shown  # its table
    assert snapshot(runs / "bounds") == before


@pytest.mark.parametrize("other", ["optimizer.lr=0.02", "seed=1", "model.hidden=[17]", "epochs=1"])
def test_another_configuration_of_the_same_name_is_refused(runs, tiny, few_attacks, snapshot, capsys, other):
    before = snapshot(runs / "bounds")
    arguments = ["train", *tiny, *few_attacks, "method=crown_ibp", "certify_test=true", "name=bounds", other]
    assert main(arguments) == 2
    shown = capsys.readouterr().err
    assert other.split("=")[0] in shown
    assert "name=" in shown
    assert snapshot(runs / "bounds") == before


def test_a_run_from_before_there_was_a_precision_goes_on(runs, capsys):
    config = runs / "noise" / "config.yaml"
    assert config.read_text().count("  precision: 32-true\n") == 1
    config.write_text(config.read_text().replace("  precision: 32-true\n", ""))
    assert main(["train", "resume=noise", "epochs=3", "certify_test=false"]) == 0
    assert "another configuration" not in capsys.readouterr().err
    assert main(["train", "resume=noise", "trainer.precision=bf16-mixed"]) == 2
    assert "trainer.precision" in capsys.readouterr().err


def test_resume_with_more_epochs_equals_training_them_at_once(runs, tiny, few_attacks, capsys):
    assert main(["train", "resume=bounds", "epochs=3"]) == 0
    assert "going on with" in capsys.readouterr().out
    assert main(["train", *tiny, *few_attacks, "method=crown_ibp", "epochs=3", "name=whole"]) == 0
    assert equal(weights(runs / "bounds"), weights(runs / "whole"))
    found = result(runs / "bounds")
    assert found["status"] == "complete"
    assert found["epochs"] == 3
    assert sorted(found["test"]) == ["crown", "crown_ibp", "ibp"]
    key = lambda row: (int(row["step"]), "val/clean" in row)  # noqa: E731
    names = [(row["step"], sorted(row)) for row in sorted(rows(runs / "bounds"), key=key)]
    assert names == [(row["step"], sorted(row)) for row in sorted(rows(runs / "whole"), key=key)]
    # the certificates of the two-epoch checkpoint are kept, apart from those of the new one
    old = runs / "bounds" / "certificates" / "superseded_1"
    assert {path.name for path in old.iterdir()} >= {"ibp.tsv", "ibp.json", "certified_accuracy.png"}
    new = json.loads((runs / "bounds" / "certificates" / "ibp.json").read_text())
    assert json.loads((old / "ibp.json").read_text())["checkpoint_sha256"] != new["checkpoint_sha256"]
    assert yaml.safe_load((runs / "bounds" / "config.yaml").read_text())["epochs"] == 3


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
    assert found["validation"]["norm"] == ("l2" if "norm" in override else "linf")
    assert found["validation"]["invalid"] == 0
    assert found["validation"]["clean"] > 0.2


@needs_lirpa
def test_both_engines_train_the_same_weights(in_tmp, tiny):
    for engine in ("native", "auto_lirpa"):
        assert main(["train", *tiny, "method=ibp", "epochs=1", f"bounds={engine}", f"name={engine}"]) == 0
    first, second = (weights(in_tmp / "runs" / engine) for engine in ("native", "auto_lirpa"))
    assert all(torch.allclose(first[key], second[key], rtol=1e-3, atol=1e-4) for key in first)


def test_special_initial_weights_depend_on_the_seed_and_on_nothing_else(in_tmp, tiny):
    for name, seed in (("a", 0), ("b", 1), ("c", 0)):
        torch.manual_seed(len(name) + seed * 100 + ord(name))  # whatever the process drew before
        arguments = ["method=ibp", "method.init=ibp", "epochs=1", "optimizer.lr=0.0", f"seed={seed}", f"name={name}"]
        assert main(["train", *(o for o in tiny if not o.startswith("optimizer")), *arguments]) == 0
    one, other, again = (weights(in_tmp / "runs" / name) for name in "abc")
    assert equal(one, again)
    key = next(key for key in one if key.endswith("weight"))
    assert not torch.equal(one[key], other[key])


def test_a_multirun_makes_one_run_per_value_and_a_failing_job_ends_no_other(in_tmp, tiny, capsys):
    assert main(["train", "-m", *tiny, "method=standard", "epochs=1", "seed=0,1"]) == 0
    runs = [path for path in (in_tmp / "runs").iterdir() if path.is_dir()]
    assert sorted(result(run)["seed"] for run in runs) == [0, 1]
    assert not equal(*(weights(run) for run in runs))
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


def test_without_a_validation_split_it_trains_and_says_so(in_tmp, tiny):
    arguments = ["train", *tiny, "method=crown_ibp", "epochs=1", "val_size=0", "checkpoint.use=best", "name=run"]
    assert main(arguments) == 0
    found = result(in_tmp / "runs" / "run")
    assert found["validation"] is None
    assert found["checkpoint"] == "last.ckpt"
    assert "no validation" in found["checkpoint_chosen"]


def test_the_best_checkpoint_is_chosen_by_a_named_metric(in_tmp, tiny, capsys):
    arguments = ["train", *tiny, "method=crown_ibp", "checkpoint.use=best", "checkpoint.monitor=val/clean", "name=run"]
    assert main(arguments) == 0
    run, found = in_tmp / "runs" / "run", result(in_tmp / "runs" / "run")
    assert found["checkpoint"] == "best.ckpt"
    assert "best val/clean after the ramp" in found["checkpoint_chosen"]
    values = {int(row["step"]): float(row["val/clean"]) for row in rows(run) if "val/clean" in row}
    best = read_checkpoint(run / "checkpoints" / "best.ckpt")
    assert best["global_step"] == max(values, key=lambda step: (values[step], -step))
    assert main(["train", *tiny, "method=crown_ibp", "checkpoint.monitor=val/clan", "name=typo"]) == 2
    assert "val/clean" in capsys.readouterr().err


def test_a_complete_run_is_certified_later_without_training(runs, tiny, monkeypatch):
    arguments = ["train", *tiny, "method=standard", "epochs=1", "certifier=ibp", "certifier.ibp.attack_steps=0"]
    assert main([*arguments, "name=later"]) == 0
    assert result(runs / "later")["test"] == {}
    monkeypatch.setattr("certtrain.commands.fitting.fit_run", None)
    assert main([*arguments, "name=later", "certify_test=true"]) == 0
    assert sorted(result(runs / "later")["test"]) == ["ibp"]


def test_wandb_logs_offline_beside_the_csv(in_tmp, tiny, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert main(["train", *tiny, "method=standard", "epochs=1", "logger=wandb", "name=run"]) == 0
    run = RunDirectory(in_tmp / "runs" / "run")
    assert rows(run.path)
    until = time.monotonic() + 60  # finish() may return before wandb's own process has written the file
    while not (written := list((run.path / "wandb").glob("offline-run-*/*.wandb"))) and time.monotonic() < until:
        time.sleep(0.1)
    assert written


def test_loss_fusion_trains_and_stands_in_result_and_card(in_tmp, tiny, few_attacks):
    command = ["train", *tiny, *few_attacks, "method=crown_ibp", "certify_test=true"]
    assert main([*command, "method.loss_fusion=true", "name=fused"]) == 0
    assert json.loads((in_tmp / "runs/fused/result.json").read_text())["loss_fusion"] is True
    card = json.loads((in_tmp / "runs/fused/certificates/ibp.json").read_text())
    assert card["training"]["method"]["loss_fusion"] is True
