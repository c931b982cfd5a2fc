"""Names and reasons as somebody who means harm would write them, and what each format makes of them."""

import re

from hypothesis import strategies as st

ESCAPES = ["\x1b[2J", "\x1b]8;;http://x\x07", "\x9b31m", "\r", "\b", "\x00", "\u202e", "\u2028", "\ud800", "\x7f"]
MARKS = ["[bold]", "[/]", "[link=x]", ":smile:", "$x$", "$", "_", "__", "`", "``", "|", "\\|", "\\", "\\\\", "*", "**"]
BLOCKS = [
    "\n",
    "\n\n",
    "\n# ",
    "\n- ",
    "1. ",
    "# ",
    "<script>",
    "</td>",
    "<!--",
    "&amp;",
    "&lt",
    "![a](b)",
    "](x)",
    "~~",
]
TEX = ["\\input{x}", "\\\\", "%", "}", "{", "^^M", "^", "&", "~", "\\end{table}", "[1ex]", "*"]
CELLS = ["=1+1", "+1", "-1", "@SUM", "\t=1", '"', ",", ";", "'", "\uff1d1", " =1"]

texts = st.lists(
    st.sampled_from([*ESCAPES, *MARKS, *BLOCKS, *TEX, *CELLS]) | st.text(st.characters(exclude_categories=())),
    max_size=5,
).map("".join)
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def steers(text: str) -> list[str]:
    """What in a text a terminal or a reader's program would obey; line breaks and tabs are allowed."""
    return CONTROL.findall(text)
