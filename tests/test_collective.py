"""Sums, means and decisions over processes; alone, everything is as it is given."""

import pytest
import torch
from together import by_three

from certtrain import collective
from certtrain.bounds.batchnorm import whole_batch_norm


def test_alone_everything_is_what_it_is():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    assert collective.global_sum(x) is x
    assert (collective.processes(), collective.rank(), collective.global_max(3), collective.gather("a")) == (
        1,
        0,
        3,
        ["a"],
    )
    means = collective.global_means([x, 3 * x])
    assert [float(mean) for mean in means] == [1.5, 4.5]
    assert [float(total) for total in collective.global_sums([x])] == [3.0]
    assert collective.global_means([]) == collective.global_sums([]) == []
    answers = iter([0, 2, 0])
    poll = collective.Poll(lambda: next(answers))
    assert [poll(), poll(), poll(now=True)] == [0, 2, 0]


def test_alone_batch_norm_is_torchs_own():
    network = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.InstanceNorm1d(2))
    with whole_batch_norm(network):
        assert "forward" not in vars(network[0])


def test_three_processes():
    """Rank r has the rows 1 ... r + 1: ten numbers less four, 1 + 3 + 6 = 10 in all."""
    found = by_three()["sums"]
    assert found["mean"] == pytest.approx(10 / 6)
    assert found["doubled"] == pytest.approx(20 / 6)
    # Each process's loss is (its number + 1) * total^2; the gradient of their sum is 6 * 2 * 10 everywhere.
    assert found["gradient"] == [120.0]
    assert found["max"] == 2
    assert found["gather"] == [{"number": 0}, {"number": 1}, {"number": 2}]
    assert found["place"] == (0, 3)
    first = found["polls"][0]
    assert found["polls"] == [first] * 3  # all stop at the same call, for what only the last of them knows
    assert first[-1] == 15
    assert len(first) >= 4
    assert found["now"] == 15
