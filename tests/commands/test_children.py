"""A process that works for this one: what it is given, how it ends, what is left of it."""

import io
import os
import signal
import time

import pytest

from certtrain.commands.children import Child, threads_of


@pytest.fixture
def child():
    started = []

    def start(program: str, locks: tuple[int, ...] = (), **options: bool) -> Child:
        started.append(Child(("-c", program), os.environ, locks, **options))
        return started[-1]

    yield start
    for one in started:
        one.close()


def ended(child: Child) -> Child:
    child.process.wait(timeout=60)
    return child


def test_what_it_has_from_here(child, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    reader, writer = os.pipe()
    program = f"import os, sys; os.write({writer}, b'kept'); print(sys.path, os.getsid(0) == os.getsid({os.getpid()}))"
    said = child(program, (writer,), answers=True).process.stdout.read()
    assert str(tmp_path) in said
    assert said.endswith("True\n")
    assert os.read(reader, 4) == b"kept"
    assert child(program, (writer,), answers=True, group=False).process.stdout.read().endswith("False\n")
    os.close(reader)
    os.close(writer)


def test_the_end_of_this_process_is_the_end_of_its_standard_input(child):
    waits = child("import sys; sys.stdin.read()")
    assert waits.runs
    assert not waits.failed
    waits.process.stdin.close()
    assert not ended(waits).failed
    assert not waits.runs


@pytest.mark.parametrize(
    ("program", "told", "shown"),
    [
        ("import os; os.kill(os.getpid(), 9)", "was ended by SIGKILL, as when memory runs out", ""),
        ("import sys; sys.exit(143)", "was ended by SIGTERM", ""),
        ("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)", "failed with exit status 3", "err"),
    ],
)
def test_how_it_ended(child, monkeypatch, program, told, shown):
    failed = ended(child(program))
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert failed.failed
    assert failed.ending() == f"(pid {failed.process.pid}) {told}"
    import sys

    assert shown in sys.stderr.getvalue()
    assert ("out" in sys.stderr.getvalue()) is bool(shown)  # what nobody reads is kept, too


def test_one_that_hangs_is_ended_by_close(child):
    hangs = child("import time; time.sleep(600)")
    os.kill(hangs.process.pid, signal.SIGSTOP)
    start = time.monotonic()
    hangs.close()
    assert time.monotonic() - start < 20
    assert not hangs.runs


def test_the_cores_are_shared(monkeypatch):
    monkeypatch.setattr("certtrain.environment.hardware", lambda: {"usable_cores": 8})
    assert [threads_of(count) for count in (1, 3, 8, 9)] == ["8", "2", "1", "1"]
