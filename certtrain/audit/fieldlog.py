"""Reads the logs of other people's code: tab separated, `idx label predict radius correct time` and their dialects."""

from __future__ import annotations

import gzip
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from certtrain.certificates import HEADER
from certtrain.errors import UserError

NEEDED = ("idx", "label", "predict", "radius", "correct")
DIGITS = 18  # of an index, a class or a count
FLAGS = {"true": 1, "false": 0}
CLOCK = re.compile(r"(?:(?P<days>-?\d+) days?, )?(?P<h>\d+):(?P<m>\d\d):(?P<s>\d\d(?:\.\d+)?)")


@dataclass(frozen=True)
class FieldLog:
    """The rows of a log as they stand there, contradictions included.

    Attributes:
        index, label, predict: (n,) int64.
        radius: (n,) float64; may be NaN, infinite or negative.
        radius_text: the radii as written, which shows their rounding.
        correct: (n,) int64: 0 or 1 (also of False and True), or what else the file holds.
        seconds: (n,) float64, NaN where there is no time or an unreadable one.
        columns: further columns, as text.
        notes: what the reader left out or could not read.
    """

    path: Path
    index: NDArray[np.int64]
    label: NDArray[np.int64]
    predict: NDArray[np.int64]
    radius: NDArray[np.float64]
    radius_text: tuple[str, ...]
    correct: NDArray[np.int64]
    seconds: NDArray[np.float64]
    columns: dict[str, list[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.index)


def read_field_log(path: str | Path) -> FieldLog:
    """All whole rows of a log; columns are found by name, in any order, with or without spaces around the tabs.

    A broken last line is left out, and so is a header that is repeated; both stand in `notes`.

    Raises:
        UserError: no such file, not a log, an empty one, or a broken line that is not the last.
    """
    path = Path(path)
    text, notes = _text(path), []
    lines = text.split("\n")
    whole = lines[-1] == ""
    lines = lines[:-1] if whole else lines
    names = [cell.strip() for cell in lines[0].split("\t")] if lines else []
    missing = [name for name in NEEDED if name not in names]
    if missing:
        _refuse(path, f"its first line names no column {', '.join(missing)}")
    if len(set(names)) < len(names):
        _refuse(path, "its first line names a column twice")
    rows: list[dict[str, str]] = []
    for number, line in enumerate(lines[1:], start=2):
        cells = [cell.strip() for cell in line.split("\t")]
        last = number == len(lines)
        if cells == names:
            notes.append(f"line {number} repeats the header: two logs joined?")
            continue
        if cells == [""]:
            continue
        # Without its line end a row may have lost digits of its last cell, and nobody could tell.
        torn = last and not whole and names[-1] in NEEDED
        problem = f"{len(cells)} columns, the header {len(names)}" if len(cells) != len(names) else None
        row = dict(zip(names, cells))
        problem = problem or _unreadable(row) or ("no line end, so that its last cell may be cut" if torn else None)
        if problem and not last:
            _refuse(path, f"line {number} has {problem}")
        if problem:
            notes.append(f"the last line is broken ({problem}) and left out: {len(rows)} whole rows")
            continue
        rows.append(row)
    if not rows:
        raise UserError(f"{path} holds no row", where="certificate log", fix="a log with at least one whole line")
    seconds = np.array([parse_seconds(row["time"]) if "time" in names else np.nan for row in rows])
    if "time" not in names:
        notes.append("there is no column `time`")
    elif np.isnan(seconds).any():
        notes.append(f"{int(np.isnan(seconds).sum())} times are neither seconds nor H:MM:SS")
    further = [name for name in names if name not in (*NEEDED, "time")]
    return FieldLog(
        path,
        *(np.array([_whole(row[name]) for row in rows], dtype=np.int64) for name in NEEDED[:3]),
        radius=np.array([float(row["radius"]) for row in rows]),
        radius_text=tuple(row["radius"] for row in rows),
        correct=np.array([_flag(row["correct"]) for row in rows], dtype=np.int64),
        seconds=seconds,
        columns={name: [row[name] for row in rows] for name in further},
        notes=tuple(notes),
    )


def is_ours(path: str | Path) -> bool:
    """Whether a log is one of certtrain's own, with counts of votes or a status per radius.

    Raises:
        UserError: no such file, not text, or an empty one.
    """
    names = _text(Path(path)).split("\n", 1)[0].split("\t")
    further = names[len(HEADER) :]
    ours = "count_top" in further or any(name.startswith("status@") for name in further)
    return tuple(names[: len(HEADER)]) == HEADER and ours


def parse_seconds(text: str) -> float:
    """Seconds of `15.4`, `0:00:13.736080`, `0:00:13` or `1 day, 2:00:00`; NaN of anything else."""
    clock = CLOCK.fullmatch(text.strip())
    if clock:
        hours = 24 * float(clock["days"] or 0) + float(clock["h"])
        return 3600.0 * hours + 60.0 * float(clock["m"]) + float(clock["s"])
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _text(path: Path) -> str:
    if path.is_dir():
        raise UserError(f"{path} is a folder", where="certificate log", fix="name a log in it, or a run directory")
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"there is no file {path}", where="certificate log", fix="check the name") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {error}", where="certificate log", fix="a readable file") from error
    except UnicodeDecodeError:
        _refuse(path, "it is not text")
    if not text.strip():
        raise UserError(f"{path} is empty", where="certificate log", fix="a log with at least one whole line")
    return text.replace("\r\n", "\n")


def _unreadable(row: dict[str, str]) -> str | None:
    """What of a row's first columns is no number."""
    for name in NEEDED[:3]:
        try:
            _whole(row[name])
        except (ValueError, OverflowError):
            return f"{name} {row[name]!r}, no whole number of at most {DIGITS} digits"
    for name, read in (("radius", float), ("correct", _flag)):
        try:
            read(row[name])
        except (ValueError, OverflowError):
            return f"{name} {row[name]!r}, no number"
    return None


def _flag(text: str) -> int:
    return FLAGS[text.lower()] if text.lower() in FLAGS else _whole(text)


def _whole(text: str) -> int:
    """A whole number, also as `7.0` or `7e0`, which a float would hold only up to 2^53."""
    try:
        value = int(text)
    except ValueError:
        value = int(float(text))
        if value != float(text):
            raise
    if abs(value) >= 10**DIGITS:  # so that differences of two fit in 64 bits
        raise ValueError(text)
    return value


def _refuse(path: Path, why: str) -> NoReturn:
    raise UserError(
        f"{path} is not a certificate log: {why}",
        where="certificate log",
        fix="tab separated columns idx, label, predict, radius, correct and time, named by the first line",
    )
