"""Locks that end with their process, kill -9 included: of a run directory, of a study's running trials."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import time
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from types import TracebackType

from certtrain.errors import UserError
from certtrain.system.files import FULL, unwritable

SHARD_PATIENCE = 60.0  # seconds that a shard waits for one that looks whether all are there
LOOK_PATIENCE = 5.0  # seconds that a command waits for one that only looks who is there, which takes milliseconds

HOLDER = re.compile(r"pid (\d+) on (\S+) since \S+")


class FileLock:
    """An exclusive lock of a file, which is made and stays: `flock`, or what the system has instead, by `filelock`.

    As a context manager it waits until it has the lock. On a file system without locks everybody gets it.

    Args:
        path: of a file that holds nothing but the holder's name; never one that is a link.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: FileIO | None = None

    @property
    def held(self) -> bool:
        """Whether this process has it."""
        return self._file is not None

    def acquire(self, wait: bool = False) -> bool:
        """Whether the lock is had; without waiting, unless asked to.

        Raises:
            UserError: the file is a link, or holds something else than a name of ours. It is left as it is.
            OSError: the file cannot be opened for writing.
        """
        from filelock import lock_descriptor  # a tenth of a second, of which `--help` needs nothing

        while self._file is None:
            file = self._open()
            try:
                had = lock_descriptor(file.fileno(), blocking=wait)
            except OSError:  # a file system without locks
                file.close()
                return True
            status = os.fstat(file.fileno())
            if had and status.st_nlink:
                if not stat.S_ISREG(status.st_mode) or not _ours(file):
                    file.close()
                    raise self._foreign()
                self._file = file
                break
            file.close()  # had, it was deleted since it was opened: the next one locks another file of that name
            if not had:
                return False
        return True

    def holder(self) -> str:
        """The name in the file; "" where nobody has signed."""
        with contextlib.suppress(OSError, ValueError):  # on Windows a locked file cannot be read
            text = self.path.read_text(encoding="utf-8").strip()
            return text if HOLDER.match(text) else ""
        return ""

    def sign(self, name: str) -> None:
        """Write who has the lock, or "" for nobody, where there is room for it: it holds all the same."""
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            self._file.truncate(0)
            self._file.seek(0)
            self._file.write((name and f"{name}\n").encode())

    def release(self) -> None:
        """Give the lock back; the file stays, because deleting it would race with the next process."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def _open(self) -> FileIO:
        if self.path.is_symlink():
            raise self._foreign()
        return FileIO(os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666), "r+")

    def _foreign(self) -> UserError:
        return UserError(
            f"{self.path} is not a lock file of certtrain, but a link or somebody else's file",
            where=str(self.path.parent),
            fix="look where it comes from; the lock is made anew when the file is gone",
        )

    def __enter__(self) -> FileLock:
        self.acquire(wait=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


def _ours(file: FileIO) -> bool:
    text = (file.read(200) or b"").decode("utf-8", "replace").strip()
    return not text or HOLDER.match(text) is not None


class _Busy(Exception):
    """Somebody else has it: `who`, "" where they have not signed; `passing`: perhaps only to look who is there."""

    def __init__(self, who: str, *, passing: bool) -> None:
        super().__init__(who)
        self.who, self.passing = who, passing


class RunLock:
    """The lock of a run directory: one process works in it, or the shards of one job, each once.

    A process on its own holds `.lock`. A shard holds `.lock-1-of-4`, which it takes while it has `.lock` for a moment;
    so whoever has `.lock` can look whether there are shards, and no other begins meanwhile. The file says who has it
    (pid, host, since when) as long as somebody has. Reading commands take no lock.

    On NFS it holds between machines where client and server have locking (Linux makes it a lock of the whole file
    there), and a machine that dies keeps it until the server notices. Mounted with `nolock` or `local_lock=flock` it
    holds between the processes of one machine, and on a file system without locks not at all.

    Args:
        folder: the run directory, which exists when the lock is taken.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._run = FileLock(folder / ".lock")
        self._shard: FileLock | None = None

    @property
    def held(self) -> bool:
        """Whether this process has it."""
        return any(lock is not None and lock.held for lock in (self._run, self._shard))

    def acquire(self, shard: str | None = None) -> None:
        """Take the lock; nothing where this process has it already.

        Args:
            shard: `1-of-4`: let the other shards of a job in, but nobody else, and this shard only once. One that has
                ended looks whether it is the last, by itself for a moment: a shard waits for that.

        Raises:
            UserError: another process has the lock; the lock file cannot be written, or is a link.
        """
        if self.held:
            return
        started = time.monotonic()
        while True:
            try:
                self._take(shard)
                return
            except _Busy as busy:
                patience = SHARD_PATIENCE if shard is not None else LOOK_PATIENCE
                if not busy.passing or time.monotonic() - started >= patience:
                    raise self._refusal(busy.who) from None
                time.sleep(0.02 if shard is None else 0.2)

    def release(self) -> None:
        """Give the locks back; the files stay."""
        for lock in filter(None, (self._shard, self._run)):
            lock.sign("")  # nobody's name stays behind, but for that of a process that is killed
            lock.release()
        self._shard = None

    def _take(self, shard: str | None) -> None:
        """Both files, or neither.

        Raises:
            _Busy: another process has one of them.
            UserError: a file that cannot be written, or is a link.
        """
        try:
            if not self._run.acquire():
                who = self._run.holder()
                raise _Busy(who, passing=shard is not None or not who or _dead(who))
            mine = self._run
            if shard is None:
                self._refuse_beside_shards()
            else:
                mine = self._shard = FileLock(self.folder / f".lock-{shard}")
                if not mine.acquire():
                    raise _Busy(mine.holder(), passing=False)
        except OSError as error:
            self.release()
            raise unwritable_run(Path(error.filename or self._run.path), error) from error
        except BaseException:
            self.release()
            raise
        mine.sign(_who())
        if shard is not None:
            self._run.sign("")
            self._run.release()

    def _refuse_beside_shards(self) -> None:
        """Raises _Busy where a shard is at work."""
        names = []
        for path in sorted(self.folder.glob(".lock-*")):
            other = FileLock(path)
            if not other.acquire():
                names.append(other.holder())
            other.release()
        if names:
            raise _Busy("; ".join(filter(None, names)), passing=False)

    def _refusal(self, who: str) -> UserError:
        return UserError(
            f"another process{f' ({who})' if who else ''} is working in {self.folder}",
            where="run directory",
            fix="wait for it or stop it, or choose another name=; report, plot, table and audit read meanwhile",
        )


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
    match = HOLDER.match(who)
    if match is None or match[2] != socket.gethostname():
        return False
    try:
        os.kill(int(match[1]), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass
    return False
