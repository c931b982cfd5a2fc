"""Where tables and messages of the commands go."""

from __future__ import annotations

import sys

from rich.console import Console

WIDTH = 100  # of what is piped or redirected: every table fits it


def console() -> Console:
    """The terminal at its own width, or a file at 100 columns."""
    return Console(width=None if sys.stdout.isatty() else WIDTH)


def print_line(console: Console, text: str) -> None:
    """One line as it is: no wrapping, no colours for numbers."""
    console.print(text, highlight=False, soft_wrap=True)
