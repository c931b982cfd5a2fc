import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from certtrain.data import Split, index_sha256, index_text
from certtrain.data.split import (
    carve_validation,
    check_examples,
    spread_positions,
    stratified_positions,
    validation_count,
)
from certtrain.errors import UserError


def numbered(n):
    return Split(torch.arange(n)[:, None] / max(n, 1), torch.arange(n) % 3, "train")


@given(st.integers(2, 80), st.integers(0, 79), st.integers(0, 5))
def test_carving_keeps_every_example_once(n, count, split_seed):
    count %= n
    whole = numbered(n)
    train, val = carve_validation(whole, count, split_seed)
    assert (len(train), len(val)) == (n - count, count)
    assert (train.name, val.name) == ("train", "val")
    assert sorted([*train.source.tolist(), *val.source.tolist()]) == list(range(n))
    for part in (train, val):
        assert torch.equal(part.x, whole.x[part.source])
        assert torch.equal(part.y, whole.y[part.source])
        assert part.source.tolist() == sorted(part.source.tolist())
    again = carve_validation(whole, count, split_seed)[1]
    assert torch.equal(val.source, again.source)


def test_the_split_is_keyed_and_reaches_everywhere():
    whole = numbered(200)
    drawn = [carve_validation(whole, 50, seed)[1].source for seed in range(40)]
    assert not torch.equal(drawn[0], drawn[1])
    counts = torch.cat(drawn).bincount(minlength=200)  # 40 draws of a quarter: 10 each, sd 2.7
    assert counts.min() > 0
    assert counts.max() < 22


@pytest.mark.parametrize(
    ("val_size", "n", "count"),
    [(0, 10, 0), (0.0, 10, 0), (0.1, 1437, 144), (0.5, 3, 2), (1, 10, 1), (5000, 50000, 5000), (1e3, 60000, 1000)],
)
def test_val_size_is_a_fraction_or_a_count(val_size, n, count):
    assert validation_count(val_size, n) == count


@pytest.mark.parametrize(
    ("val_size", "word"),
    [
        (-0.1, "neither"),
        (1.0, "neither"),
        (1.5, "neither"),
        (float("nan"), "neither"),
        (float("inf"), "neither"),
        ("0.1", "neither"),
        (True, "neither"),
        (0.01, "empty"),
        (0.99, "nothing"),
        (10, "nothing"),
        (11, "nothing"),
    ],
)
def test_a_val_size_that_makes_no_sense_is_refused(val_size, word):
    with pytest.raises(UserError, match=word) as caught:
        validation_count(val_size, 10)
    assert "val_size" in caught.value.where


@given(st.integers(0, 300), st.integers(0, 300))
def test_pinned_positions_are_spread_evenly(n, count):
    positions = spread_positions(n, count).tolist()
    assert len(positions) == min(n, count)
    assert len(set(positions)) == len(positions)
    if positions:
        gaps = {b - a for a, b in zip(positions, [*positions[1:], n])}
        assert positions[0] == 0
        assert max(gaps) - min(gaps) <= 1


def test_the_hash_is_that_of_one_number_a_line():
    index = torch.tensor([0, 30, 7])
    assert index_text(index) == "0\n30\n7\n"
    assert index_sha256(index) == hashlib.sha256(b"0\n30\n7\n").hexdigest()
    assert index_sha256(torch.arange(0)) == hashlib.sha256(b"").hexdigest()


@given(st.lists(st.integers(0, 3), min_size=4, max_size=60), st.integers(0, 3))
def test_a_stratified_draw_keeps_the_proportions(labels, seed):
    y = torch.tensor(labels)
    count = len(y) // 4
    mask = stratified_positions(y, count, seed)
    assert int(mask.sum()) == count
    for label in y.unique():
        share = float((y == label).sum()) * count / len(y)
        assert abs(int((y[mask] == label).sum()) - share) < 1


def good():
    return torch.rand(5, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1])


def check(x, y):
    check_examples(x, y, input_shape=(1, 2, 2), num_classes=3, where="data", data="toy")


def spoil(what):
    x, y = good()
    if what == "nan":
        x[3, 0, 1, 1] = float("nan")
    elif what == "inf":
        x[3, 0, 1, 1] = float("inf")
    elif what == "-inf":
        x[3, 0, 1, 1] = -float("inf")
    elif what == "above":
        x[3, 0, 1, 1] = 1.001
    elif what == "below":
        x[3, 0, 1, 1] = -0.001
    elif what == "label":
        y[3] = 3
    elif what == "negative label":
        y[3] = -1
    elif what == "float labels":
        y = y.float()
    elif what == "shape":
        x = x[:, 0]
    elif what == "double":
        x = x.double()
    elif what == "lengths":
        y = y[:-1]
    elif what == "empty":
        x, y = x[:0], y[:0]
    return x, y


@pytest.mark.parametrize(
    ("what", "word"),
    [
        ("nan", "NaN or infinite values in 1 of 5 examples, first in number 3"),
        ("inf", "NaN or infinite values in 1 of 5 examples, first in number 3"),
        ("-inf", "NaN or infinite"),
        ("above", "outside the input range"),
        ("below", "outside the input range"),
        ("label", "1 labels of type torch.int64 outside the classes 0 .. 2, first 3 at example 3"),
        ("negative label", "first -1 at example 3"),
        ("float labels", "float32 outside"),
        ("shape", "shape"),
        ("double", "float64"),
        ("lengths", "labels of shape"),
        ("empty", "no examples"),
    ],
)
def test_spoiled_examples_are_refused(what, word):
    check(*good())
    with pytest.raises(UserError, match=word) as caught:
        check(*spoil(what))
    assert caught.value.where == "data"
    assert "toy" in caught.value.what
