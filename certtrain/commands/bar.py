"""A progress bar of rows of a log."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from certtrain.escape import one_line


class Bar:
    """`label ----- done/total text elapsed remaining`; nothing is drawn where there is no terminal."""

    def __init__(self, console: Console, label: str, total: int) -> None:
        self._progress = Progress(
            TextColumn("{task.fields[verb]}", markup=False),
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[text]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not console.is_terminal,
        )
        verb, _, name = label.partition(" ")
        self._task = self._progress.add_task(one_line(name), verb=verb, total=total, text="")

    def update(self, done: int, text: str = "") -> None:
        """How far it is, and what to say beside it."""
        self._progress.update(self._task, completed=done, text=one_line(text))

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()
