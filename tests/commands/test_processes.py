"""Watching processes: made-up workers that finish, refuse, crash, die or hang, as the real ones may."""

import io
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from rich.console import Console

from certtrain.callbacks.signals import Interrupted, SignalFlag
from certtrain.commands import processes
from certtrain.commands.loading import LoadedRun
from certtrain.commands.processes import ProcessDied, certify_in_processes
from certtrain.commands.stage import Job
from certtrain.errors import UserError
from certtrain.parts import Share
from certtrain.runs import RunDirectory

pytestmark = pytest.mark.ops
START = """
import json, os, signal, sys, time
order = json.loads(sys.stdin.readline())
number = int(order["place"]["process"].split("/")[0])
def say(**answer): print(json.dumps(answer), flush=True)
def wait_for_the_end(): sys.stdin.read(); open(f"stopped-{number}", "w").close(); sys.exit(143)
"""


@pytest.fixture
def workers(in_tmp, monkeypatch):
    """Runs `count` processes of a given script; gives back how long that took."""

    def run(script: str, count: int = 3, flag: SignalFlag | None = None, config: dict | None = None) -> float:
        monkeypatch.setattr(processes, "WORKER", ("-c", START + textwrap.dedent(script)))
        start = time.monotonic()
        try:
            loaded = LoadedRun(RunDirectory("a-run"), {}, None, None, None)
            job = Job(loaded, None, config or {}, Console(file=io.StringIO()), flag or SignalFlag())
            certify_in_processes(job, Share(), count, 30)
        finally:
            run.seconds = time.monotonic() - start
        return run.seconds

    return run


def test_it_waits_for_all_and_hands_them_their_place(workers, in_tmp):
    workers(
        """
        say(rows=10, certified=3)
        print("not JSON, from somebody's own module", flush=True)
        time.sleep(0.2 * number)
        place, name = order["place"], order["config"]["name"]
        open(f"done-{number}", "w").write(f"{place['shard']} {place['process']} {name} {os.environ['OMP_NUM_THREADS']}")
    """,
        config={"name": "ü"},
    )
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // 3)))
    assert [(in_tmp / f"done-{i}").read_text() for i in (1, 2, 3)] == [f"1/1 {i}/3 ü {threads}" for i in (1, 2, 3)]


def test_a_killed_process_ends_the_others_and_is_named(workers, in_tmp):
    with pytest.raises(ProcessDied, match=r"process 2 of 3 \(pid \d+\) was ended by SIGKILL, as when memory runs out"):
        workers("""
            if number == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            wait_for_the_end()
        """)
    assert sorted(path.name for path in in_tmp.glob("stopped-*")) == ["stopped-1", "stopped-3"]
    assert workers.seconds < 20


def test_a_process_that_somebody_stopped_is_named(workers):
    with pytest.raises(ProcessDied, match=r"process 1 of 2 .* was ended by SIGTERM; what all of them had certified is"):
        workers("sys.exit(143) if number == 1 else wait_for_the_end()", count=2)


def test_a_crash_shows_what_the_process_said(workers, capfd):
    with pytest.raises(ProcessDied, match=r"process 3 of 3 .* failed with exit status 1"):
        workers("""
            if number == 3:
                raise RuntimeError("the accelerator fell over")
            wait_for_the_end()
        """)
    assert "RuntimeError: the accelerator fell over" in capfd.readouterr().err


def test_a_mistake_that_a_process_refuses_is_the_users(workers):
    with pytest.raises(UserError, match="other settings") as caught:
        workers("""
            say(error={"what": "made with other settings", "where": "the log", "fix": "another name"})
            sys.exit(2)
        """)
    assert (caught.value.where, caught.value.fix) == ("the log", "another name")


def test_a_process_that_does_not_stop_is_killed(workers, monkeypatch):
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.3)
    with pytest.raises(ProcessDied, match="process 1 of 2"):
        workers("sys.exit(3) if number == 1 else time.sleep(600)", count=2)
    assert workers.seconds < 20


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_and_waits_for_them(workers, in_tmp, number):
    with SignalFlag() as flag, pytest.raises(Interrupted) as caught:
        workers(
            f"""
            if number == 1:
                os.kill(os.getppid(), {int(number)})
            sys.stdin.read()
            time.sleep(0.5)  # the batch that it is at
            open(f"stopped-{{number}}", "w").close()
            sys.exit(143)
        """,
            count=2,
            flag=flag,
        )
    assert caught.value.number == number
    assert len(list(in_tmp.glob("stopped-*"))) == 2


def test_a_process_that_hangs_does_not_keep_the_rest_from_a_sigterm(workers, monkeypatch):
    monkeypatch.setattr(processes, "TERM_SECONDS", 0.3)
    with SignalFlag() as flag, pytest.raises(Interrupted) as caught:
        workers("os.kill(os.getppid(), signal.SIGTERM) if number == 1 else None; time.sleep(600)", count=2, flag=flag)
    assert caught.value.number == signal.SIGTERM
    assert workers.seconds < 20


def test_a_second_interrupt_ends_at_once(workers):
    with SignalFlag() as flag, pytest.raises(KeyboardInterrupt):
        workers(
            """
            for _ in range(2):
                os.kill(os.getppid(), signal.SIGINT)
                time.sleep(0.5)
            time.sleep(600)
        """,
            count=1,
            flag=flag,
        )
    assert workers.seconds < 20


def test_a_process_that_hangs_outlives_its_parent_by_a_while_only():
    """Nobody else would end it, and it keeps the run locked."""
    child = """
import threading, time
from types import SimpleNamespace
from certtrain.commands import shares
shares.ORPHAN_SECONDS = 0.5
flag = SimpleNamespace(number=None)
threading.Thread(target=shares._stop_when_told, args=(flag, shares.os.getppid())).start()
print("hangs", flush=True)
time.sleep(600)
"""
    parent = "import subprocess as s, sys; s.Popen([sys.executable, '-c', sys.argv[1]], stdin=s.PIPE).wait()"
    process = subprocess.Popen([sys.executable, "-c", parent, child], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "hangs\n"
    process.kill()
    start = time.monotonic()
    assert process.stdout.read() == ""  # ends with the last one that has it
    assert 0.5 < time.monotonic() - start < 30
