"""The one exception for mistakes a user can mend: what was wrong, where it was set, what to do."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable

MOST_CHARACTERS = 300  # of a list of options in a message


class UserError(Exception):
    """A mistake in the user's input. The command line prints it without a traceback and exits with status 2.

    Args:
        what: what is wrong, with the offending value.
        where: the configuration key, file or option that set it.
        fix: what to do about it.
    """

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        super().__init__(what)
        self.what, self.where, self.fix = what, where, fix

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.fix:
            lines.append(f"  fix:   {self.fix}")
        return "\n".join(lines)


class DiskFull(UserError):
    """A file could not be written whole because the disk, a quota or a limit has no room: not a mistake in the input.

    What was in the file before is still there, and once there is room the same command goes on.
    """


def in_one_line(message: str) -> str:
    """What a printed `UserError` says is wrong, in one line: without `where` and `fix`."""
    return " ".join(message.split("\n  where: ")[0].split("\n  fix:   ")[0].split())


def command_line(*words: object) -> str:
    """A command to be copied into a shell, each word quoted where it has to be."""
    return shlex.join(str(word) for word in words)


def nearest(word: str, options: Iterable[str]) -> str:
    """`did you mean a, b?` for a mistyped word, or the list of the options when nothing is near; of many the first."""
    options = sorted(set(options))
    close = difflib.get_close_matches(word, options, n=3, cutoff=0.5)
    if close:
        return f"did you mean {', '.join(close)}?"
    shown = options
    while len(", ".join(shown)) > MOST_CHARACTERS and len(shown) > 1:
        shown = shown[:-1]
    more = len(options) - len(shown)
    return f"available: {', '.join(shown)}{f' and {more} more' if more else ''}"
