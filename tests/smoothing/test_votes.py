"""Votes depend on the example and its draws alone, and only finite logits vote."""

import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from certtrain.errors import UserError
from certtrain.smoothing.noise import gaussian_noise
from certtrain.smoothing.votes import NEAR_TIE, count_votes, near_tie


def count(network, x, index, draws=range(20), num_classes=3, batch_size=7, **kind):  # noqa: B008
    key = {"sigma": 0.5, "seed": 0, "purpose": "estimate", "split": "test", **kind}
    return count_votes(network, x, torch.as_tensor(index), draws, num_classes=num_classes, batch_size=batch_size, **key)


def test_votes_are_the_argmax_under_the_keyed_noise(pixels):
    x, index = torch.rand(4, 1, 2, 3), torch.tensor([9, 2, 5, 2**33])
    noise = gaussian_noise(0, "estimate", "test", index, range(5, 25), (1, 2, 3), 0.5)
    answers = (x[:, None] + noise).flatten(2)[..., :3].argmax(-1)
    expected = torch.stack([(answers == k).sum(1) for k in range(3)], 1)
    assert torch.equal(count(pixels(3), x, index, range(5, 25)).counts, expected)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.permutations(range(5)), st.integers(1, 200), st.integers(1, 30))
def test_batch_size_and_order_change_no_vote(pixels, order, batch_size, draws):
    x, index, order = torch.linspace(0, 1, 30).reshape(5, 6), torch.arange(5), torch.tensor(order)
    whole = count(pixels(4), x, index, range(draws), 4, batch_size=1000).counts
    other = count(pixels(4), x[order], index[order], range(draws), 4, batch_size=batch_size).counts
    assert torch.equal(other, whole[order])
    assert (whole.sum(1) == draws).all()


def test_batches_are_filled_across_examples_and_draws(pixels):
    network = pixels(3)
    count(network, torch.rand(5, 6), range(5), range(9), batch_size=20)
    assert [len(x) for x in network.seen] == [20, 20, 5, 10, 10]  # some of the first are evaluated once more


def test_counts_of_two_ranges_of_draws_add_up(pixels):
    x = torch.rand(5, 6)
    parts = [count(pixels(3), x, range(5), draws).counts for draws in (range(13), range(13, 40))]
    assert torch.equal(parts[0] + parts[1], count(pixels(3), x, range(5), range(40)).counts)


def test_ties_go_to_the_first_class():
    class Constant(nn.Module):
        def forward(self, x):
            return torch.tensor([[1.0, 3.0, 3.0]]).expand(len(x), 3)

    assert count(Constant(), torch.rand(3, 4), range(3)).counts.tolist() == [[0, 20, 0]] * 3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_logit_that_is_not_finite_is_no_vote_and_names_its_example(value):
    class Breaks(nn.Module):
        def forward(self, x):
            logits = torch.zeros(len(x), 3)
            logits[:, 1] = torch.where(x[:, 0] > 50, value, 1.0)
            return logits

    x = torch.rand(3, 4)
    x[1] += 50.5
    with pytest.warns(UserWarning, match="test: 42;"):
        votes = count(Breaks(), x, [7, 42, 8], range(200))
    assert votes.invalid.tolist() == [False, True, False]
    assert votes.counts[0].tolist() == [0, 200, 0]
    assert votes.counts[1, 0] == votes.counts[1, 2] == 0
    assert votes.counts[1, 1] < 200


def test_dropout_and_batch_statistics_play_no_part():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    network(torch.rand(50, 6))
    x = torch.rand(4, 6)
    expected = count(network.eval(), x, range(4)).counts
    network.train()
    state = {k: v.clone() for k, v in network.state_dict().items()}
    random = torch.get_rng_state()
    assert torch.equal(count(network, x, range(4)).counts, expected)
    assert all(module.training for module in network.modules())
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert all(p.grad is None and p.requires_grad for p in network.parameters())


