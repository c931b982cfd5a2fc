"""Certified accuracy and ACR by hand, in any batching and order, and on several processes."""

import random
from fractions import Fraction

import numpy as np
import pytest
import torch
from claims import LINF, SMOOTHED
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from certtrain.certificates import ABSTAIN, INVALID, STATUSES, Certificates
from certtrain.certificates.metrics import (
    Abstained,
    AverageCertifiedRadius,
    CertifiedAccuracy,
    Failed,
    Summary,
)
from certtrain.certificates.summary import certified, guessing, status_counts, summarise
from certtrain.radii import parse_radii


def make(predict, radius, label=None, **columns):
    n = len(predict)
    label = np.zeros(n, int) if label is None else label
    correct = np.asarray(predict) == label
    return Certificates(range(n), label, predict, radius, correct, np.zeros(n), columns)


WORKED = make([0, 0, 1, 0, 0], [0.10, 0.25, 0.00, 0.40, 0.18], count_top=[1] * 5)


def test_worked_example_of_the_design():
    found = summarise(WORKED, parse_radii([0, 0.1, 0.2, 0.4, 0.5]), SMOOTHED)
    assert found["certified"] == {"0": 0.8, "0.1": 0.8, "0.2": 0.40, "0.4": 0.2, "0.5": 0.0}
    assert found["acr"] == pytest.approx((0.10 + 0.25 + 0.40 + 0.18) / 5, abs=1e-11)
    assert found["acr"] <= (0.10 + 0.25 + 0.40 + 0.18) / 5
    assert "acr_grid" not in found
    assert (found["clean"], found["abstained"], found["invalid"], found["n"]) == (0.8, 0, 0, 5)


def test_a_wrong_or_abstained_example_certifies_nothing_but_counts():
    rows = make([0, 1, ABSTAIN, 0], [0.3, 0.9, 0.0, 0.0], count_top=[1] * 4)
    found = summarise(rows, parse_radii([0, 0.2]), SMOOTHED)
    assert found["certified"] == {"0": 0.5, "0.2": 0.25}
    assert found["acr"] == pytest.approx(0.3 / 4, abs=1e-11)
    assert found["abstained"] == 1


@given(st.integers(1, 60), st.integers(61, 1000))
def test_a_bound_certificate_at_a_radius_of_the_grid_counts_there(p, q):
    """float(p/q) lies below p/q for about half of them."""
    radius = Fraction(p, q)
    rows = make([0], [float(radius)])
    assert certified(rows, radius).all()
    assert certified(rows, radius / 2).all()
    assert not certified(rows, radius + Fraction(1, 10**9)).any()
    below = make([0], [np.nextafter(float(radius), 0)])
    assert not certified(below, radius).any()


def test_bounds_have_a_grid_acr_and_statuses():
    rows = make(
        [0, 0, 1, 0, 0, 0, 0],
        [float(Fraction(2, 255)), 0, 0, 0, 0, 0, 0],
        **{"status@2/255": ["verified", "falsified", "misclassified", "unknown", "timeout", "invalid", "error"]},
    )
    found = summarise(rows, parse_radii(["2/255"]), LINF)
    assert found["certified"] == {"2/255": 1 / 7}
    assert found["acr_grid"] == pytest.approx(2 / 255 / 7)
    assert "acr" not in found
    assert (found["invalid"], found["error"]) == (1, 1)
    assert status_counts(rows, Fraction(2, 255)) == dict.fromkeys(STATUSES, 1)


def test_statuses_of_smoothing_add_up():
    rows = make(
        [0, 0, 1, ABSTAIN, ABSTAIN],
        [0.5, 0.1, 0.9, 0.0, 0.0],
        status=["certified", "certified", "certified", "abstained", "invalid"],
    )
    counts = status_counts(rows, Fraction(1, 4))
    expected = {"misclassified": 1, "verified": 1, "unknown": 2, "invalid": 1}
    assert counts == dict.fromkeys(STATUSES, 0) | expected
    assert Failed(INVALID)(rows) == pytest.approx(0.2)


def test_an_unknown_status_is_an_error():
    with pytest.raises(ValueError, match="perhaps"):
        status_counts(make([0], [0.0], **{"status@0.1": ["perhaps"]}), Fraction(1, 10))


def test_nothing_to_summarise():
    with pytest.raises(ValueError, match="no certificates"):
        summarise(make([], []), (Fraction(1),), SMOOTHED)


RADII = parse_radii([0, 0.25, 0.5, 1])
ROWS = st.lists(st.tuples(st.integers(-1, 2), st.floats(0, 4), st.integers(0, 2)), min_size=1, max_size=40)


