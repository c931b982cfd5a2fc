"""Multirun: complete jobs are not trained again, failed ones end no others, and a summary stands at the end."""

import csv
import json
import os
import re
import statistics

import pytest

from certtrain.cli.main import main
from certtrain.cli.multirun import FAILED, THREADS, _sweep_up, _verdict, share_cores
from certtrain.errors import UserError
from certtrain.training.module import CertifiedTraining


@pytest.fixture
def steps_of(monkeypatch) -> list[int]:
    """The training steps taken since."""
    steps, step_of = [], CertifiedTraining.training_step

    def training_step(self, batch, batch_idx):
        steps.append(self.global_step)
        return step_of(self, batch, batch_idx)

    monkeypatch.setattr(CertifiedTraining, "training_step", training_step)
    return steps


def results(folder) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/result.json")}


def test_complete_jobs_are_skipped_failed_ones_reported_and_all_summarised(in_tmp, tiny, capsys, steps_of):
    arguments = ["train", "-m", *tiny, "epochs=1", "method=ibp,standard", "eps=0.05,-1"]
    assert main(arguments) == 2
    first = capsys.readouterr()
    assert len(steps_of) == 2 * 11
    assert main([*arguments, "seed=0,1"]) == 2  # four more jobs, two of them impossible
    shown = capsys.readouterr()
    assert len(steps_of) == 4 * 11
    assert "4 of 8 jobs failed, the first because: the radius -1 is negative" in shown.err
    assert "Traceback" not in shown.err
    assert "2 runs, best first by the validation metric val/certified@0.05 (n = 20)" in first.out
    assert "4 runs, best first by the validation metric val/certified@0.05 (n = 20)" in shown.out
    assert shown.out.count("failed: ") == 4
    assert "mean ± sd over seeds" in shown.out
    assert "certtrain certify run=" in shown.out
    found = results(in_tmp / "runs")
    assert len(found) == 4
    assert {path.name for path in (in_tmp / "runs").iterdir()} == set(found)  # nothing else is left behind
    table = shown.out[shown.out.index("4 runs, best first") :]
    values = [float(value) for value in re.findall(r"(\d+\.\d\d) +\d+\.\d *\n", table)]
    assert values == sorted(values, reverse=True)
    assert values == sorted((100 * run["validation"]["certified"]["0.05"] for run in found.values()), reverse=True)


def test_a_typo_is_refused_before_the_first_job(in_tmp, tiny, capsys):
    for wrong, hint in (("epohcs=1,2", "epochs"), ("method=ibp,crown_ipb", "crown_ibp"), ("seed=0,1 modle=a", "model")):
        assert main(["train", "-m", *tiny, *wrong.split()]) == 2
        assert hint in capsys.readouterr().err
    assert list(in_tmp.iterdir()) == []


def test_the_test_set_is_refused_to_any_multirun_but_seeds_alone(in_tmp, tiny, capsys):
    for arguments in (["-m", "seed=0,1"], ["-m", "seeds=2", "method=ibp,standard"]):
        assert main(["train", *tiny, "certify_test=true", *arguments]) == 2
        assert "would choose by the test set" in capsys.readouterr().err
    assert not list(in_tmp.glob("runs/*/result.json"))


def test_the_validation_of_a_run_is_that_of_the_checkpoint_it_chose(in_tmp, tiny):
    """Else runs with checkpoint.use=best would be compared by weights that nobody gets."""
    rest = [word for word in tiny if not word.startswith(("epochs", "optimizer"))]
    own = ["method=standard", "epochs=3", "schedule.lr.kind=constant", "optimizer.lr=0.3", "checkpoint.use=best"]
    assert main(["train", *rest, *own, "checkpoint.monitor=val/certified@0.02", "name=it"]) == 0
    result = results(in_tmp / "runs")["it"]
    assert f"at step {result['validation']['step']}" in result["checkpoint_chosen"]
    assert f"{result['validation']['certified']['0.02']:.4f}" in result["checkpoint_chosen"]
    with (in_tmp / "runs" / "it" / "metrics.csv").open(newline="") as file:
        seen = [float(row["val/certified@0.02"]) for row in csv.DictReader(file) if row.get("val/certified@0.02")]
    assert len(seen) == 3
    assert result["validation"]["certified"]["0.02"] == max(seen)


