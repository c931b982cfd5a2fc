"""The table of a study fits 100 columns and names its metric; the figure of its front is drawn with units and n."""

from dataclasses import replace

import matplotlib.image
import pytest
from matplotlib.figure import Figure
from printing import printed as shown

from certtrain.reporting import studies
from certtrain.sweeps.metric import CLEAN, Metric
from certtrain.sweeps.study import Row

CERTIFIED = Metric("val/certified@2_255", "l-inf")
KEYS = ["method.kappa.start", "method.kappa.end", "method.beta.end", "schedule.warmup", "schedule.ramp"]
KEYS += ["train_eps", "optimizer.lr", "method.l1"]


def row(number: int, *values: float, state: str = "complete", message: str | None = None) -> Row:
    return Row(number, state, values, dict.fromkeys(KEYS, f"{0.00001234 * (number + 1):.4g}"), message)


def test_the_best_first_and_the_rest_counted():
    rows = [row(i, i / 40) for i in range(30)]
    rows += [
        row(30, state="pruned"),
        row(31, state="failed", message="NaN since step 3\nmore"),
        row(32, state="running"),
    ]
    text = shown(studies.study_table(rows, [CERTIFIED], 200))
    assert "30 trials, best first by the validation metric val/certified@2_255 (n = 200)" in text
    assert text.index("72.50") < text.index("70.00")
    assert "besides: 1 pruned, 1 failed, 1 running" in text
    assert "failed: trial 31  (NaN since step 3)" in text


def test_a_front_shows_only_its_points():
    rows = [row(0, 0.9, 0.1), row(1, 0.5, 0.5), row(2, 0.4, 0.4)]
    text = shown(studies.study_table(rows, [Metric(CLEAN), CERTIFIED], 20))
    assert "Pareto front: 2 of 3 trials" in text
    assert "90.00" in text
    assert "40.00" not in text


def test_the_figure_has_units_and_n(tmp_path, monkeypatch):
    drawn, save = [], studies.save_figure
    monkeypatch.setattr(studies, "save_figure", lambda figure, path: (drawn.append(figure), save(figure, path))[1])
    rows = [row(0, 0.9, 0.1), row(1, 0.5, 0.5), row(2, 0.4, 0.4), row(3, state="failed")]
    path = studies.pareto_plot(rows, [Metric(CLEAN), CERTIFIED], 200, tmp_path / "pareto.png")
    assert matplotlib.image.imread(path).shape[0] > 500
    [figure] = drawn
    assert isinstance(figure, Figure)
    [axes] = figure.axes
    assert axes.get_xlabel() == "validation: clean (%)"
    assert axes.get_ylabel() == "validation: certified at l-inf 2/255 (%)"
    assert axes.get_title() == "3 trials, n = 200 validation examples"
    assert {text.get_text() for text in axes.texts} == {"0", "1"}
    with pytest.raises(ValueError, match="no trial"):
        studies.pareto_plot(rows[3:], [Metric(CLEAN), CERTIFIED], 200, path)


def test_the_view_holds_the_front_and_leaves_failures_below():
    points = [
        (98.0, 75.0),
        (97.0, 80.0),
        (96.0, 79.0),
        (95.0, 70.0),
        (94.0, 71.0),
        (93.0, 72.0),
        (7.0, 7.0),
        (8.0, 0.0),
    ]
    low, high = studies.view(points, [0, 1])
    for point in points[:6]:
        assert all(a <= value <= b for a, value, b in zip(low, point, high))
    assert all(low[k] > points[6][k] for k in (0, 1))


def test_the_view_of_equal_trials_is_no_point():
    low, high = studies.view([(5.0, 5.0)] * 3, [0])
    assert all(a < 5 < b for a, b in zip(low, high))


def test_a_trial_that_is_no_better_than_a_guess_is_marked_and_comes_last():
    rows = [replace(row(0, 0.9), guessing="it answers class 3 for every example"), row(1, 0.2), row(2, 0.3)]
    text = shown(studies.study_table(rows, [CERTIFIED], 200))
    assert text.index("30.00") < text.index("20.00") < text.index("90.00") < text.index("! no better than a guess")
    assert "0 ! " in text
    assert sorted(rows, key=lambda found: found.order)[0].number == 2


def test_a_guess_is_on_no_front_unless_all_guess():
    rows = [replace(row(0, 0.1, 0.9), guessing="x"), row(1, 0.5, 0.5), row(2, 0.9, 0.1), row(3, 0.4, 0.4)]
    assert studies.front_of(rows) == [2, 1]
    assert studies.front_of(rows[:1]) == [0]
