"""A session of a training: the evidence it leaves, going on where the last one stopped, and the end of a run."""

import json
import time

import pytest
import yaml
from run_files import metric_rows, result, same_weights, weights

from certtrain.cli.main import main
from certtrain.runs.directory import RunDirectory
from certtrain.training.checkpoints import read_checkpoint


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
        assert entry["claim"]["threat"] == {"bounds": "linf", "noise": "l2"}[name]
        assert set(entry["certified"]) == {"0.02", "0.05"}
        assert 0 <= entry["certified"]["0.05"] <= entry["certified"]["0.02"] <= entry["clean"] <= 1
        assert ("acr" if name == "noise" else "acr_grid") in entry
        for key in ("abstained", "invalid", "indices_sha256", "certifier", "settings", "seconds"):
            assert key in entry
    assert found["validation"]["n"] == 20
    assert {entry["n"] for entry in found["test"].values()} == {360}
    assert all(entry["clean"] > 0.5 for entry in found["test"].values())  # it has learnt something


def test_metrics_have_one_step_and_hold_schedule_losses_and_validation(trained_runs):
    found = metric_rows(trained_runs / "bounds")
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


def test_resume_with_more_epochs_equals_training_them_at_once(runs, tiny, few_attacks, capsys):
    assert main(["train", "resume=bounds", "epochs=3"]) == 0
    assert "going on with" in capsys.readouterr().out
    assert main(["train", *tiny, *few_attacks, "method=crown_ibp", "epochs=3", "name=whole"]) == 0
    assert same_weights(weights(runs / "bounds"), weights(runs / "whole"))
    found = result(runs / "bounds")
    assert found["status"] == "complete"
    assert found["epochs"] == 3
    assert sorted(found["test"]) == ["crown", "crown_ibp", "ibp"]
    key = lambda row: (int(row["step"]), "val/clean" in row)  # noqa: E731
    names = [(row["step"], sorted(row)) for row in sorted(metric_rows(runs / "bounds"), key=key)]
    assert names == [(row["step"], sorted(row)) for row in sorted(metric_rows(runs / "whole"), key=key)]
    # the certificates of the two-epoch checkpoint are kept, apart from those of the new one
    old = runs / "bounds" / "certificates" / "superseded_1"
    assert {path.name for path in old.iterdir()} >= {"ibp.tsv", "ibp.json", "certified_accuracy.png"}
    new = json.loads((runs / "bounds" / "certificates" / "ibp.json").read_text())
    assert json.loads((old / "ibp.json").read_text())["checkpoint_sha256"] != new["checkpoint_sha256"]
    assert yaml.safe_load((runs / "bounds" / "config.yaml").read_text())["epochs"] == 3


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
    values = {int(row["step"]): float(row["val/clean"]) for row in metric_rows(run) if "val/clean" in row}
    best = read_checkpoint(run / "checkpoints" / "best.ckpt")
    assert best["global_step"] == max(values, key=lambda step: (values[step], -step))
    assert main(["train", *tiny, "method=crown_ibp", "checkpoint.monitor=val/clan", "name=typo"]) == 2
    assert "val/clean" in capsys.readouterr().err


def test_a_complete_run_is_certified_later_without_training(runs, tiny, monkeypatch):
    arguments = ["train", *tiny, "method=standard", "epochs=1", "certifier=ibp", "certifier.ibp.attack_steps=0"]
    assert main([*arguments, "name=later"]) == 0
    assert result(runs / "later")["test"] == {}
    monkeypatch.setattr("certtrain.sessions.fitting.fit_run", None)
    assert main([*arguments, "name=later", "certify_test=true"]) == 0
    assert sorted(result(runs / "later")["test"]) == ["ibp"]


