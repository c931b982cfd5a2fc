"""A study: whole after n trials, gone on with after any stop without counting twice, safe from locks and failures."""

import json
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace

import pytest

from certtrain.errors import UserError
from certtrain.sweeps.space import Parameter
from certtrain.sweeps.study import Outcome, Settings, Study

pytest.importorskip("optuna")

SPACE = [Parameter("x", 0.0, 1.0), Parameter("lr", 1e-5, 0.1, log=True)]


@pytest.fixture
def settings(tmp_path) -> Settings:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    return Settings("it", storage, ("val/acr",), n_trials=6, startup=3, lock_seconds=0.05, max_failed=3)


def value(trial) -> Outcome:
    return Outcome("complete", (-((float(trial.settings["x"]) - 0.3) ** 2),))


def begin(tmp_path, settings, **changes) -> Study:
    return Study(tmp_path, replace(settings, **changes), SPACE)


def tried(study) -> list[dict]:
    return [row.settings for row in study.rows()]


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsga2", "random"])
def test_two_objectives_with_a_floor(tmp_path, settings, sampler):
    """Every sampler is told of the floor, in a session that resumes the trial too."""

    def evaluate(trial):
        x = float(trial.settings["x"])
        return Outcome("complete", (x, 1 - x), shortfalls=(0.4 - x,))

    own = {"objectives": ("clean", "val/acr"), "sampler": sampler, "constrained": True}
    with pytest.raises(Stop):
        begin(tmp_path, settings, **own).run(lambda trial: stops_at(1)(trial) and evaluate(trial))
    study = begin(tmp_path, settings, **own)
    study.run(evaluate)
    rows = study.rows()
    assert [row.state for row in rows] == ["complete"] * 6
    for row in rows[1:]:
        assert row.shortfalls == pytest.approx((0.4 - row.values[0],))
        assert row.allowed == (row.values[0] >= 0.4)
    told = [trial.system_attrs.get("constraints") for trial in study.study.get_trials()[1:]]
    assert told == [None] * 5 if sampler == "random" else [list(row.shortfalls) for row in rows[1:]]


class Stop(Exception):
    pass


def stops_at(number: int):
    def evaluate(trial):
        if trial.number == number and not trial.resumed:
            raise Stop
        return value(trial)

    return evaluate


def test_a_study_is_whole_after_n_trials_and_can_be_made_longer(tmp_path, settings):
    study = begin(tmp_path, settings, n_trials=3)
    study.run(value)
    assert [row.state for row in study.rows()] == ["complete"] * 3
    begin(tmp_path, settings, n_trials=3).run(pytest.fail)
    begin(tmp_path, settings, n_trials=5).run(value)
    rows = study.rows()
    assert [row.number for row in rows] == [0, 1, 2, 3, 4]
    assert all(row.values == value(row).values for row in rows)


def test_a_stopped_study_tries_what_an_undisturbed_one_does(tmp_path, settings):
    (tmp_path / "other").mkdir()
    undisturbed = begin(tmp_path / "other", settings, storage=f"sqlite:///{tmp_path / 'other' / 'study.db'}")
    undisturbed.run(value)
    for number in (1, 4):
        with pytest.raises(Stop):
            begin(tmp_path, settings).run(stops_at(number))
        assert begin(tmp_path, settings).rows()[-1].state == "running"
    study, seen = begin(tmp_path, settings), []
    study.run(lambda trial: (seen.append((trial.number, trial.resumed)), value(trial))[1])
    assert seen == [(4, True), (5, False)]
    assert tried(study) == tried(undisturbed)
    assert len({json.dumps(s) for s in tried(study)}) == 6
    another = begin(tmp_path / "other", settings, storage=f"sqlite:///{tmp_path / 'seed.db'}", seed=1, n_trials=1)
    another.run(value)
    assert tried(another)[0] != tried(study)[0]


def test_a_database_adds_no_key_and_no_value_to_the_space(tmp_path, settings):
    """It may have come with the folder of a study: what is tried is composed, and `_target_`s in it are built."""
    space = [Parameter("x", 0.0, 1.0), Parameter("model", choices=("mlp", "lenet"))]
    with pytest.raises(Stop):
        Study(tmp_path, settings, space).run(stops_at(1))
    there = sqlite3.connect(tmp_path / "study.db")
    told = json.dumps({"x": "0.5", "model._target_": "evil.Net"})
    for trial in (1, 2):
        there.execute(
            "insert into trial_user_attributes (trial_id, key, value_json) values (?, 'settings', ?)", (trial, told)
        )
    choices = json.dumps({"name": "CategoricalDistribution", "attributes": {"choices": ["../../evil"] * 2}})
    there.execute(
        "update trial_params set distribution_json = ? where param_name = 'model' and trial_id = 1", (choices,)
    )
    there.commit()
    there.close()
    study = Study(tmp_path, settings, space)
    assert [sorted(row.settings) for row in study.rows()] == [["x"], ["model", "x"]]
    resumed = study.next()
    assert resumed.resumed
    assert sorted(resumed.settings) == ["model", "x"]
    assert resumed.settings["model"] in ("mlp", "lenet")


