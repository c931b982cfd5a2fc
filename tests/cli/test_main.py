"""The command line answers at once, helps with typos, and never shows a traceback for a user's mistake."""

import gc
import os
import resource
import subprocess
import sys
import time

import pytest

from certtrain import __version__
from certtrain.cli.main import main
from certtrain.config.overrides import GROUPS, options


def certtrain(*arguments: str, cwd=None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "certtrain", *arguments], capture_output=True, text=True, cwd=cwd, timeout=120
    )


def children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("arguments", [["--help"], [], ["-h"], ["help"]])
def test_help_names_every_command(arguments, capsys):
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {command} " in shown for command in ("train", "certify", "predict"))
    assert max(map(len, shown.splitlines())) <= 120


def test_version(capsys):
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian"], "did you mean train?"),
        (["method=ibp"], "certtrain train method=ibp"),
        (["train", "epoch=3"], "epochs"),
        (["train", "schedule.rmp=3"], "schedule.ramp"),
        (["train", "method=crown_ipb"], "did you mean crown_ibp"),
        (["train", "modle=cnn7"], "model"),
        (["train", "data=mnits"], "mnist"),
        (["train", "experiment=quickstrat"], "quickstart"),
        (["train", "radii=[0.1"], "radii=[0.1"),
    ],
)
def test_typos_are_answered_with_the_nearest_name_in_no_time(arguments, expected, capsys):
    gc.collect()
    gc.freeze()  # what earlier tests of this process left is not this command's to go through
    start = time.process_time()
    assert main(arguments) == 2
    assert time.process_time() - start < 1
    gc.unfreeze()
    shown = capsys.readouterr().err
    assert expected in shown
    assert "Traceback" not in shown


def test_composing_imports_nothing_heavy_and_takes_under_a_second():
    program = (
        "import sys; from certtrain.cli.main import main;"
        "status = main(['train', 'experiment=quickstart', '--cfg', 'job']);"
        "heavy = [m for m in ('torch', 'lightning', 'wandb', 'sklearn', 'matplotlib', 'scipy') if m in sys.modules];"
        "print('HEAVY', heavy); sys.exit(status)"
    )
    times = []
    for _ in range(3):  # processor time, the least of several: other work on the machine only adds
        before = children_seconds()
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
        times.append(children_seconds() - before)
        assert done.returncode == 0, done.stderr
        assert "HEAVY []" in done.stdout
        assert "eps: 0.1" in done.stdout
    assert min(times) < 1.0


def test_a_reader_that_stops_reading_is_told_nothing():
    """As in `certtrain --help | head`: the pipe is closed before anything is written."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-m", "certtrain", "--help"], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_module_and_console_script_are_the_same():
    done = certtrain("--version")
    assert done.returncode == 0
    assert __version__ in done.stdout


def test_train_help_lists_the_groups():
    done = certtrain("train", "--help")
    assert done.returncode == 0, done.stderr
    for group in GROUPS:
        assert f"\n{group}: " in done.stdout
        assert all(option in done.stdout for option in options(group))
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_certify_help_lists_what_certify_takes():
    done = certtrain("certify", "--help")
    assert done.returncode == 0, done.stderr
    assert "certifier: alpha_crown, anytime, " in done.stdout
    assert "\noptimizer: " not in done.stdout
