"""By class and by answer: every example is counted once."""

from fractions import Fraction

import numpy as np
import pytest
from html_reader import Reader
from makers import bound_rows, certificate, html, vote_rows

from certtrain.certificates.summary import certified
from certtrain.reporting.page.classes import class_name, class_table, confusion, confusion_counts
from certtrain.reporting.page.figures import chosen_radius


@pytest.mark.parametrize("make", [bound_rows, vote_rows])
@pytest.mark.parametrize("radius", ["0", "2/255", "0.1", "0.5"])
def test_counts_add_up_and_the_diagonal_is_what_is_certified(make, radius):
    rows = make(n=60, seed=3)
    counts, classes, columns = confusion_counts(certificate(rows), Fraction(radius))
    assert counts.sum() == 60
    assert counts.sum(1).tolist() == [int((rows.label == c).sum()) for c in classes]
    assert np.trace(counts[:, : len(classes)]) == certified(rows, Fraction(radius)).sum()
    if make is vote_rows:
        assert columns == ["not certified", "abstains"]
        assert counts[:, -1].sum() == (rows.predict == -1).sum()


def test_a_wrong_answer_counts_with_its_certificate_only():
    rows = vote_rows(n=30, seed=1)
    wrong = (rows.predict != rows.label) & (rows.predict != -1)
    counts, classes, _ = confusion_counts(certificate(rows), Fraction("0.5"))
    off = counts[:, : len(classes)].sum() - np.trace(counts[:, : len(classes)])
    assert off == (wrong & (rows.radius >= 0.5)).sum() > 0
    rows = bound_rows(n=30, seed=1)  # bounds: the network's answer, which has none
    counts, classes, _ = confusion_counts(certificate(rows), Fraction("0.1"))
    off = counts[:, : len(classes)].sum() - np.trace(counts[:, : len(classes)])
    assert off == (rows.predict != rows.label).sum() > 0


def test_tables():
    rows = bound_rows(n=60)
    found = certificate(rows)
    by_class = Reader(html("table", class_table(found, Fraction("0.1"), ["a", "<b>", "2"]))).table("class", "n")
    assert [row["class"] for row in by_class] == ["0 (a)", "1 (<b>)", "2"]
    shares = [certified(rows.select(rows.label == c), Fraction("0.1")).mean() for c in range(3)]
    assert [float(row["at 0.1 (%)"]) for row in by_class] == [pytest.approx(100 * s, abs=0.005) for s in shares]
    made = confusion(found, Fraction("0.1"), None)
    assert [radius for radius, _ in made] == ["0.1", "0", "2/255"]
    read = Reader(html("matrix", made[0][1]))
    counts, _, columns = confusion_counts(found, Fraction("0.1"))
    assert [[int(row[c].replace("·", "0")) for c in ("0", "1", "2", *columns)] for row in read.table("true class")] == (
        counts.tolist()
    )
    assert len([a for a in read.of("td") if "right" in a.get("class", "")]) == 3
    assert sum(int(row["n"]) for row in read.table("true class")) == 60


def test_many_classes_have_a_list_of_confusions():
    rows = vote_rows(n=200, classes=40)
    read = Reader(html("matrix", confusion(certificate(rows), Fraction("0.1"), None)[0][1]))
    counts, classes, _ = confusion_counts(certificate(rows), Fraction("0.1"))
    pairs = read.table("true class", "answer")
    for row in pairs:
        assert counts[classes.index(int(row["true class"])), classes.index(int(row["answer"]))] == int(row["examples"])
    assert "too many for a matrix" in read.text


def test_names_and_the_radius_that_is_chosen():
    assert [class_name(1, names) for names in (None, ["a", "b"], ["0", "1"], ["a"])] == ["1", "1 (b)", "1", "1"]
    found = certificate(bound_rows())
    assert chosen_radius(found, 0.1, None) == Fraction("0.1")
    assert chosen_radius(found, None, None) == Fraction(2, 255)
    assert chosen_radius(found, "x", Fraction("0.3")) == Fraction("0.3")
    assert chosen_radius(certificate(vote_rows()), 0.5, None) == Fraction("0.1")
