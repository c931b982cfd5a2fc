"""Finding the published files of a data set, or fetching them, or saying how to get them."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from pathlib import Path

from certtrain.errors import UserError
from certtrain.runs.locks import FileLock
from certtrain.system.files import FULL

DOWNLOADING = ".downloading"  # there while a process fetches files: what is there already may not be whole
UNWRITABLE = FULL | {errno.EACCES, errno.EPERM, errno.EROFS}


def missing_files(folder: Path, names: Sequence[str]) -> list[str]:
    """The names that are not files in the folder."""
    return [name for name in names if not (folder / name).is_file()]


def require_files(
    folder: Path, names: Sequence[str], *, data: str, download: Callable[[], object] | None, published: str = ""
) -> None:
    """Make sure that a data set's files are there: nothing when they are, else a download, by one process at a time.

    Args:
        folder: where they belong.
        names: file names.
        data: name of the data set.
        download: fetches them; None to never try.
        published: how to get what is not downloaded, `unpack FILE of SITE into FOLDER`.

    Raises:
        UserError: they are missing and were not to be had; says what was looked for and how to get it.
    """
    missing, lock = missing_files(folder, names), FileLock(folder / DOWNLOADING)
    cause, way = "", published or "connect to the internet and run again"
    if download is not None and (missing or lock.path.exists()):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with lock:
                if missing_files(folder, names):
                    download()
                lock.path.unlink()  # who waits for it locks another one, and finds everything there
        except Exception as error:  # whatever a network, a disk or a checksum can do: the answer is the same
            cause = f"; the download failed: {type(error).__name__}: {error}"
            if isinstance(error, OSError) and error.errno in UNWRITABLE:
                way = "set data_dir to a folder that you may write, to fetch them there"
        missing = missing_files(folder, names)
    if missing:
        raise UserError(
            f"{data} is not in {folder.absolute()}: no {', '.join(missing)}{cause}",
            where="data_dir",
            fix=f"{way}, or put the files ({', '.join(names)}, unpacked) into "
            f"{folder}, or set data_dir to the folder that has {'/'.join(folder.parts[-2:])}",
        )
