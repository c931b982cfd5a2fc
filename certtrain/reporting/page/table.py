"""What a table of the page shows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Cells under a caption; the first of a row is the row's header.

    Attributes:
        caption: what it shows.
        header: one cell per column.
        rows: of as many cells.
        words: columns of text, set from the left; the others are figures.
        strong: a column to stand out.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str | int]]
    words: Collection[int] = ()
    strong: int | None = None
