"""The lock of a run: who has it is named, a dead process has nothing, and a file system may refuse."""

import errno
import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from certtrain.errors import UserError
from certtrain.runs import locks
from certtrain.runs.locks import RunLock

HOLD = "import sys; from pathlib import Path; from certtrain.runs.locks import RunLock; "
HOLD += "lock = RunLock(Path(sys.argv[1])); "
HOLD += "lock.acquire(*sys.argv[2:]); print('held', flush=True); sys.stdin.read(); lock.release()"


@pytest.fixture
def holder(tmp_path):
    """Starts processes that hold the lock until their input ends."""
    started = []

    def start(*shard: str) -> subprocess.Popen:
        words = [sys.executable, "-c", HOLD, str(tmp_path), *shard]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "held\n"
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def refusal(folder, *shard) -> str:
    with pytest.raises(UserError) as caught:
        RunLock(folder).acquire(*shard)
    return str(caught.value)


def test_the_one_who_works_there_is_named_and_a_killed_one_is_not_in_the_way(tmp_path, holder):
    process = holder()
    said = re.search(r"another process \((.*)\) is working in (.*)", refusal(tmp_path))
    who = rf"pid {process.pid} on {re.escape(socket.gethostname())} since 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00"
    assert re.fullmatch(who, said[1])
    assert said[2] == str(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert f"pid {process.pid}" in (tmp_path / ".lock").read_text()  # of the dead, and in nobody's way
    lock = RunLock(tmp_path)
    lock.acquire()
    lock.acquire()
    assert lock.held
    assert f"pid {os.getpid()} on" in refusal(tmp_path)
    lock.release()
    assert not lock.held
    assert (tmp_path / ".lock").read_text() == ""  # what is shared later names no machine


def test_shards_are_named_the_living_ones(tmp_path, holder, monkeypatch):
    monkeypatch.setattr(locks, "SHARD_PATIENCE", 0.1)
    before = holder()  # an ordinary command, killed: its name is not taken for a shard's
    before.kill()
    before.wait()
    killed, living = holder("1-of-3"), holder("2-of-3")
    killed.kill()
    killed.wait()
    text = refusal(tmp_path)
    assert f"pid {living.pid} on" in text
    assert f"pid {killed.pid} on" not in text
    assert f"pid {before.pid} on" not in text
    assert f"pid {living.pid} on" in refusal(tmp_path, "2-of-3")
    lock = RunLock(tmp_path)
    lock.acquire("1-of-3")
    living.communicate("")
    assert f"pid {os.getpid()} on" in refusal(tmp_path)
    lock.release()
    lock.acquire()
    lock.release()


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    """Nothing is refused there, and nothing is kept apart."""

    def none(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("filelock.lock_descriptor", none)
    RunLock(tmp_path).acquire()
    lock = RunLock(tmp_path)
    lock.acquire()
    assert not lock.held
    lock.release()


@pytest.mark.parametrize("name", [".lock", ".lock-1-of-2"])
@pytest.mark.parametrize("kind", ["link", "hard link", "nothing", "folder"])
def test_a_lock_that_is_a_link_is_refused_and_what_it_leads_to_is_left_alone(tmp_path, name, kind):
    """As a run directory that somebody sent may hold it."""
    theirs, run = tmp_path / "theirs", tmp_path / "run"
    run.mkdir()
    theirs.write_text("precious")
    if kind == "folder":
        (run / name).mkdir()
    elif kind == "hard link":
        (run / name).hardlink_to(theirs)
    else:
        (run / name).symlink_to(theirs if kind == "link" else tmp_path / "absent")
    for shard in ([], ["1-of-2"]):
        with pytest.raises(UserError, match=r"link|cannot write"):
            RunLock(run).acquire(*shard)
        if name == ".lock-1-of-2" and not shard:
            assert (run / ".lock").read_text() == ""
    assert theirs.read_text() == "precious"
    assert not (tmp_path / "absent").exists()


def test_a_look_is_waited_for(tmp_path, monkeypatch):
    """Who holds `.lock` unsigned only looks whether there are shards: of two that end at once, one must merge."""
    looking = locks.FileLock(tmp_path / ".lock")
    assert looking.acquire()
    monkeypatch.setattr(locks.time, "sleep", lambda _: looking.release())
    lock = RunLock(tmp_path)
    lock.acquire()
    assert lock.held
    lock.release()


def test_a_lock_file_deleted_since_it_was_opened_locks_nothing(tmp_path, monkeypatch):
    path, opened = tmp_path / ".lock", os.open

    def deleted_at_first(*arguments, **more):
        descriptor = opened(*arguments, **more)
        if arguments[0] == path and not deleted:
            deleted.append(path.unlink())
        return descriptor

    deleted: list[None] = []
    monkeypatch.setattr(os, "open", deleted_at_first)
    lock, other = locks.FileLock(path), locks.FileLock(path)
    assert lock.acquire()
    assert deleted
    assert not other.acquire()
    lock.release()
    assert other.acquire()
    other.release()


def test_a_directory_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match=r"cannot write the run directory .*\.lock: No such file") as caught:
        RunLock(tmp_path / "missing").acquire()
    assert "use a copy" in caught.value.fix
