"""HTML from calls: nothing that is not markup becomes a tag."""

import pytest
from html_reader import Reader
from hypothesis import given
from hypothesis import strategies as st

from certtrain import escape
from certtrain.reporting.page.markup import Markup, definitions, details, join, section, table, tag


@given(st.text(), st.text())
def test_any_text_comes_through_as_text(text, other):
    read = Reader(tag("p", text, title=other))
    assert [name for name, _ in read.elements] == ["p"]
    assert read.of("p")[0]["title"] == escape.terminal(other)
    assert "".join(read.words) == escape.terminal(text)


def test_attributes_and_children():
    assert tag("td", 3, 0.5, None, ["<", tag("b", "&")], class_="a", colspan=2, hidden=True, id=None, open=False) == (
        '<td class="a" colspan="2" hidden>30.5&lt;<b>&amp;</b></td>'
    )
    assert tag("meta", name="x", http_equiv='"y"') == '<meta name="x" http-equiv="&quot;y&quot;">'
    assert isinstance(join("<", Markup("<br>")), Markup)
    assert join("<", Markup("<br>")) == "&lt;<br>"
    with pytest.raises(ValueError, match="has no children"):
        tag("img", "text")


def test_tables_say_what_their_cells_are():
    made = table(["class", "n"], [["<i>", 3], ["b", 4]], caption="what <it> shows", words=[0], strong=1)
    read = Reader(made)
    assert read.table("class") == [{"class": "<i>", "n": "3"}, {"class": "b", "n": "4"}]
    assert [a["scope"] for a in read.of("th")] == ["col", "col", "row", "row"]
    assert {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": "what <it> shows"} in read.of("div")
    assert read.of("td") == [{"class": "strong"}] * 2


def test_lists_parts_and_what_a_click_opens():
    read = Reader(join(definitions([("a", 1), ("b", None), ("c", "")]), details("more", "x", opened=True)))
    assert read.text == "a 1 more x"
    assert read.of("details") == [{"open": None}]
    read = Reader(section("id", ["Title ", tag("code", "x")], tag("p", "y")))
    assert read.of("section") == [{"aria-labelledby": "id-title"}]
    assert read.of("h2") == [{"id": "id-title"}]
