"""A log of certificates that survives a kill, and the card beside it."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from certtrain.certificates.rows import HEADER, Certificates
from certtrain.errors import UserError
from certtrain.system.files import append_text, unwritable, write_json_atomic, write_text_atomic


class CertificateLog:
    """A log of certificates, one row per example, that can be continued after a kill at any moment.

    Each `append` writes its rows at once and waits until they are on disk. Of a write that was cut short the complete
    rows are kept and the torn last line is dropped on reopening: at most the last row of it is lost.

    The first six columns are those of the field's logs, `idx label predict radius correct time` (time in seconds,
    abstain -1 with radius 0.0), further ones follow by name.

    Args:
        path: the TSV file; made by the first append. A packed one, `.tsv.gz`, can only be read.
        read_only: leave the file as it is, its torn last line included; nothing can be appended.

    Raises:
        UserError: the file exists and is not such a log, or cannot be written.
    """

    def __init__(self, path: str | Path, *, read_only: bool = False) -> None:
        self.path, self.read_only = Path(path), read_only or Path(path).suffix == ".gz"
        self._names: tuple[str, ...] | None = None  # the further columns, once there is a header
        self._done: set[int] = set()
        if self.path.exists():
            self._done = set(self.read().index.tolist())
            if not self.read_only:
                self._drop_torn_line()

    def done_indices(self) -> list[int]:
        """The examples that the log holds, ascending."""
        return sorted(self._done)

    def append(self, certificates: Certificates) -> None:
        """Add rows; on return they are on disk. A text column that is new makes the file be rewritten with it.

        Raises:
            ValueError: an example that the log holds already, or columns of numbers that do not fit its header.
            UserError: the file cannot be written.
        """
        if not len(certificates):
            return
        if self.read_only:
            raise ValueError(f"the log {self.path} can only be read")
        new = certificates.index.tolist()
        if len(set(new)) < len(new) or self._done & set(new):
            raise ValueError(f"the log {self.path} would hold an example twice")
        if self._names is None:
            self._rewrite(certificates)
        elif set(certificates.columns) != set(self._names):
            self._rewrite(Certificates.concat([self.read(), certificates]))
        else:
            self._write(certificates.lines(self._names))
        self._done |= set(new)

    def replace(self, certificates: Certificates) -> None:
        """Put these rows in place of all that the log holds, in one step.

        Raises:
            ValueError: an example twice.
            UserError: the file cannot be written.
        """
        if self.read_only:
            raise ValueError(f"the log {self.path} can only be read")
        index = certificates.index.tolist()
        if len(set(index)) < len(index):
            raise ValueError(f"the log {self.path} would hold an example twice")
        self._rewrite(certificates)
        self._done = set(index)

    def read(self) -> Certificates:
        """All complete rows, in the order they were written.

        Raises:
            UserError: not a certificate log, a row that does not fit the header, an example twice.
        """
        content = self._content()
        try:
            text = content[: content.rfind(b"\n") + 1].decode("utf-8")
        except UnicodeDecodeError as error:
            self._refuse(str(error))
        header, *rows = text.split("\n")[:-1] or [""]
        first = "\t".join(HEADER).encode()
        if not text and not (first.startswith(content) or content.startswith(first)):
            self._refuse("it holds no whole line")  # else a torn header, to be written anew
        names = header.split("\t") if header else list(HEADER)
        if tuple(names[: len(HEADER)]) != HEADER:
            self._refuse("its first columns are not " + " ".join(HEADER))
        self._names = tuple(names[len(HEADER) :]) if header else None
        cells = [row.split("\t") for row in rows]
        for number, row in enumerate(cells, start=2):
            if len(row) != len(names):
                self._refuse(f"line {number} has {len(row)} columns, the header {len(names)}")
        columns = [list(column) for column in zip(*cells)] or [[] for _ in names]
        try:
            found = Certificates(
                *(np.array([int(cell) for cell in column], dtype=np.int64) for column in columns[:3]),
                radius=np.array([float(cell) for cell in columns[3]]),
                correct=np.array([_flag(cell) for cell in columns[4]], dtype=bool),
                seconds=np.array([float(cell) for cell in columns[5]]),
                columns={name: _parse(column) for name, column in zip(names[len(HEADER) :], columns[len(HEADER) :])},
            )
        except ValueError as error:
            self._refuse(str(error))
        if len(np.unique(found.index)) < len(found):
            self._refuse("it holds an example twice")
        return found

    def sha256(self) -> str:
        """The sha256 of the log's text, in hexadecimal; packing it makes no difference."""
        return hashlib.sha256(self._content()).hexdigest()

    def torn(self) -> bool:
        """Whether the last line was cut off; `read` leaves it out."""
        content = self._content()
        return not content.endswith(b"\n") and bool(content)

    def _content(self) -> bytes:
        try:
            content = self.path.read_bytes() if self.path.exists() else b""
            return gzip.decompress(content) if self.path.suffix == ".gz" else content
        except (OSError, EOFError, zlib.error) as error:
            self._refuse(str(error))

    def _rewrite(self, certificates: Certificates) -> None:
        names = tuple(certificates.columns)
        write_text_atomic(self.path, "\t".join(HEADER + names) + "\n" + certificates.lines(names))
        self._names = names

    def _write(self, text: str) -> None:
        append_text(self.path, text, where="certificate log")

    def _drop_torn_line(self) -> None:
        content = self.path.read_bytes()
        keep = content.rfind(b"\n") + 1
        if keep < len(content):
            try:
                with open(self.path, "r+b") as file:
                    file.truncate(keep)
                    os.fsync(file.fileno())
            except OSError as error:
                raise unwritable(self.path, error, where="certificate log") from error

    def _refuse(self, what: str) -> NoReturn:
        raise UserError(
            f"{self.path} is not a certificate log: {what}",
            where="certificate log",
            fix="move the file away, or write to another name",
        )


def write_card(path: str | Path, card: dict[str, Any]) -> Path:
    """Write the JSON that says what a log's certificates claim and how they were made, whole or not at all."""
    return write_json_atomic(path, card)


def read_card(path: str | Path) -> dict[str, Any]:
    """The card beside a log.

    Raises:
        UserError: missing, or not a JSON object.
    """
    try:
        card = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(card, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read the card {path}: {error}", where="certificate card") from error
    return card


def _flag(cell: str) -> bool:
    if cell not in ("0", "1"):
        raise ValueError(f"correct is 0 or 1, not {cell!r}")
    return cell == "1"


def _parse(cells: list[str]) -> NDArray[Any]:
    """The column's type by its text: integers, else floats (always written with a point, nan or inf), else text."""
    for kind in (int, float):
        try:
            return np.array([kind(cell) for cell in cells], dtype=np.int64 if kind is int else np.float64)
        except ValueError:
            continue
    return np.array(cells, dtype=object)
