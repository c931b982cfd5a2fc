"""Decisions that cannot be flipped, by class: counts worked out by hand, intervals, the figure's own numbers."""

from fractions import Fraction

import numpy as np
import pytest
from matplotlib.figure import Figure
from printing import printed

from certtrain.certificates import Certificates
from certtrain.certifiers.alone import Alone
from certtrain.reporting import flips
from certtrain.reporting.plots import clopper_pearson

RADII = (Fraction(1, 2), Fraction(1))
UNIT = "its standard deviation"


def rows(**more):
    """Class 0: right with radius 1, right with 0 (broken at 1), wrong. Class 1: right with 1/2."""
    label, predict = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    radius, correct = np.array([1.0, 0.0, 0.0, 0.5]), predict == label
    columns = {
        "status@0.5": ["verified", "unknown", "misclassified", "verified"],
        "status@1": ["verified", "falsified", "misclassified", "unknown"],
    }
    return Certificates(np.arange(4), label, predict, radius, correct, np.zeros(4), columns | more)


def alone():
    infinite = float("inf")
    return [
        Alone("age", Fraction(1), np.array([1.0, 1.0, 0.5]), np.array([infinite] * 3)),
        Alone("income", Fraction(1), np.array([1.0, 0.0, 0.0]), np.array([infinite, 0.3, 0.9])),
    ]


def test_counts_by_class():
    ill, well = flips.by_class(rows(), RADII, ["ill", "well"])
    assert (ill.name, len(ill), [ill.proved(Fraction(r)) for r in (0, 0.5, 1)]) == ("ill", 3, [2, 1, 1])
    assert (ill.standing, well.standing) == ({RADII[0]: 2, RADII[1]: 1}, {RADII[0]: 1, RADII[1]: 1})
    assert [well.proved(Fraction(r)) for r in (0, 0.5, 1)] == [1, 1, 0]
    low, high = clopper_pearson(np.array(1), 3)
    assert ill.interval(1) == (float(low), float(high))
    assert flips.by_class(rows(), RADII, None)[1].name == "class 1"


def test_the_largest_radius_of_a_bisection_counts():
    found = flips.by_class(rows(largest_eps=np.array([1.7, 0.4, 0.0, 0.8])), RADII, None, Fraction(2))
    assert found[0].held.tolist() == [1.7, 0.4, -1.0]
    assert (found[0].proved(Fraction(3, 2)), found[1].held.tolist(), found[0].reach) == (1, [0.8], 2.0)


def test_features_that_flip_most_come_first():
    assert [one.name for one in flips.ranked(alone(), Fraction(1))] == ["income", "age"]
    assert flips.ranked(alone(), Fraction(1))[0].counts(Fraction(1)) == (1, 2, 0)
    assert flips.ranked(alone(), Fraction(1, 2))[0].counts(Fraction(1, 2)) == (1, 1, 1)


def test_tables_and_plain_values_say_the_same():
    classes = flips.by_class(rows(), RADII, ["ill", "well"])
    text = printed(flips.flips_tables(classes, alone(), RADII, Fraction(1), UNIT))
    assert "66.66" not in text
    for told in (
        "66.67",
        "33.33",
        "in multiples of its standard deviation",
        "of the 3 right decisions, at change 1",
        "income",
    ):
        assert told in text
    found = flips.to_dict(classes, alone(), RADII)
    assert found["classes"]["ill"]["cannot_be_flipped"] == {"0.5": 1, "1": 1}
    assert found["classes"]["ill"]["not_flipped_by_attack"] == {"0.5": 2, "1": 1}
    assert found["features_alone"]["income"]["1"] == {"cannot_flip": 1, "flips": 2, "open": 0}


def test_a_column_of_words_is_one_feature_that_takes_any_category():
    colour = Alone("colour", None, np.array([1.0, -1.0, 1.0]), np.array([float("inf"), 0.0, float("inf")]))
    for radius in (Fraction(0), *RADII):
        assert colour.counts(radius) == (2, 1, 0)
    classes = flips.by_class(rows(), RADII, None)
    text = " ".join(
        printed(flips.flips_tables(classes, [colour], RADII, Fraction(1), UNIT, ["colour", "region"])).split()
    )
    assert "of all features at once, and any category of colour and region; 0: right as it is" in text
    assert "colour, any category 1 2 0" in text
    assert flips.to_dict(classes, [colour], RADII)["features_alone"]["colour"]["0.5"]["flips"] == 1


def test_the_figure_draws_these_numbers(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(flips, "save_figure", lambda figure, path: figures.append(figure) or path)
    classes = flips.by_class(rows(), RADII, ["ill", "well"])
    path = tmp_path / "a.png"
    assert flips.flips_figure(classes, alone(), path, radius=Fraction(1), unit=UNIT, subject="people test") == path
    (figure,) = figures
    assert isinstance(figure, Figure)
    curves, bars = figure.axes
    ill, crosses, well, _ = curves.lines[:4]
    assert ill.get_xdata().tolist() == [0, 100]
    assert ill.get_ydata().tolist() == pytest.approx([200 / 3, 100 / 3])
    assert crosses.get_ydata() == pytest.approx([200 / 3, 100 / 3])
    assert well.get_xdata().tolist() == [0, 50, 100]  # nothing is proved beyond 50, up to where was looked
    assert well.get_ydata().tolist() == [100, 100, 0]
    assert "n = 3" in ill.get_label()
    assert curves.get_xlabel() == "allowed change of each feature, all at once (% of its standard deviation)"
    assert [bar.get_width() for bar in bars.patches[:2]] == pytest.approx([200 / 3, 0])
    assert [text.get_text() for text in bars.get_yticklabels()] == ["income", "age"]
    flips.flips_figure(classes, [], path, radius=Fraction(1), unit=UNIT, subject="people test")
    assert len(figures[1].axes) == 1
