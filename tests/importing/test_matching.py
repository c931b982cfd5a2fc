"""Names that choose nothing are no names; without names order and shape decide, or nothing does."""

import pytest
import torch

from certtrain.importing.matching import Ambiguous, by_name, by_order_and_shape, comparable, subtrees


def state(**shapes):
    return {name.replace("__", "."): torch.zeros(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["0.weight", "0.bias", "2.weight", "2.bias"], ["m.1.weight", "m.1.bias", "m.10.weight", "m.10.bias"]),
        (["features.0.w", "features.3.w", "head.w"], ["features.module.0.w", "features.module.1.w", "head.w"]),
        (["weight", "bias"], ["5.weight", "5.bias"]),
        (["a.conv.w", "a.fc.w"], ["conv._orig_mod.w", "fc.w"]),
    ],
)
def test_comparable_names(one, other):
    assert list(comparable(one).values()) == list(comparable(other).values())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["0.weight", "1.weight"], ["fc1.weight", "fc2.weight"]),
        (["encoder.w", "decoder.w"], ["decoder.w", "head.w"]),
        (["0.weight", "0.bias"], ["0.weight", "1.bias"]),
    ],
)
def test_names_that_choose_something(one, other):
    assert set(comparable(one).values()) != set(comparable(other).values())


def test_comparable_names_stay_apart():
    names = ["a", "a.b", "b.a", "b.b", "c.0.1.x", "c.0.2.x", "c.1.x", "10.x", "9.x"]
    assert len(set(comparable(names).values())) == len(names)


def test_what_does_not_fit_by_name():
    match = by_name(state(a__w=2, b__w=3, c__w=1), state(a__w=2, b__w=4, d__w=1))
    assert (match.missing, match.unknown, match.shapes) == (("c.w",), ("d.w",), ("b.w",))
    assert match.wrong == 3
    assert by_name({"w": torch.zeros(2)}, {"w": torch.zeros(2, dtype=torch.complex64)}).shapes == ("w",)


def test_subtrees():
    found = dict(subtrees(["a.b.x", "a.b.y", "a.c.z"]))
    assert found == {"a": ("a.b.x", "a.b.y", "a.c.z"), "a.b": ("a.b.x", "a.b.y"), "a.c": ("a.c.z",)}


def pairs(own, theirs, **options):
    match = by_order_and_shape(own, theirs, **options)
    return match and {other: name for name, other in match.pairs.items()}


def test_distinct_shapes_decide_in_any_order():
    own, theirs = state(a__w=1, b__w=2, b__bias=3), state(y__bias=3, y__w=2, x__w=1)
    assert pairs(own, theirs) == {"x.w": "a.w", "y.w": "b.w", "y.bias": "b.bias"}
    assert pairs(own, state(x__w=1, y__w=2)) is None
    assert pairs(own, state(x__w=1, y__w=2, y__b=3)) is None


def test_order_decides_between_equal_shapes():
    own = state(**{"0__w": 2, "1__w": 2, "2__w": 3})
    assert pairs(own, state(fc1__w=2, fc2__w=2, out__w=3)) == {"fc1.w": "0.w", "fc2.w": "1.w", "out.w": "2.w"}
    shuffled = state(out__w=3, fc2__w=2, fc1__w=2)  # as safetensors sorts them
    assert pairs(own, shuffled, ordered=False) == {"fc1.w": "0.w", "fc2.w": "1.w", "out.w": "2.w"}


@pytest.mark.parametrize(
    ("theirs", "ordered"),
    [
        (state(fc2__w=2, fc1__w=2, out__w=3), True),  # the order is not that of the numbers
        (state(query__w=2, key__w=2, out__w=3), True),  # side by side without numbers
        (state(fc1__w=2, out__w=3, fc2__w=2), True),  # another order than the model's
        (state(a__hidden__w=2, out__w=3, b__extra__w=2), False),  # no order, no numbers
    ],
)
def test_what_cannot_be_told_apart_is_refused(theirs, ordered):
    with pytest.raises(Ambiguous):
        pairs(state(**{"0__w": 2, "1__w": 2, "2__w": 3}), theirs, ordered=ordered)


def test_counts_of_batches_come_along():
    own = state(**{"0__weight": 2, "0__num_batches_tracked": ()})
    assert pairs(own, state(bn__weight=2, bn__num_batches_tracked=())) == {
        "bn.weight": "0.weight",
        "bn.num_batches_tracked": "0.num_batches_tracked",
    }
    assert pairs(own, state(bn__weight=2)) == {"bn.weight": "0.weight"}
