"""What becomes of processes that the launcher starts: made-up ranks that finish, refuse, crash, die or hang."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from certtrain.cli.main import main
from certtrain.sessions import launcher
from certtrain.sessions.launcher import ProcessDied, launch, threads_of
from certtrain.system.signals import Interrupted

pytestmark = pytest.mark.ops
START = """
import json, os, signal, sys, time
order = json.load(open(sys.argv[-1]))
rank, of = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
def begun(count=of):
    open(f"begun-{rank}", "w").close()
    while not all(os.path.exists(f"begun-{other}") for other in range(count)): time.sleep(0.01)
def stop(number, frame): open(f"stopped-{rank}", "w").close(); sys.exit(128 + number)
signal.signal(signal.SIGTERM, stop); signal.signal(signal.SIGINT, stop)
"""


@pytest.fixture
def ranks(in_tmp, monkeypatch):
    """Runs `count` processes of a given script; gives back the exit status."""

    def run(script: str, count: int = 3, **order: object) -> int:
        monkeypatch.setattr(launcher, "WORKER", ("-c", START + textwrap.dedent(script)))
        return launch(order, count)

    return run


@pytest.fixture
def as_it_was():
    """The launcher leaves handlers and variables as they were."""

    def state() -> list[object]:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        variables = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
        return [variables, *map(signal.getsignal, numbers)]

    before = state()
    yield
    assert state() == before


@pytest.mark.usefixtures("as_it_was")
def test_it_waits_for_all_and_hands_them_their_place(ranks, in_tmp, capsys, monkeypatch):
    monkeypatch.syspath_prepend(in_tmp / "own")
    assert (
        ranks(
            """
            begun()  # all at once
            print("said by", rank)
            time.sleep(0.2 * rank)
            words = [rank, of, order["config"]["name"], os.environ["OMP_NUM_THREADS"], os.environ["MASTER_ADDR"]]
            words += [order["parent"] == os.getppid(), any(path.endswith("own") for path in sys.path)]
            open(f"done-{rank}", "w").write(" ".join(map(str, words)))
            """,
            config={"name": "ü"},
        )
        == 0
    )
    threads = os.environ.get("OMP_NUM_THREADS", threads_of(3))
    told = [(in_tmp / f"done-{i}").read_text() for i in range(3)]
    assert told == [f"{i} 3 ü {threads} 127.0.0.1 True True" for i in range(3)]
    assert capsys.readouterr().out == "said by 0\n"


@pytest.mark.usefixtures("as_it_was")
def test_a_killed_process_ends_the_others_and_is_named(ranks, in_tmp):
    with pytest.raises(ProcessDied, match=r"process 2 of 3 \(pid \d+\) was ended by SIGKILL, as when memory runs out"):
        ranks("""
            begun()
            if rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(600)
        """)
    assert sorted(path.name for path in in_tmp.glob("stopped-*")) == ["stopped-0", "stopped-2"]


def test_a_process_that_somebody_ended_is_named(ranks):
    with pytest.raises(ProcessDied, match=r"process 2 of 2 .* was ended by SIGTERM, and the others were stopped"):
        ranks(
            """
            begun()
            if rank == 1:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(600)
            """,
            count=2,
        )


def test_a_crash_shows_what_the_process_said_and_not_what_followed_from_it(ranks, capsys):
    with pytest.raises(ProcessDied, match=r"process 3 of 3 .* failed with exit status 1"):
        ranks("""
            begun()
            if rank == 2:
                raise RuntimeError("the accelerator fell over")
            if rank == 1:
                print("lost contact", file=sys.stderr)
                sys.exit(3)
            time.sleep(600)
        """)
    said = capsys.readouterr().err
    assert "RuntimeError: the accelerator fell over" in said
    assert "lost contact" not in said


@pytest.mark.parametrize("who", ["rank == 0", "rank == 1", "True"])
def test_a_mistake_that_a_process_refuses_is_told_once(ranks, capsys, who):
    assert (
        ranks(
            f"""
            begun()
            if {who}:
                print("certtrain: made with other settings", file=sys.stderr)
                sys.exit(2)
            time.sleep(600)
            """,
            count=2,
        )
        == 2
    )
    assert capsys.readouterr().err == "certtrain: made with other settings\n"


def test_what_rank_0_says_of_its_own_failure_is_all(ranks, capsys):
    assert ranks("begun(); print('no', file=sys.stderr); sys.exit(1 if rank == 0 else 0)", count=2) == 1
    assert capsys.readouterr().err == "no\n"


@pytest.mark.usefixtures("as_it_was")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_and_waits_for_them(ranks, in_tmp, capsys, number):
    with pytest.raises(Interrupted) as caught:
        ranks(
            f"""
            def stop(number, frame):
                time.sleep(0.5)  # the batch that it is at
                open(f"stopped-{{rank}}", "w").close()
                sys.exit(128 + number)
            signal.signal({int(number)}, stop)
            begun()
            if rank == 1:
                os.kill(os.getppid(), {int(number)})
            time.sleep(600)
            """,
            count=2,
        )
    assert caught.value.number == number
    assert len(list(in_tmp.glob("stopped-*"))) == 2
    answer = f"{signal.Signals(number).name}: stopping; what is done is kept (Ctrl-C again: at once)\n"
    assert capsys.readouterr().err == answer


def test_one_that_is_told_to_stop_stops_all(ranks, in_tmp):
    with pytest.raises(Interrupted) as caught:
        ranks("begun(); os.kill(os.getpid(), signal.SIGINT) if rank == 1 else None; time.sleep(600)", count=2)
    assert caught.value.number == signal.SIGINT
    assert len(list(in_tmp.glob("stopped-*"))) == 2


HANGS = "signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGINT, signal.SIG_IGN); begun()\n"


def test_a_process_that_hangs_does_not_keep_the_rest_from_a_sigterm(ranks, monkeypatch):
    monkeypatch.setattr(launcher, "SHUTDOWN_SECONDS", 1)
    with pytest.raises(Interrupted) as caught:
        ranks(HANGS + "os.kill(os.getppid(), signal.SIGTERM) if rank == 0 else None; time.sleep(600)", count=2)
    assert caught.value.number == signal.SIGTERM


def test_processes_end_with_their_launcher(in_tmp):
    """One that hangs, too: it must not work on in a run that is not locked any more."""
    worker = START + HANGS + "from certtrain.cli.worker import end_with; end_with(order['parent'])\n"
    worker += "print('hangs', flush=True); time.sleep(600)"
    code = "import sys; from certtrain.sessions import launcher; launcher.WORKER = ('-c', sys.argv[1])\n"
    code += "launcher.launch({}, 2, output_of_all=True)"
    process = subprocess.Popen([sys.executable, "-c", code, worker], stdout=subprocess.PIPE, text=True)
    assert [process.stdout.readline() for _ in range(2)] == ["hangs\n"] * 2
    process.kill()
    begun = time.monotonic()
    assert process.stdout.read() == ""  # ends with the last one that has it
    assert time.monotonic() - begun < 60


def test_the_cores_are_shared(monkeypatch):
    monkeypatch.setattr("certtrain.runs.environment.hardware", lambda: {"usable_cores": 8})
    assert [threads_of(count) for count in (1, 3, 8, 9)] == ["8", "2", "1", "1"]


def test_nobody_types_it(capsys):
    assert main(["worker", "order.json"]) == 2
    assert "unknown command 'worker'" in capsys.readouterr().err
