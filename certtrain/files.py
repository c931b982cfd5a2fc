"""Writing files so that a reader, or a run that is killed, never sees half of one."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

from certtrain.errors import UserError
from certtrain.threat import radius_text


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
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's 0600 would hide results from a group
        os.replace(temporary, path)
        temporary = None
        sync_directory(path.parent)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}", where="output file", fix="choose a writable directory"
        ) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
    return path


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
