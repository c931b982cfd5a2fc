"""One feature at a time: a linear network flips exactly where its weights say."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from certtrain.certifiers.alone import each_alone
from certtrain.data import Batch
from certtrain.scales import Scales

RADII = tuple(Fraction(k, 10) for k in range(1, 11))


def linear(*weights):
    """Class 0 while `1/2 - w x > 0`."""
    net = nn.Linear(len(weights), 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[-w for w in weights], [0.0] * len(weights)]))
        net.bias.copy_(torch.tensor([0.5, 0.0]))
    return net


def test_a_linear_network_flips_where_its_weights_say():
    net = linear(1.0, 2.0, 0.1, 3.0)
    x = torch.tensor([[0.25, 0.0, 0.0, 0.0], [0.0, 0.11, 0.0, 0.0]])
    scales = Scales(tuple("abcd"), (Fraction(1), Fraction(1, 2), Fraction(1), Fraction(0)), (0,) * 4)
    told = []
    found = each_alone(
        net, Batch(x, torch.zeros(2, dtype=torch.int64), torch.arange(2)), scales, RADII, progress=told.append
    )
    assert told == [one.name for one in found] == ["a", "b", "c"]  # not what is immutable
    exact = {"a": [0.25, 0.28], "b": [0.25, 0.28], "c": [np.inf, np.inf]}  # where the margin is 0, or the range ends
    for one in found:
        assert one.proved.tolist() == [1.0 if end == np.inf else 0.2 for end in exact[one.name]]
        for end, broken in zip(exact[one.name], one.broken):
            assert broken == end == np.inf or end - 1e-6 <= broken <= end + 1 / 200 + 1e-6
    assert found[0].counts(Fraction(2, 10)) == (2, 0, 0)
    assert found[0].counts(Fraction(26, 100)) == (0, 1, 1)
    assert found[0].counts(Fraction(3, 10)) == (0, 2, 0)
    assert found[2].counts(Fraction(1)) == (2, 0, 0)


def test_whole_numbers_flip_at_whole_numbers():
    net, x = linear(1.0), torch.tensor([[0.4]])
    one = Batch(x, torch.tensor([0]), torch.tensor([0]))
    (real,) = each_alone(net, one, Scales(("n",), (Fraction(1),), (0,)), RADII)
    (whole,) = each_alone(net, one, Scales(("n",), (Fraction(1),), (5,)), RADII)  # 2 of 5; the next is 0.6
    assert real.broken[0] == pytest.approx(0.1, abs=0.006)
    assert whole.broken[0] == pytest.approx(0.2, abs=0.006)


def test_a_wrong_decision_is_refused():
    batch = Batch(torch.tensor([[0.9]]), torch.tensor([0]), torch.tensor([0]))
    with pytest.raises(ValueError, match="there is no right decision to flip"):
        each_alone(linear(1.0), batch, Scales(("n",), (Fraction(1),), (0,)), RADII)
