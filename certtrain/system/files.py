"""Writing files so that a reader, or a run that is killed, never sees half of one."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from fractions import Fraction
from io import FileIO
from pathlib import Path

from certtrain.errors import DiskFull, UserError, command_line
from certtrain.radii import radius_text

# No room on the disk, in the user's quota, below the limit of one file's size.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

AGAIN = "give the same command again: it goes on from what is there. All files that were whole before are as they were"


def write_text_atomic(path: str | Path, text: str) -> Path:
    """Replace the file's content in one step: the old content or the new one, at any moment, and on disk on return.

    Missing parent directories are made.

    Raises:
        UserError: the directory or the file cannot be written.
    """
    return write_bytes_atomic(path, text.encode("utf-8"))


def write_bytes_atomic(path: str | Path, content: bytes) -> Path:
    """`write_text_atomic` of bytes."""
    path = Path(path)
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        with FileIO(handle, "wb") as file:
            put(file, content)
            os.fsync(handle)
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's 0600 would hide results from a group
        os.replace(temporary, path)
        temporary = None
        sync_directory(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
    return path


def append_text(path: str | Path, text: str, *, where: str = "output file", sync: bool = True) -> None:
    """Add text to the end of a file: all of it, or the file is as long as before. With `sync`, on disk on return.

    Raises:
        UserError: the file cannot be written.
    """
    path = Path(path)
    try:
        with FileIO(path, "ab") as file:
            before = os.fstat(file.fileno()).st_size
            try:
                put(file, text.encode("utf-8"))
                if sync:
                    os.fsync(file.fileno())
            except OSError:
                file.truncate(before)
                raise
    except OSError as error:
        raise unwritable(path, error, where=where) from error


def put(file: FileIO, content: bytes | memoryview) -> None:
    """Write all of it; a raw file takes what there is room for, and says so.

    Raises:
        OSError: there is no room for the rest.
    """
    rest = memoryview(content)
    while len(rest):
        rest = rest[file.write(rest) or 0 :]


def unwritable(
    path: str | Path, error: OSError, *, where: str = "output file", fix: str = "choose a writable directory"
) -> UserError:
    """The message for a file that cannot be written: with the room that is left where that is the reason.

    Args:
        path: of the file.
        error: why not.
        where: what set the path.
        fix: what to do where room is not the reason.
    """
    reason = error.strerror or str(error)
    if error.errno not in FULL:
        return UserError(f"cannot write {path}: {reason}", where=where, fix=fix)
    folder = Path(path).absolute().parent
    while not folder.exists():
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    limited = error.errno == errno.EFBIG
    room, way = ("the limit of one file's size (ulimit -f)", "raise it") if limited else ("the disk", "make room there")
    return DiskFull(
        f"there is no room for {path}: {reason}",
        where=f"{room} at {folder}, {usage.free / 1e6:,.1f} MB free of {usage.total / 1e6:,.1f} MB",
        fix=f"{way} and {AGAIN}",
    )


def explained(error: OSError) -> UserError | None:
    """The message for an error of the file system that nobody expected where it came; None for one that says nothing.

    Args:
        error: with the file's name, where Python knows it.
    """
    if error.filename is None and error.errno in FULL:
        return DiskFull(
            f"there is no room on a disk: {error.strerror}",
            where="a file that the system does not name; --traceback shows who wrote it",
            fix=f"make room there and {AGAIN}",
        )
    if error.errno in FULL or error.errno == errno.EROFS:
        return unwritable(error.filename or "a file", error)
    if error.errno in (errno.EACCES, errno.EPERM) and error.filename is not None:
        return UserError(
            f"{error.filename}: {error.strerror}",
            where="file permissions",
            fix="permit it, or name another place",
        )
    return None


def refuse_foreign(path: Path, mark: bytes, what: str, head: int | None = None) -> None:
    r"""Refuse to overwrite a file that is not ours.

    Args:
        path: named by the user as `--output`.
        mark: what files of ours hold.
        what: such a file, `page of \`certtrain report\``.
        head: bytes within which the mark stands; None for anywhere.

    Raises:
        UserError: the file exists and lacks the mark, or cannot be read.
    """
    try:
        foreign = path.exists() and mark not in path.read_bytes()[:head]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", where="--output", fix="another name") from error
    if foreign:
        raise UserError(f"{path} exists and is no {what}: it is not overwritten", where="--output", fix="another name")


def check_name(name: object, where: str = "configuration key name") -> str:
    """The name of a run, a study or a certificate: one component of a path, and nothing hidden.

    Raises:
        UserError: it is empty, holds a separator or a character that cannot be printed, begins with a dot, or is
            neither a text nor a number.
    """
    text = str(name)
    plain_value = isinstance(name, (str, int, float)) and not isinstance(name, bool)
    if not plain_value or not text.strip() or not text.isprintable() or text[0] == "." or set(text) & {"/", "\\"}:
        raise UserError(
            f"{text!r} is not a name",
            where=where,
            fix="letters, digits and signs such as - _ = without / or \\, and no dot first; runs_dir= names a folder",
        )
    return text


def refuse_links(folder: Path, below: Iterable[str] = ()) -> None:
    """Refuse a folder to be written whose files are links: what is appended to them would land somewhere else.

    Args:
        folder: may itself be reached by a link, which the user made.
        below: folders in it that are written as well.

    Raises:
        UserError: an entry is a symbolic link, or neither a file nor a folder. Nothing is opened.
    """
    for place in (folder, *(folder / name for name in below)):
        if not place.is_dir():
            continue
        for path in sorted(place.iterdir()):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                kind = "a symbolic link" if path.is_symlink() else "neither a file nor a folder"
                raise UserError(
                    f"{path} is {kind}: what is written there would land somewhere else",
                    where=str(folder),
                    fix=f"look what it is; {command_line('cp', '-rL', folder, 'COPY')} has files in place of links",
                )


def write_json_atomic(path: str | Path, value: object) -> Path:
    """`write_text_atomic` of strict JSON, indented, in the order given.

    A `Fraction` is written as the radius text, a path as text, a NumPy or PyTorch scalar as a number, a NaN or infinite
    float as null (JSON has no such numbers).

    Raises:
        TypeError: a value without a JSON form; nothing is written then.
        UserError: the file cannot be written.
    """
    text = json.dumps(plain(value), indent=2, allow_nan=False, ensure_ascii=False)
    return write_text_atomic(path, text + "\n")


def plain(value: object) -> object:
    """The value in JSON's own types, as `write_json_atomic` writes it."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Fraction):
        return radius_text(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {radius_text(key) if isinstance(key, Fraction) else str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(plain(item) for item in value)  # type: ignore[type-var]
    if hasattr(value, "tolist"):  # NumPy and PyTorch, scalars and arrays alike
        return plain(value.tolist())
    raise TypeError(f"{type(value).__name__} {value!r} has no JSON form")


def sync_directory(path: str | Path) -> None:
    """Make a rename or a new file in the directory survive a power cut, where the system can."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass  # some network file systems refuse to sync a directory
    finally:
        os.close(handle)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def conf_dir() -> Path:
    """The folder of configuration files: beside the package in a checkout, inside it in an installed wheel."""
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "conf", package.parent / "conf"):
        if (candidate / "train.yaml").is_file():
            return candidate
    raise UserError(
        "the configuration files of certtrain are missing",
        where=f"{package / 'conf'} and {package.parent / 'conf'}",
        fix="install certtrain again",
    )
