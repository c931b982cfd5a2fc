import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from certtrain.data import BreastCancer, Digits
from certtrain.data.sklearn_sets import min_max


@pytest.mark.parametrize("seed", [0, 1])
def test_digits_have_a_fixed_test_part_in_proportion(seed):
    module = Digits(seed=seed, split_seed=seed)
    module.setup()
    assert (len(module.train) + len(module.val), len(module.val), len(module.test)) == (1437, 144, 360)
    assert module.test.x.shape == (360, 1, 8, 8)
    assert module.test.y.bincount().min() >= 34
    assert module.test.y.bincount().max() <= 37
    assert module.train.x.unique().tolist() == [level / 16 for level in range(17)]
    assert float(module.test.x.double().sum()) == 7013.1875  # another draw of the test part would change it


def test_breast_cancer_is_scaled_by_the_training_part():
    module = BreastCancer(val_size=0)
    module.setup()
    assert (len(module.train), len(module.test)) == (455, 114)
    assert (module.train.x.amin(0) == 0).all()
    assert (module.train.x.amax(0) == 1).all()
    assert len(module.feature_names) == 30
    assert module.feature_names[0] == "mean radius"
    assert 0 < module.clipped_values < 40
    on_the_border = ((module.test.x == 0) | (module.test.x == 1)).sum()
    assert on_the_border >= module.clipped_values
    assert module.mean == [0.0] * 30


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 1000))
def test_min_max_clips_and_counts(n, m, seed):
    generator = torch.Generator().manual_seed(seed)
    train, test = (torch.randn(k, 3, generator=generator, dtype=torch.float64) for k in (n, m))
    train[:, 0] = 2.0  # a constant feature
    a, b, clipped = min_max(train, test)
    low, high = train.min(0).values, train.max(0).values
    outside = ((test < low) | (test > high)) & (high > low)
    outside[:, 0] = (test[:, 0] < 2) | (test[:, 0] > 3)
    assert a.dtype == b.dtype == torch.float32
    assert 0 <= min(a.min(), b.min()) <= max(a.max(), b.max()) <= 1
    assert (a[:, 0] == 0).all()
    if n > 1:
        assert clipped == outside.sum()
