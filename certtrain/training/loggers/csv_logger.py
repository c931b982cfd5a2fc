"""metrics.csv: our own append-only logger, because Lightning's deletes the file when a directory is reused."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from certtrain.errors import UserError
from certtrain.system.files import append_text, write_text_atomic
from certtrain.training.loggers.run_logger import RunLogger

FLUSH_SECONDS = 1.0


class NoExperiment(UserError, AttributeError):
    """Asked for what `metrics.csv` is not; for `hasattr`, an attribute that is not there."""


class CSVMetrics(RunLogger):
    """Appends one row `step,epoch,<metrics>` per call to a wide CSV file; a cell without a value is empty.

    `step` is the number of completed optimiser steps, or, for what Lightning logs itself, one less: its index of the
    step. A metric that appears for the first time adds a column, for which the file is rewritten in one step; no row is
    ever lost by it. Rows reach the disk with the first row that comes a second later, with `save`, and when training
    ends, however it ends.

    Args:
        path: the file, `RunDirectory.metrics`. What is in it stays; a last line torn by a kill is dropped.

    Raises:
        UserError: the file cannot be written, or is not such a CSV.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self._columns: list[str] | None = None
        self._waiting: list[dict[str, str]] = []
        self._flushed = time.monotonic()
        self._resumed_at: int | None = None

    @property
    def name(self) -> str:
        return self.path.resolve().parent.name

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @property
    def experiment(self) -> Any:
        """None: a callback that writes pictures or texts needs another logger beside this one.

        Raises:
            NoExperiment: always.
        """
        raise NoExperiment(
            "a callback asks for trainer.logger.experiment, and no logger that has one is chosen",
            where="configuration groups callbacks and logger",
            fix="logger=tensorboard, logger=wandb, or whichever the callback writes for",
        )

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a row. Values keep full precision; an integral epoch is written as an integer."""
        row = {"step": "" if step is None else str(step)}
        for name, value in metrics.items():
            number = float(value)
            row[name] = str(int(number)) if isinstance(value, int) or _is_epoch(name, number) else repr(number)
        self._waiting.append(row)
        if time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self.save()

    @rank_zero_only
    def save(self) -> None:
        """Write every waiting row to the file."""
        self._flushed = time.monotonic()
        if not self._waiting:
            return
        columns = self._load()
        new = dict.fromkeys(name for row in self._waiting for name in row if name not in columns)
        if self._resumed_at is not None:
            self._replace_repeated()
        if new or not self.path.exists():
            rows = self._rows() + self._waiting
            self._columns = [*columns, *new]
            self._rewrite(rows)
        else:
            append_text(self.path, _text(columns, self._waiting, header=False), where="metrics.csv", sync=False)
        self._waiting = []

    @rank_zero_only
    def after_save_checkpoint(self, checkpoint_callback: object) -> None:
        self.save()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()

    @rank_zero_only
    def resume_from(self, completed_steps: int) -> int:
        """Drop the rows beyond a checkpoint, which the resumed training writes again; the count of them.

        Rows of the very step may have been written before or after the checkpoint: they stay until the resumed
        training logs the same metrics there. To be called once the checkpoint has been read, so that a run that cannot
        be resumed loses nothing.
        """
        self.save()
        self._resumed_at = completed_steps
        if not self.path.exists():
            return 0
        self._load()
        rows = self._rows()
        kept = [row for row in rows if not row["step"] or int(row["step"]) <= completed_steps]
        if len(kept) < len(rows):
            self._rewrite(kept)
        return len(rows) - len(kept)

    def _replace_repeated(self) -> None:
        """Drop kept rows at the resumed step (or its index, one less) that the waiting rows repeat."""
        again = {_what(row) for row in self._waiting}
        rows = self._rows()
        kept = [row for row in rows if _what(row) not in again]
        if len(kept) < len(rows):
            self._rewrite(kept)
        last = max((int(row["step"]) for row in self._waiting if row["step"]), default=0)
        if last > (self._resumed_at or 0):
            self._resumed_at = None

    def _load(self) -> list[str]:
        """The columns; the first time they are read from an existing file, mending a torn last line."""
        if self._columns is None:
            self._columns = ["step", "epoch"]
            text = self._read()
            if text:
                whole = text[: text.rfind("\n") + 1]
                header = next(csv.reader(io.StringIO(whole)), [])
                if header[:2] != self._columns:
                    raise UserError(f"{self.path} is no metrics file of certtrain", where="metrics.csv", fix="move it")
                self._columns = header
                if whole != text:
                    write_text_atomic(self.path, whole)
        return self._columns

    def _read(self) -> str:
        try:
            return self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {self.path}: {error}", where="metrics.csv", fix="move it away") from error

    def _rows(self) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(self._read())))

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        assert self._columns is not None
        write_text_atomic(self.path, _text(self._columns, rows, header=True))


def _text(columns: list[str], rows: list[dict[str, str]], *, header: bool) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _what(row: Mapping[str, str]) -> tuple[str, frozenset[str]]:
    """The step and the names of a row's metrics."""
    return row["step"], frozenset(name for name, value in row.items() if value)


def _is_epoch(name: str, number: float) -> bool:
    return name == "epoch" and number.is_integer()
