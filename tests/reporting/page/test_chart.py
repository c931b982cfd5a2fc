"""Charts: where their points lie, steps, bands, ticks, and what is refused."""

import re

import numpy as np
import pytest
from html_reader import Reader
from hypothesis import given
from hypothesis import strategies as st

from certtrain.reporting.page.chart import BOTTOM, HEIGHT, LEFT, MOST, RIGHT, TOP, WIDTH, Series, chart, ticks


def drawn(*series, **options):
    return Reader(chart(series, title="t", x_label="x", y_label="y", **options))


def paths(read, kind):
    return [a["d"] for a in read.of("path") if a.get("class", "").startswith(kind)]


def line(x, y, **more):
    return Series("a", np.array(x, dtype=float), np.array(y, dtype=float), **more)


def test_ends_of_a_line_lie_on_the_axes():
    [d, _] = paths(drawn(line([0, 10], [0, 100]), y_range=(0, 100)), "line")
    assert d == f"M{LEFT} {HEIGHT - BOTTOM}L{WIDTH - RIGHT} {TOP}"


def test_steps_hold_down_to_the_point_before_or_up_to_the_next():
    before, after = (paths(drawn(line([0, 1, 2], [9, 5, 1], step=step)), "line")[0] for step in ("pre", "post"))
    assert re.sub(r"[\d. ]", "", before) == "MVHVH"
    assert re.sub(r"[\d. ]", "", after) == "MHVHV"


def test_a_band_is_closed_and_comes_first():
    read = drawn(line([0, 1], [2, 1], low=np.array([1.0, 0.5]), high=np.array([3.0, 2.0]), step="pre"))
    [band] = paths(read, "band")
    assert band.endswith("Z")
    assert re.sub(r"[\d. ]", "", band) == "MVHLHVZ"


def test_points_that_are_not_finite_are_left_out_and_one_alone_is_seen():
    [d, _] = paths(drawn(line([0, 1, 2], [np.nan, 3, np.inf])), "line")
    assert d.endswith("h6")
    with pytest.raises(ValueError, match="nothing to draw"):
        drawn(line([0], [np.nan]))


def test_long_lines_keep_their_peaks():
    y = np.zeros(5000)
    y[1234] = 7
    [d, _] = paths(drawn(line(np.arange(5000), y), y_range=(0, 7)), "line")
    assert f" {TOP}L" in d
    assert d.count("L") <= 2 * MOST


def test_limits_are_grey_and_names_are_escaped():
    read = drawn(line([0, 1], [1, 2]), Series("<b>", np.array([0.0, 1.0]), np.array([2.0, 3.0]), upper=True))
    assert [a["class"] for a in read.of("path") if "line" in a.get("class", "")] == ["line s0", "line upper"] * 2
    assert "<b>" in read.text
    assert read.of("svg")[0]["role"] == "img"
    assert "last 3" in read.of("svg")[0]["aria-label"]


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_inside_and_neither_few_nor_many(low, width):
    found = ticks(low, low + width)
    assert 2 <= len(found) <= 7
    slack = 1e-6 * width
    assert all(low - slack <= value <= low + width + slack for value in found)
    assert ticks(0, 100) == [0, 20, 40, 60, 80, 100]
    assert ticks(0, 0.15) == pytest.approx([0, 0.05, 0.1, 0.15])


def test_constant_lines_have_an_axis():
    assert drawn(line([5, 5], [0, 0])).text
    assert drawn(line([0, 5], [0.5, 0.5])).text
