"""Charts: where their points lie, steps, bands, what a reader without eyes or colours gets, and what is refused."""

import re
from itertools import pairwise

import numpy as np
import pytest
from hostile import texts
from html_reader import Reader
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import html

from certtrain.reporting.page.charts import BOTTOM, LEFT, LINES, RIGHT, SEVERAL, SMALL, TOP, Series, chart

WIDTH, HEIGHT = SMALL["only"]
EDGES = {(LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, TOP)}


def made(*series, **options):
    return chart(series, **{"title": "t", "x_label": "x", "y_label": "y", **options})


def styled(drawing, *wanted):
    return [path["d"] for path in drawing.paths if all(text in path["style"] for text in wanted)]


def lines_of(found, name="s0"):
    return styled(found.drawings[0], f"stroke: var(--{name})", "fill: none")


def points(d):
    return [tuple(map(float, pair)) for pair in re.findall(r"([\d.-]+) ([\d.-]+)", d)]


def line(x, y, **more):
    return Series("a", np.array(x, dtype=float), np.array(y, dtype=float), **more)


def test_ends_of_a_line_lie_on_the_axes():
    [d] = lines_of(made(line([0, 10], [0, 100]), y_range=(0, 100)))
    assert set(points(d)) == EDGES


def test_steps_hold_down_to_the_point_before_or_up_to_the_next():
    before, after = (points(lines_of(made(line([0, 1, 2], [9, 5, 1], step=step)))[0]) for step in ("pre", "post"))
    assert [b[0] == a[0] for a, b in pairwise(before)] == [True, False, True, False]
    assert [b[0] == a[0] for a, b in pairwise(after)] == [False, True, False, True]


def test_a_band_holds_its_line_and_is_drawn_under_it():
    low, high = np.array([1.0, 0.5]), np.array([3.0, 2.0])
    found = made(line([0, 1], [2, 1], low=low, high=high, step="pre"), y_range=(0, 4))
    [band] = styled(found.drawings[0], "fill: var(--s0)")
    y = HEIGHT - BOTTOM - np.array([0.5, 2.0]) / 4 * (HEIGHT - TOP - BOTTOM)
    assert sorted({p[1] for p in points(band)}) == pytest.approx(sorted(y.tolist()), abs=0.1)
    order = [path["d"] for path in found.drawings[0].paths]
    assert order.index(band) < order.index(lines_of(found)[0])


def test_points_that_are_not_finite_are_left_out_and_one_alone_is_seen():
    found = made(line([0, 1, 2], [np.nan, 3, np.inf]))
    assert len(styled(found.drawings[0], "stroke: var(--s0)", "stroke-linecap: round")) == 1
    assert made(line([0, 1, 2], [1, 2, 1.7e308])).alternative.endswith("a: last 2")
    with pytest.raises(ValueError, match="nothing to draw"):
        made(line([0], [np.nan]))


def test_long_lines_keep_their_peaks():
    y = np.random.default_rng(0).random(50_000)
    y[12_345] = 7
    found = points(lines_of(made(line(np.arange(50_000), y), y_range=(0, 7)))[0])
    assert min(p[1] for p in found) == TOP
    assert len(found) <= 4 * WIDTH


def test_limits_are_grey_and_lines_differ_without_colour():
    limit = Series("<b>", np.array([0.0, 1.0]), np.array([2.0, 3.0]), upper=True)
    found = made(*[line([0, 1], [1, 2])] * len(LINES), limit)
    assert len(lines_of(found, "upper")) == 1
    assert [colour for _, colour, _ in found.keys] == [*(name for name, _ in LINES), "upper"]
    assert len({dashes for _, _, dashes in found.keys}) == len(LINES) + 1
    read = Reader(html("chart", found))
    assert "<b>" in read.text
    [image] = [a for _, a in read.elements if a.get("role") == "img"]
    assert image["aria-label"].startswith("y against x. a: last 2")
    assert all(a["aria-hidden"] == "true" for a in read.of("svg"))


def test_text_is_text_in_the_page_s_colours_and_font():
    found = made(line([0, 20_000], [0, 1.5]), x_label="optimiser $steps_{", y_label="loss")
    shown = {text["text"] for text in found.drawings[0].texts}
    assert {"optimiser $steps_{", "loss", "0", "10,000", "0.5"} <= shown
    made_of = str(found.drawings)
    assert "font" not in made_of
    assert "#" not in made_of
    assert {name for name, _ in Reader(html("chart", found)).elements} == (
        {"figure", "figcaption", "div", "svg", "path", "text", "ul", "li"}
    )


def test_a_chart_is_the_same_whatever_was_drawn_before():
    one, other = [line([0, 3], [0, 1])], [line([5, 900], [7, 1e5]), line([0, 1], [1, 2], step="post")]
    first = made(*one)
    made(*other, x_label="a name that takes more than one line " * 5)
    assert made(*one) == first


def test_several_sizes_show_the_same():
    found = made(line([0, 1], [1, 2]), sizes=SEVERAL)
    assert {drawing.name: (drawing.width, drawing.height) for drawing in found.drawings} == SEVERAL
    read = Reader(html("chart", found))
    assert len([a for _, a in read.elements if a.get("role") == "img"]) == 1  # said once
    assert [a["class"] for a in read.of("svg")][: len(SEVERAL)] == list(SEVERAL)


@settings(deadline=None, max_examples=15)
@given(texts, texts)
def test_any_name_can_stand_at_an_axis(x, y):
    found = made(line([0, 1], [1, 2]), x_label=x, y_label=y + "\uffff")
    assert {name for name, _ in Reader(html("chart", found)).elements} >= {"svg", "text"}


@settings(deadline=None, max_examples=25)
@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=5), st.floats(0, 1e308))
def test_any_numbers_can_be_drawn(y, last):
    values = np.array(y)
    if (np.abs(values) < 1e300).any() and last < 1e300:
        assert made(line(np.linspace(0, last, len(y)), values)).drawings
