import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from certtrain.errors import UserError
from certtrain.models import Normalize

numbers = st.floats(-2, 2, width=32)
positive = st.floats(0.0625, 4, width=32)


@given(st.lists(st.tuples(numbers, positive), min_size=1, max_size=5), st.booleans())
def test_normalises_per_channel_or_feature(pairs, image):
    mean, std = zip(*pairs)
    shape = (len(pairs), 2, 3) if image else (len(pairs),)
    layer = Normalize(mean, std, shape)
    x = torch.rand(2, *shape)
    out = layer(x)
    for channel in range(len(pairs)):
        assert torch.allclose(out[:, channel], (x[:, channel] - mean[channel]) / std[channel])
    assert layer.mean.shape == layer.std.shape == ((len(pairs), 1, 1) if image else (len(pairs),))


def test_one_number_serves_every_channel():
    assert Normalize([0.5], [0.25], (3, 4, 4)).mean.flatten().tolist() == [0.5] * 3
    assert Normalize([0.1, 0.2], [1.0, 1.0]).mean.shape == (2, 1, 1)


def test_buffers_are_saved_and_not_trained():
    layer = Normalize([0.5], [0.25], (1, 8, 8))
    assert set(layer.state_dict()) == {"mean", "std"}
    assert not list(layer.parameters())
    assert "0.25" in repr(layer)


@pytest.mark.parametrize(
    ("mean", "std", "word"),
    [([0.0], [0.0], "> 0"), ([0.0], [-1.0], "> 0"), ([float("nan")], [1.0], "finite"), ([0.0, 0.0], [1.0], "3")],
)
def test_refuses_what_cannot_normalise(mean, std, word):
    with pytest.raises(UserError, match=word):
        Normalize(mean, std, (3, 4, 4))
