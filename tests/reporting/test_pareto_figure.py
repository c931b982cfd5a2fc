"""The figure of a front: units and n, published points behind it, a view that collapsed trials do not choose."""

import matplotlib.image
import pytest
from matplotlib.figure import Figure

from certtrain.reporting import pareto_figure
from certtrain.reporting.cells import Figure as Published
from certtrain.reporting.published import Published as Figures
from certtrain.reporting.studies import CertifiedTrial
from certtrain.sweeps.metric import CLEAN, Metric
from certtrain.sweeps.study import Row

METRICS = [Metric(CLEAN), Metric("val/certified@2_255", "l-inf")]
ROWS = [
    Row(0, "complete", (0.9, 0.3)),
    Row(1, "complete", (0.5, 0.5)),
    Row(2, "complete", (0.1, 0.0)),
    Row(3, "failed", ()),
]


def published(clean, certified, benchmark=None, **more):
    figures = Figures("table 1", "paper", clean=clean, certified={"2/255": certified}, **more)
    return Published("SABR", "doe2026", benchmark, figures, certified)


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws into a file, and returns the axes."""
    found, save = [], pareto_figure.save_figure
    monkeypatch.setattr(
        pareto_figure, "save_figure", lambda figure, path: (found.append(figure), save(figure, path))[1]
    )

    def draw(*arguments):
        path = pareto_figure.pareto_plot(ROWS, METRICS, 200, tmp_path / "pareto.png", *arguments)
        assert matplotlib.image.imread(path).shape[0] > 500
        assert isinstance(found[-1], Figure)
        return found[-1].axes[0]

    return draw


def test_the_figure_has_units_and_n(drawn, tmp_path):
    axes = drawn()
    assert axes.get_xlabel() == "validation: clean (%)"
    assert axes.get_ylabel() == "validation: certified at l-inf 2/255 (%)"
    assert axes.get_title() == "3 trials, 1 below the view, n = 200 validation examples"
    assert {text.get_text() for text in axes.texts} == {"0", "1"}
    with pytest.raises(ValueError, match="no trial"):
        pareto_figure.pareto_plot(ROWS[3:], METRICS, 200, tmp_path / "none.png")


def test_published_points_lie_behind_and_within_the_view(drawn):
    known = [published(0.92, 0.6, "CTBench", tuned="test"), published(0.4, 0.2), published(None, 0.7)]
    axes = drawn(known, [CertifiedTrial(0, (0.9, 0.3), (0.88, 0.28), "IBP", 100)])
    labels = [line.get_label() for line in axes.lines]
    assert (
        labels.index("published: CTBench") < labels.index("Pareto front, validation") < labels.index("the same on test")
    )
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert left < 50 < 92 < right
    assert bottom < 28 < 60 < top
    assert [text.get_text() for text in axes.texts] == ["SABR", "0", "1"]  # the other point is outside, and unnamed
    assert axes.get_xlabel() == "clean (%)"


def test_what_is_recalled_is_hollow(drawn):
    axes = drawn([published(0.8, 0.4, recalled=("clean",)), published(0.81, 0.41)])
    faces = [
        line.get_markerfacecolor() for line in axes.lines if len(line.get_xdata()) == 1 and line.get_markersize() == 5
    ]
    assert faces[0] == "white" != faces[1]
    assert "(hollow: recalled from memory)" in [line.get_label() for line in axes.lines]


def test_names_of_methods_do_not_lie_on_each_other(drawn):
    axes = drawn([published(0.8, 0.4), published(0.801, 0.401), published(0.6, 0.4)])
    assert [text.get_text() for text in axes.texts].count("SABR") == 2


def test_the_view_of_one_point_is_no_point():
    low, high = pareto_figure.view([(5.0, 0.0)])
    assert all(a < value < b for a, value, b in zip(low, (5, 0), high))
