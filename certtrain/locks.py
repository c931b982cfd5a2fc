"""The lock of a run directory: one process works in it, or the shards of one job, each once."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from certtrain.errors import UserError
from certtrain.files import FULL, unwritable

try:
    import fcntl
except ImportError:  # Windows has no flock: two processes on one run are then not told apart
    fcntl = None  # type: ignore[assignment]

SHARD_PATIENCE = 60.0  # seconds that a shard waits for one that looks whether all are there


class RunLock:
    """`flock` of the file `.lock` in a run directory; it ends with the process that holds it, kill -9 included.

    The file says who has it (pid, host, since when) as long as somebody has. Reading commands take no lock.

    On NFS it holds between machines where client and server have locking (Linux makes it a lock of the whole file
    there), and a machine that dies keeps it until the server notices. Mounted with `nolock` or `local_lock=flock` it
    holds between the processes of one machine, and on a file system without locks, or on Windows, not at all.

    Args:
        folder: the run directory, which exists when the lock is taken.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._run: IO[str] | None = None
        self._shard: IO[str] | None = None

    @property
    def held(self) -> bool:
        """Whether this process has it."""
        return self._run is not None

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Open files that hold the locks: a process that inherits them keeps the locks as long as it lives."""
        return tuple(file.fileno() for file in (self._run, self._shard) if file is not None)

    def acquire(self, shard: str | None = None) -> None:
        """Take the lock; nothing where this process has it already.

        Args:
            shard: `1-of-4`: let the other shards of a job in, but nobody else, and this shard only once. One that has
                ended looks whether it is the last, by itself for a moment: a shard waits for that.

        Raises:
            UserError: another process has the lock; the lock file cannot be written.
        """
        if fcntl is None or self.held:
            return
        deadline = time.monotonic() + (SHARD_PATIENCE if shard is not None else 0)
        while True:
            try:
                self._run = self._take(".lock", shared=shard is not None)
                break
            except UserError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.2)
        if shard is not None:
            try:
                self._shard = self._take(f".lock-{shard}")
            except UserError:
                self.release()
                raise

    def release(self) -> None:
        """Give the locks back; the files stay, because deleting them would race with the next process."""
        for file in filter(None, (self._shard, self._run)):
            with contextlib.suppress(OSError):
                _write(file, "")  # nobody's name stays behind, but for that of a process that is killed
            with contextlib.suppress(OSError):
                file.close()
        self._run = self._shard = None

    def _take(self, name: str, *, shared: bool = False) -> IO[str] | None:
        """A lock file with its lock; None on a file system without locks."""
        path = self.folder / name
        try:
            file = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise unwritable_run(path, error) from error
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            holder = _read(file) or self._shards()
            file.close()
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise UserError(
                    f"another process{f' ({holder})' if holder else ''} is working in {self.folder}",
                    where="run directory",
                    fix="wait for it or stop it, or choose another name=; report, plot, table and audit read meanwhile",
                ) from None
            return None
        with contextlib.suppress(OSError):  # a full disk: the lock holds although nobody can read whose it is
            _write(file, "" if shared else _who())
        return file

    def _shards(self) -> str:
        """Who has the shards' locks, as far as that can be known."""
        found = []
        for path in sorted(self.folder.glob(".lock-*")):
            with contextlib.suppress(OSError):
                text = path.read_text(encoding="utf-8").strip()
                if text and not _dead(text):
                    found.append(text)
        return "; ".join(found)


def unwritable_run(path: Path, error: OSError) -> UserError:
    """The message for a run directory that cannot be written."""
    if error.errno in FULL:
        return unwritable(path, error)
    return UserError(
        f"cannot write the run directory {path}: {error.strerror or error}",
        where="configuration keys runs_dir and name",
        fix="choose a writable directory: runs_dir=...; of a run that may only be read, use a copy",
    )


def _who() -> str:
    return f"pid {os.getpid()} on {socket.gethostname()} since {datetime.now(UTC).isoformat(timespec='seconds')}"


def _dead(who: str) -> bool:
    """Whether a process of this machine was killed before it could take its name back."""
    match = re.match(r"pid (\d+) on (\S+) since", who)
    if match is None or match[2] != socket.gethostname():
        return False
    try:
        os.kill(int(match[1]), 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


def _read(file: IO[str]) -> str:
    file.seek(0)
    return file.read().strip()


def _write(file: IO[str], text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text and f"{text}\n")
    file.flush()
