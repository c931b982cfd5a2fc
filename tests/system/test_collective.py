"""Sums, means and decisions of a process on its own are what it gives; of several: tests/training/test_ranks.py."""

import torch

from certtrain.bounds.batchnorm import whole_batch_norm
from certtrain.system import collective


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
    assert collective.shares([3, 4], x) is None
    answers = iter([0, 2, 0])
    poll = collective.Poll(lambda: next(answers))
    assert [poll(), poll(), poll(now=True)] == [0, 2, 0]


def test_alone_batch_norm_is_torchs_own():
    network = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.InstanceNorm1d(2))
    with whole_batch_norm(network):
        assert "forward" not in vars(network[0])
