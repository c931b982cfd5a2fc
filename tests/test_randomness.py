"""Philox against its published vectors, and every keyed number a function of its key alone."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from certtrain.randomness import key, permutation, philox4x32, uniforms, words

# Random123, tests/kat_vectors, the three lines of "philox4x32 10": counter[4] key[2] -> result[4].
KNOWN = [
    "00000000 00000000 00000000 00000000 00000000 00000000 6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    "ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff 408f276d 41c83b0e a20bc7c6 6d5451fd",
    "243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0 d16cfe09 94fdcceb 5001e420 24126ea1",
]


@pytest.mark.parametrize("line", KNOWN)
@pytest.mark.parametrize("n", [1, 7, 64])  # scalar tail and vector body of the kernels
def test_philox_known_answers(line, n):
    numbers = [int(word, 16) for word in line.split()]
    counter = tuple(torch.full((n,), c) for c in numbers[:4])
    out = torch.stack(philox4x32(counter, (numbers[4], numbers[5])), dim=1)
    assert out.tolist() == [numbers[6:]] * n


def philox_in_integers(counter, key):
    """The same rounds in Python's integers, which cannot overflow."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 % 2**32, (p0 >> 32) ^ c3 ^ k1, p0 % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [c0, c1, c2, c3]


WORD = st.integers(0, 2**32 - 1)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(WORD, WORD, WORD, WORD), min_size=1, max_size=40), st.tuples(WORD, WORD))
def test_philox_equals_integers_for_any_counter(counters, key):
    lanes = tuple(torch.tensor(lane) for lane in zip(*counters))
    out = torch.stack(philox4x32(lanes, key), dim=1).tolist()
    assert out == [philox_in_integers(counter, key) for counter in counters]


def test_words_use_both_halves_of_the_index_and_refuse_what_does_not_fit():
    zero = torch.tensor(0)
    a = words((1, 2), torch.tensor([5, 5 + 2**32, 5 + 2**40]), zero, zero)[0].tolist()
    assert len(set(a)) == 3
    with pytest.raises(ValueError, match="int64"):
        words((1, 2), torch.tensor(1.0), zero, zero)


@pytest.mark.parametrize("epoch", [-1, 2**32])
def test_an_epoch_out_of_range_would_repeat_another(epoch):
    with pytest.raises(ValueError, match="epoch"):
        permutation(0, epoch, 5)
    with pytest.raises(ValueError, match="epoch"):
        uniforms(0, "flip", epoch, torch.arange(3), 2)


def test_keys_are_distinct_and_fixed():
    seen = [key(*t) for t in [(1, "23"), (12, "3"), ("1", 23), (123,), (1, 23), (1, 2, 3), (1, "2", "3"), (1, "2i1:3")]]
    assert len(set(seen)) == len(seen)
    assert len({key(seed, word) for seed, word in itertools.product(range(-50, 50), "abcde")}) == 500
    assert key(0, "permutation") == (0x588B3A3, 0xA4396B3A)  # frozen: a change here changes every published number
    with pytest.raises(TypeError):
        key(0, 1.5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 1000), st.integers(0, 300))
def test_permutation_is_one_and_is_keyed(seed, epoch, n):
    order = permutation(seed, epoch, n)
    assert sorted(order.tolist()) == list(range(n))
    assert torch.equal(order, permutation(seed, epoch, n))
    if n > 20:
        assert not torch.equal(order, permutation(seed, epoch + 1, n))
        assert not torch.equal(order, permutation(seed + 1, epoch, n))


def test_permutations_of_three_are_equally_likely():
    counts = {}
    for epoch in range(6000):
        order = tuple(permutation(3, epoch, 3).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6
    assert all(abs(c - 1000) < 150 for c in counts.values())  # 5 standard deviations


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=50), st.integers(1, 9), st.integers(0, 100))
def test_uniforms_depend_on_the_example_and_not_on_its_batch(indices, count, epoch):
    index = torch.tensor(indices)
    u = uniforms(7, "crop", epoch, index, count)
    assert u.shape == (len(indices), count)
    assert u.dtype == torch.float32
    assert u.min() >= 0
    assert u.max() < 1
    for i in range(len(indices)):
        assert torch.equal(u[i : i + 1], uniforms(7, "crop", epoch, index[i : i + 1], count))
    assert torch.equal(u[:, :1], uniforms(7, "crop", epoch, index, 1))


def test_uniforms_are_uniform_and_purposes_independent():
    index = torch.arange(50_000)
    a = uniforms(1, "flip", 0, index, 4)
    assert (a.mean(0) - 0.5).abs().max() < 0.007  # 5 standard errors
    assert (a.var(0) - 1 / 12).abs().max() < 0.002
    for other in (uniforms(1, "crop", 0, index, 4), uniforms(1, "flip", 1, index, 4), uniforms(2, "flip", 0, index, 4)):
        for x, y in itertools.product(a.T, other.T):
            assert torch.corrcoef(torch.stack([x, y]))[0, 1].abs() < 0.025