def test_the_flag_may_stand_anywhere(in_tmp, tiny):
    assert main(["train", *tiny, "method=standard", "epochs=1", "-m", "seed=0"]) == 0


def test_seeds_are_runs_of_their_own_and_their_mean_is_right(in_tmp, tiny, capsys):
    arguments = ["train", *tiny, "method=standard", "epochs=1", "certify_test=true", "name=it", "seeds=3"]
    arguments += ["certifier=ibp", "certifier.ibp.attack_steps=0"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    found = results(in_tmp / "runs")
    assert sorted(found) == ["it-seed0", "it-seed1", "it-seed2"]
    assert sorted(run["seed"] for run in found.values()) == [0, 1, 2]
    for entries in ([run["validation"] for run in found.values()], [run["test"]["ibp"] for run in found.values()]):
        for values in ([e["clean"] for e in entries], [e["certified"]["0.05"] for e in entries]):
            mean, sd = statistics.mean(values), statistics.stdev(values)
            assert f"{100 * mean:.2f} ± {100 * sd:.2f}" in shown
    assert "validation, n = 20; mean ± sd over 3 seeds" in shown
    assert "test, certified by IBP, n = 360; mean ± sd over 3 seeds" in shown
    assert "seeds=3" not in (in_tmp / "runs" / "it-seed1" / "overrides.yaml").read_text()
    assert main(["train", "resume=it-seed1"]) == 0  # a run like any other
    assert "is complete" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expecting"),
    [
        (["seeds=x"], "whole number"),
        (["seeds=0"], "whole number"),
        (["seeds=2", "seed=1"], "both given"),
        (["seeds=2", "resume=a"], "a run has one seed"),
        (["seeds=2", "eps=0.1,0.2"], "add -m"),
        (["seeds=2", "hydra.mode=MULTIRUN"], "hydra.mode"),
        (["-m", "seeds=2", "eps=0.1,0.2", "name=a"], "name of every job"),
        (["seeds=2", "epohcs=1"], "did you mean epochs"),
    ],
)
def test_mistakes_with_seeds(in_tmp, capsys, arguments, expecting):
    assert main(["train", *arguments]) == 2
    assert expecting in capsys.readouterr().err
    assert list(in_tmp.iterdir()) == []


def test_why_a_job_failed_is_told_whole():
    """Not cut where the message goes on in the next line, and without a hint that may be wrong."""
    what = "the run it exists with another configuration:\n    eps: 0.1 there, 0.2 now"
    error = str(UserError(what, where="runs/it", fix="choose another name="))
    records = [{"number": 0, "status": 0, "error": None}, {"number": 1, "status": FAILED, "error": error}]
    with pytest.raises(UserError) as caught:
        _verdict(records, None, every=True)
    assert caught.value.what == (
        "1 of 2 jobs failed, the first because: the run it exists with another configuration: eps: 0.1 there, 0.2 now"
    )
    assert "are not trained again" in caught.value.fix


def test_what_others_keep_beside_a_multirun_stays(tmp_path):
    root = tmp_path / ".multirun"
    (root / "spool").mkdir(parents=True)
    (root / "multirun.yaml").write_text("")
    (root / "notes.txt").write_text("mine")
    _sweep_up(root, root / "spool")
    assert sorted(path.name for path in root.iterdir()) == ["multirun.yaml", "notes.txt"]
    (root / "notes.txt").unlink()
    _sweep_up(root, root / "spool")
    assert not root.exists()


def test_jobs_side_by_side_share_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr("sys.modules", {})  # as where torch is not imported yet
    for jobs, present, expected in ((2, None, "4"), (-1, None, "1"), (16, None, "1"), (2, "3", "3"), (2, "64", "4")):
        monkeypatch.setattr(os, "environ", dict.fromkeys(THREADS, present) if present else {})  # all of it put back
        share_cores(jobs)
        assert os.environ == dict.fromkeys(THREADS, expected)