@settings(max_examples=40, deadline=None)
@given(ROWS, st.integers(1, 7), st.randoms(use_true_random=False))
def test_metrics_equal_the_summary_in_any_batching_order_and_number_of_processes(rows, size, shuffle: random.Random):
    predict, radius, label = (np.array(column) for column in zip(*rows))
    whole = make(predict, np.where(predict == ABSTAIN, 0, radius), label, count_top=np.ones(len(rows), int))
    order = list(range(len(rows)))
    shuffle.shuffle(order)
    expected = summarise(whole, RADII, SMOOTHED)
    processes = [(CertifiedAccuracy(RADII), AverageCertifiedRadius(), Abstained()) for _ in range(2)]
    for i, start in enumerate(range(0, len(order), size)):
        for metric in processes[i % 2]:
            metric.update(whole.select(np.array(order[start : start + size])))
    merged = []
    for first, second in zip(*processes):
        assert first.sums.dtype == first.total.dtype == torch.int64
        first.merge_state(second)
        merged.append(first.compute())
    assert merged[0].tolist() == list(expected["certified"].values())
    assert merged[1].item() == expected["acr"]
    assert merged[2].item() == expected["abstained"] / len(rows)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.integers(1, 4), st.booleans(), st.sampled_from([LINF, SMOOTHED]), st.randoms(use_true_random=False))
def test_the_summary_of_shares_is_that_of_all(rows, processes, votes, claim, shuffle: random.Random):
    """Guessing, near-ties and failures, too; every process counts its own share, however the rows are dealt."""
    predict, radius, label = (np.array(column) for column in zip(*rows * shuffle.choice([1, 25])))
    status = [shuffle.choice(["certified", INVALID, "error"]) for _ in predict]
    columns = {"near_ties": np.array([shuffle.randrange(3) for _ in predict])} if votes else {}
    whole = make(predict, np.where(predict == ABSTAIN, 0, radius), label, status=status, **columns)
    order = np.array(shuffle.sample(range(len(predict)), len(predict)))
    parts = [Summary(RADII, claim, 3) for _ in range(processes)]
    for number, part in enumerate(parts):
        if len(own := order[number::processes]):
            part.update(whole.select(own))
    for other in parts[1:]:
        for name, metric in other.items():
            if metric.update_called:
                parts[0][name].merge_state(metric)
    assert parts[0].summary(votes=votes) == summarise(whole, RADII, claim)


def test_metrics_reset():
    metric = CertifiedAccuracy([0.2])
    metric.update(WORKED)
    metric.reset()
    metric.update(WORKED.select(np.array([0, 1])))
    assert metric.compute().item() == 0.5


BALANCED = np.arange(100) % 10


def test_one_class_for_all_is_a_guess_however_robust():
    rows = make(np.full(100, 3), np.full(100, 0.5), BALANCED)
    assert guessing(rows) == "it answers class 3 for every example"
    assert summarise(rows, parse_radii([0.1]), LINF)["guessing"] == guessing(rows)
    assert summarise(rows, parse_radii([0.1]), LINF)["certified"] == {"0.1": 0.1}
    abstaining = make(np.where(np.arange(100) < 90, 3, ABSTAIN), np.zeros(100), BALANCED)
    assert guessing(abstaining) == guessing(rows)


@pytest.mark.parametrize(
    ("right", "guess"), [(0, True), (10, True), (18, True), (19, False), (26, False), (100, False)]
)
def test_chance_level_is_what_the_most_frequent_class_explains_at_one_percent(right, guess):
    """P(Bin(100, 0.1) >= 18) = 0.010007, P(>= 19) = 0.0046."""
    predict = np.where(np.arange(100) < right, BALANCED, (BALANCED + 1) % 10)
    assert (guessing(make(predict, np.zeros(100), BALANCED)) is not None) is guess
    assert binom.sf(17, 100, 0.1) > 0.01 > binom.sf(18, 100, 0.1)


def test_the_most_frequent_class_is_the_measure_where_classes_are_unequal():
    label = np.repeat([0, 1], [90, 10])
    wrong_on = [np.where(np.isin(np.arange(100), wrong), 1 - label, label) for wrong in ([1, 95, 96, 97, 98], [1])]
    assert "95.0%, always answering the most frequent class on 90.0%" in guessing(make(wrong_on[0], label, label))
    assert guessing(make(wrong_on[1], label, label)) is None


def test_too_few_examples_or_one_class_alone_tell_nothing():
    assert guessing(make(np.zeros(19), np.zeros(19), np.arange(19) % 10)) is None
    assert guessing(make(np.zeros(20), np.zeros(20), np.arange(20) % 10)) is not None
    assert guessing(make(np.zeros(50), np.zeros(50), np.zeros(50, int))) is None
    assert "guessing" not in summarise(WORKED, parse_radii([0.1]), SMOOTHED)
