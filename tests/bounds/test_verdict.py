"""The verdict: only finite, strictly positive margins prove anything."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from certtrain.bounds.verdict import verified

special = st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-45, -1e-45, 1.0, -1.0])
numbers = st.one_of(special, st.floats(width=32))


@given(st.integers(1, 4).flatmap(lambda k: st.lists(st.lists(numbers, min_size=k, max_size=k), min_size=1, max_size=6)))
def test_verified_means_finite_and_positive_everywhere(rows):
    expected = [all(math.isfinite(m) and m > 0 for m in row) for row in rows]
    assert verified(torch.tensor(rows, dtype=torch.float64)).tolist() == expected


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 0.0, -0.0, -1.0])
def test_one_bad_margin_among_good_ones_proves_nothing(bad):
    assert verified(torch.tensor([[1.0, bad, 2.0], [1.0, 1.0, 2.0]])).tolist() == [False, True]


@pytest.mark.parametrize("shape", [(3,), (3, 0), (3, 2, 1)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="margins have shape"):
        verified(torch.ones(shape))
