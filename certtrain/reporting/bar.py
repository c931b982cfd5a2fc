"""The one bar of long work: what it is, the share done, how many of how many, the rate, the time spent and left."""

from __future__ import annotations

import time
from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

DRAWN_EVERY = 0.1  # seconds: work says how far it is far more often than one could read


class _Label(ProgressColumn):
    def render(self, task: Task) -> Text:
        verb, _, name = task.description.partition(" ")
        return Text.assemble(verb, " ", (name, "bold")) if name else Text(verb)


class _Count(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{int(task.completed):,}/{int(task.total or 0):,} {task.fields['unit']}")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        if speed < 1:
            return Text(f"{1 / speed:,.0f} s each")
        return Text(f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.1f}/s")


class _Times(ProgressColumn):
    def render(self, task: Task) -> Text:
        spent, left = task.finished_time if task.finished else task.elapsed, task.time_remaining
        found = f"{_clock(spent or 0)} elapsed"
        return Text(found if left is None or task.finished else f"{found}, {_clock(left)} left")


class _Lines(Progress):
    """The bar, and below it what is done now."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if text := task.fields["text"]:
                yield Text(f"  {text}", style="dim", no_wrap=True, overflow="ellipsis")


class Bar:
    """A bar of `total` units of work; nothing is drawn where there is no terminal.

        certify crown ━━━━━━━━━━━━ 42 %  150/360 examples  12/s  0:12 elapsed, 0:17 left
          crown at 0.15; certified 81.3% so far

    Args:
        console: where to draw.
        label: what it is; all but the first word is set in bold.
        total: units of work.
        unit: what they are called.
    """

    def __init__(self, console: Console, label: str, total: int, unit: str = "examples") -> None:
        columns = (_Label(), BarColumn(bar_width=16), TextColumn("{task.percentage:>3.0f} %"))
        drawn = {"console": console, "disable": not console.is_terminal, "refresh_per_second": 4}
        self._progress = _Lines(*columns, _Count(), _Rate(), _Times(), **drawn)
        self._task = self._progress.add_task(label, total=total, text="", unit=unit)
        self._drawn = -DRAWN_EVERY

    def update(self, done: float, text: str | None = None, label: str | None = None) -> None:
        """How far it is.

        Args:
            done: units.
            text: below the bar; None: as before.
            label: another one.
        """
        new = {} if text is None else {"text": text}
        self._progress.update(self._task, completed=done, description=label, **new)

    def often(self, done: float, text: str) -> None:
        """As `update`, for those who say it more often than is worth drawing."""
        if (now := time.monotonic()) - self._drawn >= DRAWN_EVERY:
            self._drawn = now
            self.update(done, text)

    def start(self) -> None:
        """Draw, and again four times a second."""
        self._progress.start()

    def stop(self) -> None:
        """Leave the bar as it is, and the terminal as it was."""
        self._progress.stop()

    def __enter__(self) -> Bar:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
