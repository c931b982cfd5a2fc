"""`certtrain certify processes=K` and `shard=i/K`: the log of one process, whoever wrote its rows."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from timeless import rows, untimed

from certtrain.certificates import CertificateLog
from certtrain.cli import main as cli
from certtrain.runs.directory import RunDirectory

pytestmark = pytest.mark.ops

ROOT = Path(__file__).resolve().parents[2]


def certify(*arguments: str) -> int:
    return cli.main(["certify", *arguments])


def log(run, name):
    return run / "certificates" / f"{name}.tsv"


def entry(run, name) -> dict:
    return untimed(json.loads((run / "result.json").read_text())["test"][name])


def card(run, name) -> dict:
    return json.loads((run / "certificates" / f"{name}.json").read_text())


def test_two_processes_write_the_log_of_one(runs, capfd):
    """A row each, but for its time; numbers, counts and ACR follow. The standing check runs once, after merging."""
    run, name = runs / "noise", "smoothing_n100"
    before, log_before = entry(run, name), rows(log(run, name))
    shutil.rmtree(run / "certificates")
    assert certify(f"run={run}", "processes=2") == 0
    assert rows(log(run, name)) == log_before
    assert entry(run, name) == before
    found = card(run, name)
    assert found["status"] == "complete"
    assert sorted((part["part"], part["rows"]) for part in found["parts"]) == [("1", 184), ("2", 176)]
    assert found["falsification"]["attacked"] == before["falsification"]["attacked"] > 0
    assert {path.name for path in (run / "certificates").iterdir()} == {f"{name}.tsv", f"{name}.json"}
    assert "Traceback" not in capfd.readouterr().err


def test_shards_of_machines_are_merged_by_the_last(runs, capsys):
    """In this process, one shard after the other, as on machines that share a folder."""
    run, name = runs / "noise", "smoothing_n100"
    before, log_before = entry(run, name), rows(log(run, name))
    shutil.rmtree(run / "certificates")
    assert certify(f"run={run}", "shard=2/3") == 0
    assert "shard 2/3 is done; 240 of 360 examples are left" in capsys.readouterr().out
    assert not log(run, name).exists()
    assert certify(f"run={run}", "shard=2/3") == 0  # nothing is certified twice
    assert certify(f"run={run}", "shard=3/3") == 0
    assert certify(f"run={run}", "shard=1/3") == 0
    assert "certified accuracy" in capsys.readouterr().out
    assert rows(log(run, name)) == log_before
    assert entry(run, name) == before
    assert sorted(part["part"] for part in card(run, name)["parts"]) == ["1-of-3-1", "2-of-3-1", "3-of-3-1"]


def test_the_command_without_shard_merges_and_certifies_what_is_missing(runs):
    run, name = runs / "noise", "smoothing_n100"
    log_before = rows(log(run, name))
    shutil.rmtree(run / "certificates")
    assert certify(f"run={run}", "shard=1/2") == 0
    assert certify(f"run={run}") == 0
    assert rows(log(run, name)) == log_before
    assert sum(part["rows"] for part in card(run, name)["parts"]) == 184


def test_shards_work_side_by_side_but_each_once_and_not_beside_others(runs, capsys, monkeypatch):
    monkeypatch.setattr("certtrain.runs.locks.SHARD_PATIENCE", 0.1)
    with RunDirectory(runs / "noise") as other:
        other.lock(shard="1-of-2")
        assert certify("run=noise", "shard=1/2", "name=x") == 2
        assert "another process" in capsys.readouterr().err
        assert certify("run=noise", "name=x") == 2
        assert "another process" in capsys.readouterr().err
        assert certify("run=noise", "shard=2/2", "indices=first_40", "name=x") == 0
        assert "shard 2/2 is done; the one that ends last merges" in capsys.readouterr().out
    assert certify("run=noise", "shard=1/2", "indices=first_40", "name=x") == 0
    assert len(CertificateLog(log(runs / "noise", "x_smoothing_n100_first_40")).read()) == 40


def test_more_processes_than_batches(runs, capsys):
    assert certify("run=noise", "indices=first_16", "processes=2") == 0
    assert "1 batches are left to certify, so 1 of 2 processes work" in capsys.readouterr().out
    assert len(CertificateLog(log(runs / "noise", "smoothing_n100_first_16")).read()) == 16


def test_parts_of_another_checkpoint_are_set_aside_when_training_goes_on(runs):
    shutil.rmtree(runs / "noise" / "certificates")
    (runs / "noise" / "certificates").mkdir()
    assert certify("run=noise", "shard=1/2") == 0
    assert cli.main(["train", "resume=noise", "epochs=3"]) == 0
    assert len(list((runs / "noise" / "certificates" / "superseded_1" / "parts").glob("*.tsv"))) == 1
    assert not (runs / "noise" / "certificates" / "parts").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["processes=0"], "processes = 0 is not a whole number >= 1"),
        (["processes=true"], "processes = True is not a whole number >= 1"),
        (["processes=two"], "processes=2, or as many as there are accelerators"),
        (["shard=3/2"], "shard=3/2 is no share"),
        (["shard=1"], "shard=1/4 to shard=4/4"),
        (["sigma=0.2", "processes=2"], "made with other settings"),
        (["sigma=0.2", "shard=1/2"], "made with other settings"),
    ],
)
def test_mistakes_are_explained(runs, snapshot, capsys, arguments, expected):
    before = snapshot(runs)
    assert certify("run=noise", *arguments) == 2
    shown = capsys.readouterr().err
    assert expected in shown
    assert "Traceback" not in shown
    after = snapshot(runs)
    assert {name: after[name] for name in before} == before


def children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(word) for word in file.read().split()]


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="reads the children of a process in /proc")
@pytest.mark.parametrize("victim", ["a process", "the command"])
def test_killed_with_kill_9_and_continued_by_three(runs, victim):
    run = runs / "noise"
    arguments = [f"run={run}", "n=20000", "falsify.examples=10"]
    assert certify(*arguments, "name=one") == 0
    words = [sys.executable, "-m", "certtrain", "certify", *arguments, "name=many"]
    command = subprocess.Popen([*words, "processes=2"], stderr=subprocess.PIPE, text=True)
    parts = run / "certificates" / "parts"
    while sum(path.read_text().count("\n") for path in parts.glob("*.tsv")) < 40:
        assert command.poll() is None
        time.sleep(0.05)
    workers = children(command.pid)
    assert len(workers) == 2
    os.kill(workers[0] if victim == "a process" else command.pid, signal.SIGKILL)
    _, shown = command.communicate(timeout=120)
    if victim == "a process":
        assert command.returncode == 1
        assert f"(pid {workers[0]}) was ended by SIGKILL" in shown
    else:  # the processes end with it
        assert command.returncode == -signal.SIGKILL
        for _ in range(600):
            if not any(os.path.exists(f"/proc/{pid}") for pid in workers):
                break
            time.sleep(0.1)
    kept = sum(len(CertificateLog(path, read_only=True).read()) for path in parts.glob("*.tsv"))
    assert 38 <= kept < 360
    assert certify(*arguments, "name=many", "processes=3") == 0
    assert rows(log(run, "many_smoothing_n20000")) == rows(log(run, "one_smoothing_n20000"))
    found = entry(run, "many_smoothing_n20000")
    assert found == entry(run, "one_smoothing_n20000")
    assert sum(part["rows"] for part in card(run, "many_smoothing_n20000")["parts"]) == 360


@pytest.mark.slow
def test_the_lines_of_the_page_for_slurm(runs):
    """As they stand there, with an `srun` that starts its tasks side by side on this machine."""
    text = (ROOT / "docs" / "processes.md").read_text(encoding="utf-8")
    scripts = re.findall(r"^```bash\n(#!/bin/bash\n#SBATCH .*?)^```", text, re.M | re.S)
    [script] = [script for script in scripts if "certtrain certify" in script]
    log_before = rows(log(runs / "noise", "smoothing_n100"))
    shutil.rmtree(runs / "noise" / "certificates")
    folder = runs.parent / "bin"
    folder.mkdir()
    (folder / "srun").write_text(
        '#!/bin/bash\nfor task in $(seq 0 $((SLURM_NTASKS - 1))); do SLURM_PROCID=$task "$@" & done\nwait\n'
    )
    (folder / "uv").write_text(f'#!/bin/bash\nshift 2\nexec {sys.executable} -m certtrain "$@"\n')
    for file in folder.iterdir():
        file.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    (runs.parent / "job.sh").write_text(script.replace("run=NAME", "run=noise"))
    environment = {**os.environ, "PATH": path, "SLURM_NTASKS": "3", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "job.sh"], cwd=runs.parent, env=environment, capture_output=True, text=True)
    assert done.stderr == ""
    assert rows(log(runs / "noise", "smoothing_n100")) == log_before
    assert not (runs / "noise" / "certificates" / "parts").exists()


@pytest.mark.slow
def test_two_machines_with_two_processes_each(runs):
    run, name = runs / "noise", "smoothing_n100"
    before, log_before = entry(run, name), rows(log(run, name))
    shutil.rmtree(run / "certificates")
    assert certify(f"run={run}", "shard=1/2", "processes=2") == 0
    assert not log(run, name).exists()
    assert certify(f"run={run}", "shard=2/2", "processes=2") == 0
    assert rows(log(run, name)) == log_before
    assert entry(run, name) == before
    parts = {part["part"]: part["rows"] for part in card(run, name)["parts"]}
    assert parts == {"1-of-4-1": 88 + 8, "3-of-4-1": 88, "2-of-4-1": 96, "4-of-4-1": 80}


@pytest.mark.slow
def test_bounds_on_one_two_and_three_processes(runs, few_attacks):
    run = runs / "bounds"
    before = {name: (entry(run, name), rows(log(run, name))) for name in ("ibp", "crown_ibp", "crown")}
    for count in (2, 3):
        shutil.rmtree(run / "certificates")
        assert certify(f"run={run}", *few_attacks, f"processes={count}") == 0
        assert {name: (entry(run, name), rows(log(run, name))) for name in before} == before
