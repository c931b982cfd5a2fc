"""`sweep=optuna`: trials are runs like any other, chosen among by validation, and a stopped study goes on."""

import json
import os
import shlex
import signal
import sqlite3
from functools import partial

import pytest

from certtrain.cli.main import main
from certtrain.sweeps.study import Settings
from certtrain.training.module import CertifiedTraining

pytest.importorskip("optuna")


def trials(folder) -> list[dict]:
    return json.loads((folder / "runs" / "it" / "trials.json").read_text())["trials"]


def result(folder, number: int) -> dict:
    return json.loads((folder / "runs" / "it" / f"trial_{number:03}" / "result.json").read_text())


def test_trials_are_runs_of_plain_overrides_and_the_best_is_named(in_tmp, study, capsys, snapshot):
    assert main([*study, "certify_test=true"]) == 0  # as an experiment's file may say: the trials leave the test set
    shown = capsys.readouterr().out
    found = trials(in_tmp)
    assert [trial["state"] for trial in found] == ["complete"] * 2
    for trial in found:
        values = result(in_tmp, trial["number"])
        assert trial["values"] == [values["validation"]["certified"]["0.05"]]
        assert not values["test"]
        record = json.loads((in_tmp / "runs" / "it" / f"trial_{trial['number']:03}" / "trial.json").read_text())
        assert record["settings"] == trial["settings"]
        before = snapshot(in_tmp / "runs" / "it")
        assert main(shlex.split(record["command"])[1:]) == 0  # the same configuration: nothing to do
        assert "is complete" in capsys.readouterr().out
        assert snapshot(in_tmp / "runs" / "it") == before
    best = min(found, key=lambda trial: ("guessing" in trial, -trial["values"][0], trial["number"]))
    assert "best first by the validation metric val/certified@0.05 (n = 20)" in shown
    assert f"certtrain certify run=runs/it/trial_{best['number']:03}\n" in shown
    assert f"optimizer.lr={best['settings']['optimizer.lr']} certify_test=false\n" in shown


def test_a_stopped_study_goes_on_where_it_was(in_tmp, study, capsys, monkeypatch):
    step_of, sent = CertifiedTraining.training_step, []

    def training_step(self, batch, batch_idx):
        if len(sent) == 14:  # in the second trial
            os.kill(os.getpid(), signal.SIGTERM)
        sent.append(self.global_step)
        return step_of(self, batch, batch_idx)

    monkeypatch.setattr(CertifiedTraining, "training_step", training_step)
    assert main(study) == 143
    assert "goes on with the same command" in capsys.readouterr().out
    assert [trial["state"] for trial in trials(in_tmp)] == ["complete", "running"]
    assert main(study) == 0
    assert "trial 1 (going on)" in capsys.readouterr().out
    assert [trial["state"] for trial in trials(in_tmp)] == ["complete", "complete"]
    assert len(sent) == 9 * 2  # no step was taken twice
    assert main([*study, "sweep.n_trials=3"]) == 0
    assert [trial["number"] for trial in trials(in_tmp)] == [0, 1, 2]
    assert len(sent) == 9 * 3


def test_trials_that_diverge_are_kept_and_do_not_stop_the_study(in_tmp, study, capsys):
    space = "+sweep.space.optimizer.lr={choices: [1e30, 0.01, 0.02]}"
    assert main([*study[:-1], space, "sweep.sampler=random"]) == 0
    states = [trial["state"] for trial in trials(in_tmp)]
    assert states.count("complete") == 2
    assert states.count("failed") == len(states) - 2 >= 1
    failed = states.index("failed")
    assert "NaN or infinite" in trials(in_tmp)[failed]["message"]
    assert result(in_tmp, failed)["status"] == "failed"
    assert "failed: trial" in capsys.readouterr().out


