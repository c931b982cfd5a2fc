"""Where tables and messages of the commands go."""

from __future__ import annotations

import sys

from rich.console import Console

WIDTH = 100  # of what is piped or redirected: every table fits it


def console() -> Console:
    """The terminal at its own width, or a file at 100 columns."""
    return Console(width=None if sys.stdout.isatty() else WIDTH)
