"""Figures of logs: what is drawn is the data, formats, and what is refused or not overwritten."""

from dataclasses import replace

import numpy as np
import pytest
from claims import L2_BOUNDS, LINF, SMOOTHED, STAGED
from PIL import Image

from certtrain.errors import UserError
from certtrain.reporting.bootstrap import paired_difference
from certtrain.reporting.curve_figures import (
    COLOURS,
    DASHES,
    Line,
    certified_figure,
    difference_figure,
    probability_figure,
    risk_coverage_figure,
    save,
)
from certtrain.reporting.curves import Outcomes
from certtrain.reporting.palette import radius_axis


def line(seed=0, claim=SMOOTHED, step=1):
    rng = np.random.default_rng(seed)
    radius = np.where(rng.random(60) < 0.1, -1.0, rng.random(60))
    correct = (rng.random(60) < 0.9) & (radius >= 0)
    return Line(f"log {seed}", Outcomes(step * np.arange(60), np.zeros(60, int), radius, correct), claim)


def test_the_curve_is_certified_accuracy():
    one = line()
    axes = certified_figure([one]).axes[0]
    x, y = axes.lines[0].get_data()
    for radius, value in zip(x[:-1], y[:-1]):
        assert value == pytest.approx(100 * np.mean(one.examples.held >= radius))
    assert y[-1] == 0
    assert axes.get_xlabel() == radius_axis(SMOOTHED)
    [text] = [text.get_text() for text in axes.get_legend().get_texts()]
    assert text.startswith("log 0\nn = 60, ACR 0.")


def test_targets_and_grids_say_what_they_are_and_do_not_fall_to_zero():
    figure = certified_figure([line(claim=STAGED), line(1, L2_BOUNDS)])
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert texts == ["log 0\nn = 60, at target radii", "log 1\nn = 60, deterministic"]
    assert all(drawn.get_ydata()[-1] > 0 for drawn in figure.axes[0].lines)


def test_norms_never_share_axes():
    other = line(1)
    figure = certified_figure([line(), Line("b", other.examples, LINF)])
    assert [axes.get_xlabel() for axes in figure.axes] == [radius_axis(SMOOTHED), radius_axis(LINF)]
    assert [len(axes.lines) for axes in figure.axes] == [1, 1]
    with pytest.raises(UserError, match="two norms cannot share an axis"):
        risk_coverage_figure([line(), Line("b", other.examples, replace(SMOOTHED, threat="linf"))])


def test_different_images_never_share_axes():
    figure = certified_figure([line(), line(1), line(2, step=20)])
    assert [len(axes.lines) for axes in figure.axes] == [2, 1]
    assert "different images" in figure.get_suptitle()
    assert certified_figure([line(), line(1)]).get_suptitle() == ""
    with pytest.raises(UserError, match="different images do not compare: log 0: n = 60; log 2: n = 60"):
        risk_coverage_figure([line(), line(2, step=20)])


def test_risk_coverage():
    one = line()
    left, right = risk_coverage_figure([one]).axes
    coverage, risk = right.lines[0].get_data()
    at = int(np.argmin(abs(coverage - 50)))
    radius = np.sort(one.examples.certificate)[-round(coverage[at] / 100 * 60)]
    chosen = one.examples.certificate >= radius
    assert risk[at] == pytest.approx(100 * (1 - one.examples.correct[chosen].mean()))
    assert len(left.lines) == 2
    with pytest.raises(UserError, match="leaves no risk"):
        risk_coverage_figure([line(claim=L2_BOUNDS)])


def test_difference():
    a, b = line(), line(1)
    found = paired_difference(a.examples, b.examples, [0.0, 0.5], resamples=200)
    right = difference_figure(a, b, found).axes[1]
    assert right.lines[1].get_ydata() == pytest.approx(100 * found.certified)


def test_curves_differ_in_grey_too():
    luminance = [sum(w * int(c[i : i + 2], 16) for w, i in ((0.299, 1), (0.587, 3), (0.114, 5))) for c in COLOURS]
    neighbours = np.diff(luminance)
    assert len(set(map(str, DASHES))) == len(DASHES)
    assert abs(neighbours[0]) > 50
    for i in range(len(COLOURS) - 1):
        assert abs(neighbours[i]) > 8 or DASHES[i % len(DASHES)] != DASHES[(i + 1) % len(DASHES)]


def test_png_and_pdf_are_written_and_only_our_figures_overwritten(tmp_path):
    figure = certified_figure([line()])
    png, pdf = save(figure, tmp_path / "a" / "x.png"), save(figure, tmp_path / "a" / "x.pdf")
    assert Image.open(png).size[0] == 1080
    assert pdf.read_bytes().startswith(b"%PDF")
    figure, before = certified_figure([line()]), (png.read_bytes(), pdf.read_bytes())
    assert (save(figure, png).read_bytes(), save(figure, pdf).read_bytes()) == before  # no date, no chance
    Image.new("RGB", (3, 3)).save(png)
    for path, message in ((png, "no figure of `certtrain plot`"), (tmp_path / "x.jpg", "neither PNG nor PDF")):
        with pytest.raises(UserError, match=message):
            save(figure, path)


def test_the_distribution_counts_every_image():
    """At p the curve is the share of images whose bound is at most p; wrong ones and abstentions are below 1/2."""
    one = line()
    p_lower = np.random.default_rng(1).uniform(0.4, 0.9999, 60)
    one = replace(one, examples=replace(one.examples, p_lower=p_lower))
    x, y = probability_figure([one]).axes[0].lines[0].get_data()
    p = np.where(one.examples.correct, p_lower, 0.0)
    for at, value in zip(x, y):
        assert value == pytest.approx(100 * np.mean(p <= at))
    assert y[-1] == 100
    with pytest.raises(UserError, match="different images"):
        probability_figure([one, replace(one, examples=replace(one.examples, index=one.examples.index + 1))])
    with pytest.raises(UserError, match="no probabilities"):
        probability_figure([line()])
    with pytest.raises(UserError, match="target radii"):
        probability_figure([])