def test_autocast_around_it_changes_nothing():
    torch.manual_seed(0)
    network, x = nn.Linear(600, 5), torch.rand(20, 600)
    expected = count(network, x, range(20), num_classes=5, batch_size=400).counts
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(count(network, x, range(20), num_classes=5, batch_size=400).counts, expected)


def test_noise_is_added_to_the_input_and_not_clipped(pixels):
    network = pixels(3)
    x = torch.ones(2, 6)
    count(network, x, range(2), range(100))
    seen = torch.cat(network.seen)
    assert seen.max() > 1.5
    assert abs((seen - 1).std().item() - 0.5) < 0.05


def test_float64_networks_get_the_same_noise(pixels):
    x = torch.rand(2, 6, dtype=torch.float64)
    network = pixels(3)
    count(network, x, range(2))
    noise = gaussian_noise(0, "estimate", "test", torch.arange(2), range(20), (6,), 0.5)
    assert torch.equal(torch.cat(network.seen[:-2]), (x[:, None] + noise.double()).flatten(0, 1))


def test_wrong_number_of_classes(pixels):
    with pytest.raises(UserError, match="not to 4 logits"):
        count(pixels(3), torch.rand(2, 6), range(2), num_classes=4)


def test_nothing_to_count(pixels):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert count(pixels(3), torch.rand(0, 6), torch.zeros(0, dtype=torch.int64)).counts.shape == (0, 3)
        assert count(pixels(3), torch.rand(2, 6), range(2), range(0)).counts.sum() == 0


def test_near_ties_are_those_that_rounding_could_turn():
    logits = torch.tensor([[1.0, 2.0, 0.0], [2.0, 2.0, 0.0], [2.0, 2.0 - 1e-6, -9.0], [100.0, 99.9995, 0], [1, 1.1, 1]])
    assert near_tie(logits, NEAR_TIE["float32"]).tolist() == [False, True, True, True, False]
    assert near_tie(logits, NEAR_TIE["bfloat16"]).tolist() == [False, True, True, True, False]


def test_near_ties_are_counted_by_example(pixels):
    class Close(nn.Module):
        def forward(self, x):
            return torch.stack([x[:, 0], x[:, 0] * (1 + 1e-6), x[:, 1]], 1)

    x = torch.tensor([[9.0, 0.0], [0.0, 9.0], [1.0, 1.0]])
    votes = count(Close(), x, range(3), range(200))
    assert votes.near_ties[0] == 200
    assert votes.near_ties[1] == 0
    assert 20 < votes.near_ties[2] < 180
    assert count(pixels(3), torch.rand(4, 6), range(4), range(500)).near_ties.sum() <= 2


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_precision_is_that_of_the_network_and_ends_with_it(precision):
    kinds = []

    class Watched(nn.Linear):
        def forward(self, x):
            out = super().forward(x)
            kinds.append((x.dtype, out.dtype))
            return out

    count(Watched(6, 3), torch.rand(2, 6), range(2), precision=precision)
    assert set(kinds) == {(torch.float32, getattr(torch, precision))}
    count(Watched(6, 3), torch.rand(2, 6), range(2))
    assert kinds[-1] == (torch.float32, torch.float32)


def test_unknown_precision(pixels):
    with pytest.raises(UserError, match="unknown precision 'double'"):
        count(pixels(3), torch.rand(2, 6), range(2), precision="double")


def test_exact_arithmetic_gives_equal_votes_in_any_batches(linear):
    """Weights with few bits, inputs and noise rounded to multiples of 2^-8: every sum is exact in float32."""

    class Rounded(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner((x * 256).round() / 256)

    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-8, 9, (4, 20), generator=generator) / 8
    network = Rounded(linear(weight.float(), torch.randint(-8, 9, (4,), generator=generator) / 8.0))
    x = torch.rand(6, 20, generator=generator)
    expected = count(network, x, range(6), range(300), 4, batch_size=1).counts
    for batch_size in (2, 33, 512, 10_000):
        assert torch.equal(count(network, x, range(6), range(300), 4, batch_size=batch_size).counts, expected)
