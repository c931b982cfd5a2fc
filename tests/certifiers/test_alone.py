"""One feature at a time: a linear network flips exactly where its weights say."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from certtrain.certifiers.alone import _any_category, each_alone
from certtrain.data import Batch
from certtrain.threat.scales import Scales

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


WHOLE = 4  # whole numbers in the range of the second feature
TABLE = Scales(
    ("c=a", "age", "c=b", "s=f", "s=m", "c=d", "still"),
    (Fraction(0), Fraction(1, 4), *[Fraction(0)] * 5),
    (0, WHOLE, *[0] * 5),
    groups=(("c", (0, 2, 5)), ("s", (3, 4))),
)


def of_table(seed):
    """A network of two classes and rows that it classifies correctly, some of them with a colour nobody knew."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(7, 12), nn.ReLU(), nn.Linear(12, 2))
    x = torch.zeros(40, 7)
    x[:, 1] = torch.randint(WHOLE + 1, (40,)) / WHOLE
    for _, places in TABLE.groups:
        x[torch.arange(40), torch.tensor(places)[torch.randint(len(places), (40,))]] = 1
    x[:4, [0, 2, 5]] = 0
    x[:, 6] = torch.rand(40)
    return net, Batch(x, net(x).argmax(1).detach(), torch.arange(40))


def enumerated(net, batch, name, radius):
    """Whether one value that the feature may take, tried by itself, changes the class."""
    flips = torch.zeros(len(batch.x), dtype=torch.bool)
    rows = []
    for places in [places for column, places in TABLE.groups if column == name]:
        for place in places:
            rows.append(batch.x.clone())
            rows[-1][:, list(places)] = 0
            rows[-1][:, place] = 1
    if name == "age":
        most = int(radius * TABLE.values[1] * WHOLE)
        for step in range(-most, most + 1):
            rows.append(batch.x.clone())
            rows[-1][:, 1] = (batch.x[:, 1] + step / WHOLE).clamp(0, 1)
    for row in rows:
        flips |= net.double()(row.double()).argmax(1) != batch.y
    net.float()
    return flips.numpy()


@pytest.mark.parametrize("seed", range(6))
def test_each_feature_alone_is_what_an_enumeration_of_its_values_says(seed):
    net, batch = of_table(seed)
    radii = (Fraction(0), Fraction(1, 2), Fraction(1), Fraction(2))
    told = []
    found = each_alone(net, batch, TABLE, radii, progress=told.append)
    assert (
        told == [one.name for one in found] == ["c", "age", "s"]
    )  # in their order, each column once; not what is still
    for one in found:
        assert (one.size is None) == (one.name != "age")
        for radius in radii:
            flips = enumerated(net, batch, one.name, radius)
            proved, broken = one.proved >= float(radius), one.broken <= float(radius)
            assert not (flips & proved).any()
            assert (flips == broken).all()
            assert one.size is not None or (flips | proved).all()  # nothing open: every category was tried
            assert one.counts(radius) == (proved.sum(), broken.sum(), (~proved & ~broken).sum())


def test_the_enumeration_meets_both_ends():
    fell = [
        one.broken == 0 for seed in range(6) for one in each_alone(*of_table(seed), TABLE, RADII) if one.size is None
    ]
    assert 0 < np.concatenate(fell).mean() < 1


def test_a_category_that_gives_no_number_is_not_proved():
    class NoNumber(nn.Module):
        def forward(self, x):
            return torch.stack([1 / (1 - x[:, 5]) * (1 - x[:, 5]), 0 * x[:, 5]], 1)  # NaN for d, else 1 and 0

    x = torch.zeros(2, 7, dtype=torch.float64)
    x[:, 3] = x[0, 0] = x[1, 2] = 1
    one = Batch(x, torch.zeros(2, dtype=torch.int64), torch.arange(2))
    assert _any_category(NoNumber(), one, replace(TABLE, groups=TABLE.groups[1:]), RADII[-1]).proved.tolist() == [1, 1]
    assert _any_category(NoNumber(), one, replace(TABLE, groups=TABLE.groups[:1]), RADII[-1]).proved.tolist() == [
        -1,
        -1,
    ]