def test_a_killed_process_leaves_a_trial_that_the_next_one_goes_on_with(tmp_path, settings):
    program = f"""
import os, signal
from pathlib import Path
from certtrain.sweeps.space import Parameter
from certtrain.sweeps.study import Settings, Study
study = Study(Path({str(tmp_path)!r}), {settings!r}, {SPACE!r})
study.run(lambda trial: os.kill(os.getpid(), signal.SIGKILL))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200)
    assert done.returncode == -signal.SIGKILL, done.stderr
    study, seen = begin(tmp_path, settings, n_trials=2), []
    study.run(lambda trial: (seen.append((trial.number, trial.resumed)), value(trial))[1])
    assert seen == [(0, True), (1, False)]
    assert [row.state for row in study.rows()] == ["complete"] * 2


def test_failed_trials_are_kept_not_counted_and_end_the_study_when_there_are_too_many(tmp_path, settings):
    study = begin(tmp_path, settings, n_trials=3)
    study.run(lambda trial: Outcome("failed", message="diverged") if trial.number in (0, 2) else value(trial))
    rows = study.rows()
    assert [row.state for row in rows] == ["failed", "complete", "failed", "complete", "complete"]
    assert [row.message for row in rows if row.state == "failed"] == ["diverged"] * 2
    with pytest.raises(UserError, match="3 trials failed: diverged"):
        begin(tmp_path, settings).run(lambda trial: Outcome("failed", message="again"))
    assert len(study.rows()) == 6


def test_two_processes_share_a_study(tmp_path, settings):
    one, other = begin(tmp_path, settings, n_trials=3), begin(tmp_path, settings, n_trials=3)
    trials = [one.next(), other.next(), one.next()]
    assert [(trial.number, trial.resumed) for trial in trials] == [(0, False), (1, False), (2, False)]
    assert other.next() is None  # three are under way


def test_a_locked_database_is_named_and_nothing_is_lost(tmp_path, settings):
    study = begin(tmp_path, settings, n_trials=2)
    other = sqlite3.connect(tmp_path / "study.db", timeout=0)

    def locked_while(trial):
        other.execute("BEGIN EXCLUSIVE")
        return value(trial)

    with pytest.raises(UserError, match="locked by another process"):
        study.run(locked_while)
    with pytest.raises(UserError, match="locked by another process") as error:
        begin(tmp_path, settings)
    assert "nothing is lost" in error.value.fix
    other.rollback()
    seen = []
    study.run(lambda trial: (seen.append((trial.number, trial.resumed)), value(trial))[1])
    assert seen == [(0, True), (1, False)]


def test_a_file_that_is_no_database_and_another_objective_are_refused(tmp_path, settings):
    begin(tmp_path, settings)
    with pytest.raises(UserError, match="maximises val/acr, not val/certified_clean, val/acr"):
        begin(tmp_path, settings, objectives=("val/certified_clean", "val/acr"))
    (tmp_path / "study.db").write_text("not a database " * 100)
    with pytest.raises(UserError, match="cannot be used"):
        begin(tmp_path, settings)


@pytest.mark.parametrize(
    "change", [{"sampler": "tpee"}, {"pruner": "medain"}, {"n_trials": 0}, {"max_failed": 0}, {"startup": -1}]
)
def test_settings_that_make_no_study(tmp_path, settings, change):
    with pytest.raises(UserError) as error:
        begin(tmp_path, settings, **change)
    assert f"sweep.{next(iter(change))}" in error.value.where


def test_bad_trials_are_pruned_and_two_objectives_never_are(tmp_path, settings):
    study = begin(tmp_path, settings, n_trials=4, pruner_startup=2)

    def evaluate(trial):
        height = 1.0 if trial.number < 3 else 0.0
        pruned = [trial.report(epoch, height) for epoch in (3, 4)]
        assert pruned == [trial.number == 3] * 2
        return Outcome("pruned", message="pruned after epoch 3") if any(pruned) else Outcome("complete", (height,))

    study.run(evaluate)
    assert [row.state for row in study.rows()] == ["complete"] * 3 + ["pruned"]
    assert study.rows()[3].values == ()
    two = begin(tmp_path, settings, name="two", objectives=("val/certified_clean", "val/acr"), n_trials=1)
    two.run(lambda trial: Outcome("complete", (0.5, 0.5)) if trial.report is None else pytest.fail("it may be pruned"))
    none = begin(tmp_path, settings, name="none", pruner="none", n_trials=1)
    none.run(lambda trial: value(trial) if trial.report is None else pytest.fail("it may be pruned"))


def test_a_trial_that_is_no_better_than_a_guess_stays_one(tmp_path, settings):
    begin(tmp_path, settings, n_trials=2).run(
        lambda trial: replace(value(trial), guessing="constant" if trial.number == 0 else None)
    )
    assert [row.guessing for row in begin(tmp_path, settings).rows()] == ["constant", None]
