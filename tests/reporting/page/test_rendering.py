"""HTML from templates: no value becomes a tag, none is missing, and tables say what their cells are."""

import pytest
from html_reader import Reader
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError
from makers import html

from certtrain.reporting.page.certificate import Notice
from certtrain.reporting.page.gallery import Group, Item
from certtrain.reporting.page.images import Picture
from certtrain.reporting.page.rendering import environment, render
from certtrain.reporting.page.table import Table
from certtrain.system import escape


@given(st.text(), st.text())
def test_any_text_comes_through_as_text(text, other):
    read = Reader(escape.terminal(html("table", Table(other, [text, "n"], [[text, 1]]))))
    assert [name for name, _ in read.elements if name not in ("thead", "tbody")] == [
        *("figure", "figcaption", "div", "table"),
        *("tr", "th", "th", "tr", "th", "td"),
    ]
    assert read.of("div")[0]["aria-label"] == escape.terminal(other)
    assert read.tables == [[[escape.terminal(text), "n"], [escape.terminal(text), "1"]]]


def test_what_steers_a_program_is_named_wherever_it_comes_from(monkeypatch):
    monkeypatch.setitem(environment().globals, "joined", "\x1b".join)
    monkeypatch.setattr(environment(), "loader", None)
    text = environment().from_string("{{ text }}{{ joined(['a', 'b']) }}{{ '\u202e' ~ text }}")
    monkeypatch.setattr(environment(), "get_template", lambda name: text)
    assert render("any", text="<\x07>") == "&lt;\\x07&gt;a\\x1bb\\u202e&lt;\\x07&gt;"


def test_a_value_that_is_missing_is_an_error():
    with pytest.raises(UndefinedError):
        render("page.html", mark="x")


def test_tables_say_what_their_cells_are():
    read = Reader(html("table", Table("what <it> shows", ["class", "n"], [["<i>", 3], ["b", 4]], (0,), 1)))
    assert read.table("class") == [{"class": "<i>", "n": "3"}, {"class": "b", "n": "4"}]
    assert [a["scope"] for a in read.of("th")] == ["col", "col", "row", "row"]
    assert {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": "what <it> shows"} in read.of("div")
    assert [a["class"].strip() for a in read.of("td")] == ["strong"] * 2


def test_notices_and_pictures():
    made = environment().from_string(
        '{% from "macros.html" import notice %}{{ notice(n.title, n.text, n.items, n.bad) }}'
    )
    read = Reader(made.render(n=Notice("<t>", items=["<a>", "b"], bad=True)))
    assert read.text == "<t> <a> b"
    assert read.of("div") == [{"class": "notice bad", "role": "note"}]
    item = Item('"x"', ["<y>"], [Picture("AA==", '">', 4, 5)])
    read = Reader(html("group", Group("t", items=[item])))
    assert read.of("img") == [{"src": "data:image/png;base64,AA==", "alt": '">', "width": "4", "height": "5"}]
    assert read.text == 't "x" <y>'