def test_two_objectives_give_a_front_and_a_figure(in_tmp, study, capsys):
    assert main([*study, "sweep.pareto=true"]) == 0
    shown = capsys.readouterr().out
    assert "no trial is pruned" in shown
    assert "Pareto front: " in shown
    assert (in_tmp / "runs" / "it" / "pareto.png").read_bytes()[:4] == b"\x89PNG"
    for trial in trials(in_tmp):
        entry = result(in_tmp, trial["number"])["validation"]
        assert trial["values"] == [entry["clean"], entry["certified"]["0.05"]]


def test_a_front_is_chosen_by_validation_and_certified_once(in_tmp, study, capsys):
    more = [
        "sweep.pareto=true",
        "sweep.certify=true",
        "certifier=ibp",
        "certifier.ibp.attack_steps=0",
        "sweep.sampler=nsga2",
    ]
    assert main([*study, *more, "sweep.floors.clean=0.05"]) == 0
    shown = capsys.readouterr().out
    assert "chosen on validation and certified once on test" in shown
    front = json.loads((in_tmp / "runs" / "it" / "front.json").read_text())
    tested = {trial["number"] for trial in trials(in_tmp) if result(in_tmp, trial["number"])["test"]}
    assert tested == {row["number"] for row in front} != set()
    for row in front:
        entry = result(in_tmp, row["number"])["test"]["ibp"]
        assert row["test"] == [entry["clean"], entry["certified"]["0.05"]]
        assert row["validation"] == trials(in_tmp)[row["number"]]["values"]
        assert row["number"] in [t["number"] for t in trials(in_tmp) if "shortfalls" not in t]


def test_only_the_chosen_run_is_certified_and_only_once(in_tmp, study, capsys):
    more = ["sweep.certify=true", "certifier=ibp", "certifier.ibp.attack_steps=0"]
    assert main([*study, *more]) == 0
    tested = [trial["number"] for trial in trials(in_tmp) if result(in_tmp, trial["number"])["test"]]
    best = max(trials(in_tmp), key=lambda trial: (trial["values"][0], -trial["number"]))
    assert tested == [best["number"]]
    other = in_tmp / "runs" / "it" / f"trial_{1 - best['number']:03}" / "result.json"
    other.write_text(json.dumps(json.loads(other.read_text()) | {"test": {"ibp": {}}}))
    assert main([*study, *more]) == 2
    assert "a choice that has seen the test set is none" in capsys.readouterr().err


def test_a_locked_database(in_tmp, study, capsys, monkeypatch):
    monkeypatch.setattr("certtrain.cli.study_request.Settings", partial(Settings, lock_seconds=0.05))
    assert main([*study, "sweep.n_trials=1"]) == 0
    other = sqlite3.connect(in_tmp / "runs" / "it" / "study.db")
    other.execute("BEGIN EXCLUSIVE")
    assert main(study) == 2
    shown = capsys.readouterr().err
    assert "locked by another process" in shown
    assert "Traceback" not in shown
    other.rollback()
    assert main(study) == 0
    assert [trial["state"] for trial in trials(in_tmp)] == ["complete"] * 2


@pytest.mark.parametrize(
    ("method", "keys"),
    [
        ("crown_ibp", {"method.kappa.start", "method.kappa.end", "method.beta.end", "train_eps", "optimizer.lr"}),
        ("ibp", {"method.kappa.start", "method.kappa.end", "method.regulariser", "train_eps", "optimizer.lr"}),
        ("sabr", {"method.share", "method.attack.steps", "method.attack.radius", "train_eps", "optimizer"}),
        ("gaussian", {"optimizer.lr", "optimizer.weight_decay", "data.batch_size", "schedule.lr.kind"}),
    ],
)
def test_every_shipped_space_trains(in_tmp, tiny, method, keys):
    rest = [word for word in tiny if not word.startswith(("epochs", "schedule", "optimizer"))]
    own = [f"method={method}", "schedule.epochs=2", "sweep=optuna", "sweep.n_trials=1", "name=it", "sigma=0.1"]
    assert main(["train", *rest, *own]) == 0
    [trial] = trials(in_tmp)
    assert trial["state"] == "complete"
    assert keys <= trial["settings"].keys()
