"""A lock that ends with its process, kill -9 included: how a study tells a trial that runs from one that was killed."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import IO

try:
    import fcntl
except ImportError:  # Windows has no flock: there a study belongs to one process at a time
    fcntl = None  # type: ignore[assignment]


class FileLock:
    """An exclusive lock on a file, which is made. As a context manager it waits until it has the lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None

    def acquire(self, wait: bool = False) -> bool:
        """Whether the lock is had; without waiting, unless asked to."""
        if fcntl is None or self._file is not None:
            return True
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("a", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.close()
            return False
        except OSError:  # a file system without locks
            pass
        self._file = file
        return True

    def release(self) -> None:
        """Give the lock back; the file stays, because deleting it would race with the next process."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> FileLock:
        self.acquire(wait=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()