def test_certificates_from_before_a_run_was_gone_on_with_still_pass_their_audit(runs, capsys):
    """`certify_test=true` changes config.yaml, and not the network: its old configuration stays beside it."""
    arguments = ["resume=bounds", "certify_test=false", "epochs=3"]
    assert main(["train", *arguments]) == 0
    assert main(["certify", "run=bounds", "certifier=ibp", "indices=first_20", "certifier.ibp.attack_steps=0"]) == 0
    assert main(["train", "resume=bounds", "certify_test=true"]) == 0
    run = RunDirectory(runs / "bounds")
    assert [run.read_config(path)["epochs"] for path in run.earlier_configs] == [2, 3]
    capsys.readouterr()
    assert main(["audit", "runs/bounds", "--verbose"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "config_sha256 of config.1.yaml, which config.yaml was before the run was gone on with" in shown
    (run.path / "config.1.yaml").unlink()
    assert main(["audit", "runs/bounds/certificates/ibp_first_20.json"]) == 1
    assert "config_sha256 of config.yaml: stated" in " ".join(capsys.readouterr().out.split())


def test_wandb_logs_offline_beside_the_csv(in_tmp, tiny, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert main(["train", *tiny, "method=standard", "epochs=1", "logger=wandb", "name=run"]) == 0
    run = RunDirectory(in_tmp / "runs" / "run")
    assert metric_rows(run.path)
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


RAMP_TOO_LONG = ["train", "data=digits", "model=mlp", "method=ibp", "epochs=5", "trainer=cpu"]


def test_a_mistake_leaves_what_was_in_the_folder_before(in_tmp, snapshot, capsys):
    """The folder of something else is refused; an empty one, or one that a link leads to, is left empty."""
    (in_tmp / "proj" / "checkpoints").mkdir(parents=True)
    (in_tmp / "proj" / "checkpoints" / "my_model.pth").write_text("x")
    (in_tmp / "disk").mkdir()
    (in_tmp / "linked").symlink_to(in_tmp / "disk")
    before = snapshot(in_tmp)
    for name, message in (("proj", "is not a run"), ("disk", "ramp"), ("linked", "ramp"), ("new", "ramp")):
        assert main([*RAMP_TOO_LONG, "runs_dir=.", f"name={name}"]) == 2
        assert message in capsys.readouterr().err
        assert snapshot(in_tmp) == before
    assert sorted(path.name for path in in_tmp.iterdir()) == ["disk", "linked", "proj"]
    assert (in_tmp / "linked").is_symlink()


def test_a_run_that_fails_for_any_reason_before_it_has_weights_leaves_its_name_free(in_tmp, tiny, monkeypatch):
    def broken(*_, **__):
        raise KeyError("l1")

    with monkeypatch.context() as patch:
        patch.setattr("certtrain.config.build.build_method", broken)
        with pytest.raises(KeyError):
            main(["train", *tiny, "method=standard", "name=it"])
    assert not (in_tmp / "runs" / "it").exists()


@pytest.mark.parametrize("name", [".lock", "result.json", "certificates/crown.tsv"])
def test_a_received_run_with_links_is_not_written(runs, in_tmp, snapshot, capsys, name):
    theirs = in_tmp / "precious.txt"
    theirs.write_text("precious")
    (runs / "bounds" / name).unlink(missing_ok=True)
    (runs / "bounds" / name).symlink_to(theirs)
    before = snapshot(in_tmp)
    for command in (["certify", "run=bounds", "certifier=ibp"], ["train", "resume=bounds", "epochs=3"]):
        assert main(command) == 2
        assert "is a symbolic link" in capsys.readouterr().err or name == "result.json"
    assert snapshot(in_tmp) == before


def test_superseded_certificates_find_a_free_place(runs):
    """Also where an earlier one was removed."""
    (runs / "bounds" / "certificates" / "superseded_2").mkdir()
    assert main(["train", "resume=bounds", "certify_test=false", "epochs=3"]) == 0
    assert (runs / "bounds" / "certificates" / "superseded_3" / "crown.tsv").exists()
