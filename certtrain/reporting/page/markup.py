"""HTML from nested calls: whatever is not markup yet is escaped, so that no name or value can become a tag."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from certtrain.escape import html

VOID = ("meta", "br", "img", "hr")  # elements that have no end tag


class Markup(str):
    """Text that is HTML already; made by `tag` and `join` alone."""

    __slots__ = ()


Node: TypeAlias = "str | int | float | None | Iterable[Node]"
Attribute = str | int | float | bool | None


def tag(name: str, /, *children: Node, **attributes: Attribute) -> Markup:
    """`<name attributes>children</name>`, children escaped unless they are markup.

    Args:
        name: of the element, which is never a user's text.
        children: text, numbers, markup, or lists of such; None is left out.
        attributes: `class_="a"` is `class`, `aria_label` is `aria-label`; False and None are left out, True has no
            value.

    Raises:
        ValueError: children of an element that cannot have any.
    """
    given = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in VOID:
        if children:
            raise ValueError(f"<{name}> has no children")
        return Markup(f"<{name}{given}>")
    return Markup(f"<{name}{given}>{join(*children)}</{name}>")


def join(*children: Node) -> Markup:
    """The children one after the other, escaped unless they are markup."""
    return Markup("".join(_node(child) for child in children))


def table(
    header: Sequence[Node],
    rows: Iterable[Sequence[Node]],
    *,
    caption: str,
    words: Sequence[int] = (),
    strong: int | None = None,
) -> Markup:
    """A table that scrolls in its own box where it is too wide; the first cell of a row is the row's header.

    Args:
        header: one cell per column.
        rows: cells.
        caption: what the table shows; it also names the box.
        words: columns of text, set from the left; the others are figures.
        strong: a column to stand out.
    """

    def classes(column: int) -> str | None:
        names = ["words"] * (column in words) + ["strong"] * (column == strong)
        return " ".join(names) or None

    head = tag("tr", [tag("th", cell, scope="col", class_=classes(i)) for i, cell in enumerate(header)])
    body = [
        tag(
            "tr",
            [
                tag("td", cell, class_=classes(i)) if i else tag("th", cell, scope="row", class_=classes(0))
                for i, cell in enumerate(row)
            ],
        )
        for row in rows
    ]
    return captioned(tag("table", tag("thead", head), tag("tbody", body)), caption)


def captioned(made: Markup, caption: str) -> Markup:
    """A table under its caption, which stays in sight while the table scrolls in its box."""
    box = tag("div", made, class_="scroll", tabindex=0, role="region", aria_label=caption)
    return tag("figure", tag("figcaption", caption), box, class_="tabular")


def definitions(pairs: Iterable[tuple[Node, Node]]) -> Markup:
    """A list of terms and what they are; pairs without a value are left out."""
    return tag(
        "dl", [tag("div", tag("dt", term), tag("dd", value)) for term, value in pairs if value not in (None, "")]
    )


def details(summary: Node, *content: Node, opened: bool = False) -> Markup:
    """Content that a click opens."""
    return tag("details", tag("summary", summary), *content, open=opened)


def section(identifier: str, title: Node, *content: Node) -> Markup:
    """A part of the page under a heading of its own."""
    return tag("section", tag("h2", title, id=f"{identifier}-title"), *content, aria_labelledby=f"{identifier}-title")


def _node(child: Node) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return str(child)
    if isinstance(child, (str, int, float)):
        return html(child)
    return "".join(_node(item) for item in child)


def _attribute(key: str, value: Attribute) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html(value)}"'
