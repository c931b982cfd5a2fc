"""Text that somebody else wrote, harmless in each format that shows it: one function per format, and none elsewhere.

Names of runs, rows, data sets, features and classes, overrides and reasons come from files that a stranger may have
sent. What would steer the reader's program shows as text instead: `\\x1b` for the byte that begins a terminal's
commands, `\\u202e` for the mark that turns the direction of writing.
"""

from __future__ import annotations

import re
import textwrap

# Control characters, directions of writing, half characters (no encoder takes them), and the two that no font has.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
_BREAKS = re.compile("[\t\n\x0b\x0c\r\x1c-\x1e\x85\u2028\u2029]+")
_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}"}
_TEX |= {">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$", "–": "--", "[": "{[}", "*": "{*}"}
_TEX |= {character: f"\\{character}" for character in "_%&#${}"}
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # the last four: their full-width forms
_MARKDOWN = re.compile(r"[\\`*\[\]<>|&~$]|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])")
_NUMBERED = re.compile(r"^(\d+)(?=[.)])")


def terminal(text: str) -> str:
    """Text of several lines, with nothing in it that a terminal obeys."""
    return _STEERING.sub(_named, text)


def one_line(text: object) -> str:
    """Text for one line of a table, a log or a comment: line breaks and tabs become a space."""
    return terminal(_BREAKS.sub(" ", str(text)))


def latex(text: object) -> str:
    """Text of a paragraph or a cell, also where an optional argument may stand before it."""
    return "".join(_TEX.get(character, character) for character in one_line(text))


def csv(value: object) -> object:
    """A cell: numbers as they are; of text one line that no spreadsheet takes for a formula (an apostrophe before)."""
    if not isinstance(value, str):
        return value
    text = one_line(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text


def markdown(text: object) -> str:
    """Text within a line: of a paragraph that something else begins, or of a cell of a table."""
    return _MARKDOWN.sub(lambda found: f"\\{found[0]}", one_line(text).strip())


def markdown_item(text: object) -> str:
    """Text that begins a line or an item of a list, where a few more signs mean something."""
    return _NUMBERED.sub(r"\1\\", re.sub(r"^(?=[#+=-])", r"\\", markdown(text)))


def markdown_code(text: object) -> str:
    """The same as a span of code; a bar is escaped for the cells of tables, which alone take it back."""
    shown = one_line(text).replace("|", "\\|")
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    pad = " " if "`" in shown[:1] + shown[-1:] or shown.isspace() else ""
    return f"{fence}{pad}{shown}{pad}{fence}" if shown else ""


def figure(text: object, width: int = 60) -> str:
    """A label of a figure: no mathematics between dollars, wrapped; one that begins with `_` is not left out."""
    shown = "\n".join(textwrap.wrap(one_line(text), width, break_on_hyphens=False)).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def _named(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
