"""Where tables and messages of the commands go."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import IO

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook
from rich.segment import Segment

from certtrain.system import escape

WIDTH = 100  # of what is piped or redirected: every table fits it


def console(file: IO[str] | None = None) -> Console:
    """The terminal at its own width, or a file at 100 columns (also `file`, where one is given).

    What is printed is text, whoever wrote it: no markup in brackets, no emoji in colons, no commands of the terminal.
    """
    width = None if file is None and sys.stdout.isatty() else WIDTH
    made = Console(file=file, width=width, markup=False, emoji=False)
    made.push_render_hook(_Harmless())
    return made


def print_line(console: Console, text: str, style: str | None = None) -> None:
    """One line as it is: no wrapping, no colours for numbers."""
    console.print(text, style=style, highlight=False, soft_wrap=True)


class _Harmless(RenderHook):
    """Everything that is printed goes through `_Shown`."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Shown(renderable) for renderable in renderables]


class _Shown:
    """A renderable whose text cannot steer the terminal; styles and the console's own commands stay."""

    def __init__(self, renderable: ConsoleRenderable) -> None:
        self.renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in console.render(self.renderable, options):
            yield segment if segment.control else Segment(escape.terminal(segment.text), segment.style)
