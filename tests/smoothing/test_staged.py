"""Staged votes are the first votes of the fixed-n stream, whatever the batches."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from certtrain.errors import UserError
from certtrain.smoothing.anytime import StageSchedule
from certtrain.smoothing.classifier import ABSTAIN, SmoothedClassifier
from certtrain.smoothing.staged import check_draw_counts


@pytest.fixture
def schedule():
    return StageSchedule.plan(["0.1", "0.4"], sigma=0.5, n=2000, alpha=0.01)


@pytest.fixture
def x():
    offset = torch.tensor([[0.0, 0, 0], [0.3, 0, 0], [1.0, 0, 0], [3.0, 0, 0], [0.5, 0.5, 0]])
    return torch.cat([offset, torch.rand(3, 3, generator=torch.Generator().manual_seed(0))])


def test_rows_replay_and_are_the_first_draws_of_the_fixed_stream(pixels, schedule, x):
    g, index = SmoothedClassifier(pixels(3), 0.5, 3), torch.arange(len(x)) * 7
    found = g.certify_targets(x, index, schedule)
    assert len(set(found.draws.tolist())) > 2
    for i, counts in enumerate(found.stage_counts):
        replay = schedule.replay(counts)
        assert replay.finished
        assert schedule.draws[len(counts) - 1] == found.draws[i]
        assert counts[-1] == found.count_top[i]
        assert (replay.claimed < 0) == (found.predict[i] == ABSTAIN)
        assert replay.stage == found.stage[i]
        assert found.radius[i] == float(schedule.targets[max(replay.claimed, 0)])
        fixed = g.certify(x[i : i + 1], index[i : i + 1], n=int(found.draws[i]), alpha=0.01)
        assert (fixed.count_top[0], fixed.count_runner_up[0]) == (found.count_top[i], found.count_runner_up[i])
    assert found.predict[3] == 0
    assert found.radius[3] == 0.4


@pytest.mark.parametrize("batch_size", [1, 7, 100_000])
def test_batch_size_and_order_change_nothing(pixels, schedule, x, batch_size):
    order, index = torch.tensor([5, 2, 7, 0, 1, 3, 6, 4]), torch.arange(len(x))
    few = StageSchedule.plan(["0.1"], sigma=0.5, n=150, alpha=0.1)
    whole = SmoothedClassifier(pixels(3), 0.5, 3).certify_targets(x, index, few)
    other = SmoothedClassifier(pixels(3), 0.5, 3, batch_size=batch_size).certify_targets(x[order], index[order], few)
    for name in ("predict", "radius", "count_top", "draws", "stage"):
        assert (getattr(other, name) == getattr(whole, name)[order.numpy()]).all()
    assert other.stage_counts == [whole.stage_counts[i] for i in order]


def test_an_example_that_breaks_the_network_is_withdrawn(schedule):
    class Breaks(nn.Module):
        def forward(self, x):
            logits = torch.zeros(len(x), 3)
            logits[:, 1] = torch.where((x[:, 0] > 51.4) | x[:, 0].isnan(), math.nan, 1.0)
            return logits

    x = torch.zeros(3, 4)
    x[1, 0], x[2, 0] = 50.0, math.nan  # the first breaks at a rare draw, the second at all of them
    with pytest.warns(UserWarning, match="NaN or infinite"):
        found = SmoothedClassifier(Breaks(), 0.5, 3).certify_targets(x, torch.arange(3), schedule)
    assert found.invalid.tolist() == [False, True, True]
    assert (found.predict[0], found.radius[0]) == (1, 0.4)
    assert found.predict[1:].tolist() == [ABSTAIN] * 2
    assert found.radius[1:].tolist() == [0.0] * 2
    assert found.stage[1:].tolist() == [0, 0]
    assert found.draws[2] == 0


def test_no_examples(pixels, schedule):
    found = SmoothedClassifier(pixels(3), 0.5, 3).certify_targets(torch.rand(0, 3), torch.arange(0), schedule)
    assert len(found.predict) == 0


def test_bad_calls(pixels, schedule, x):
    g = SmoothedClassifier(pixels(3), 0.25, 3)
    with pytest.raises(ValueError, match=r"schedule for sigma 0\.5"):
        g.certify_targets(x, torch.arange(len(x)), schedule)
    g = SmoothedClassifier(pixels(3), 0.5, 3)
    with pytest.raises(UserError, match="both from the stream"):
        g.certify_targets(x, torch.arange(len(x)), schedule, purposes=("select", "select"))
    with pytest.raises(UserError, match="n0 = 0"):
        g.certify_targets(x, torch.arange(len(x)), schedule, n0=0)


@pytest.mark.parametrize(("n", "such_as"), [(100_000, 100), (1000, 100), (200, 20), (5, 1)])
def test_the_n0_that_a_message_suggests_goes_with_n(n, such_as):
    with pytest.raises(UserError, match="n0 = 0 draws") as caught:
        check_draw_counts(0, n, 0.001)
    assert caught.value.fix.endswith(f"such as n0={such_as}")
    with pytest.raises(UserError, match="n = 0 draws"):
        check_draw_counts(0, 0, 0.001)


def test_targets_are_exact(pixels):
    schedule = StageSchedule.plan(["2/255"], sigma=0.5, n=500, alpha=0.01)
    found = SmoothedClassifier(pixels(3), 0.5, 3).certify_targets(torch.eye(3) * 5, torch.arange(3), schedule)
    assert (found.radius == float(Fraction(2, 255))).all()
    assert np.array_equal(found.predict, [0, 1, 2])
