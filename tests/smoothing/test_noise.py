"""Noise bits depend on nothing but the key, and the numbers are standard normal."""

import hashlib
import itertools
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from certtrain.errors import UserError
from certtrain.kernels import noise
from certtrain.kernels.noise import exact_sqrt, negative_log, normal_pair
from certtrain.smoothing.noise import PURPOSES, SPLITS, gaussian_noise

ONE = range(1)


def make(index, draws=ONE, shape=(1, 7, 7), seed=0, purpose="select", split="test", sigma=1.0):
    return gaussian_noise(seed, purpose, split, torch.as_tensor(index), draws, shape, sigma)


@pytest.fixture
def threads():
    """Set the number of threads; the old number comes back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.sampled_from([(1,), (2,), (3,), (5,), (13,), (1, 7, 7), (3, 11, 5), (97,), (1, 28, 28), (257,)]),
    index=st.lists(st.integers(0, 2**40), min_size=1, max_size=13),
    draws=st.builds(range, st.integers(0, 5), st.integers(6, 23), st.integers(1, 3)),
    chunk=st.sampled_from([1, 3, 64, 1 << 16]),
)
def test_bits_of_one_example_and_draw_are_the_same_in_any_batch_order_and_chunk(shape, index, draws, chunk):
    whole = make(index, draws, shape)
    assert whole.shape == (len(index), len(draws), *shape)
    assert whole.dtype == torch.float32
    before = noise.CPU_CHUNK
    try:
        noise.CPU_CHUNK = chunk
        for i, j in {(0, 0), (len(index) - 1, len(draws) - 1), (len(index) // 2, len(draws) // 2)}:
            assert torch.equal(whole[i, j], make(index[i : i + 1], range(draws[j], draws[j] + 1), shape)[0, 0])
        assert torch.equal(whole.flip(0, 1), make(index[::-1], draws[::-1], shape))
    finally:
        noise.CPU_CHUNK = before


@pytest.mark.parametrize("size", [1, 8, 1009, 3072])
def test_bits_are_the_same_with_one_thread_and_two(threads, size):
    threads(1)
    one = make(range(211), range(3, 10), (size,))
    threads(2)
    assert torch.equal(one, make(range(211), range(3, 10), (size,)))
    assert torch.equal(one[101:103, 2:4], make([101, 102], range(5, 7), (size,)))


def test_each_number_is_a_function_of_its_two_words_wherever_it_stands():
    """The body, the tail and every alignment of the vectorised kernels give the same bits."""
    generator = torch.Generator().manual_seed(0)
    n = 5003
    radial, angular = (torch.randint(0, 2**32, (n,), generator=generator) for _ in range(2))
    whole = torch.empty(2, n)
    normal_pair(radial, angular, whole[0], whole[1])
    for start, stop in [(0, 1), (1, 2), (3, 20), (5, 36), (17, 1040), (4990, n), *((k, k + 9) for k in range(64))]:
        part = torch.empty(2, 3 * (stop - start) + 1)[:, 1::3]  # strided and misaligned output
        normal_pair(radial[start:stop].clone(), angular[start:stop].clone(), part[0], part[1])
        assert torch.equal(part, whole[:, start:stop])


def test_bits_are_frozen():
    """A change here changes every certificate that was ever published with a seed."""
    z = make([3, 2**35 + 1], range(4, 6), (5,), seed=11)
    assert [v.hex() for v in z[1, 1].tolist()] == [
        "0x1.7451540000000p-2",
        "-0x1.5297220000000p-1",
        "0x1.4d02f20000000p-1",
        "-0x1.2946320000000p+0",
        "-0x1.8133e80000000p-1",
    ]


HASH = """
import hashlib, torch
from certtrain.smoothing.noise import gaussian_noise
z = gaussian_noise(1, "estimate", "test", torch.arange(50), range(7), (331,), 1.0)
print(hashlib.sha256(z.numpy().tobytes()).hexdigest(), torch.backends.cpu.get_cpu_capability())
"""


def test_bits_are_the_same_on_an_older_processor():
    """torch's kernels without vector instructions; its own logarithm and cosine give other bits there."""
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "default", "PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.run([sys.executable, "-c", HASH], env=environment, capture_output=True, text=True, check=True)
    digest, capability = out.stdout.split()
    assert capability in ("DEFAULT", "NO")
    z = make(range(50), range(7), (331,), seed=1, purpose="estimate")
    assert digest == hashlib.sha256(z.numpy().tobytes()).hexdigest()


def test_root_is_correctly_rounded():
    x = torch.cat([torch.rand(200_000) * 23, torch.linspace(0, 1e-6, 1000)])
    assert np.array_equal(np.sqrt(x.numpy()), exact_sqrt(x).numpy())  # NumPy uses the processor's exact instruction


def test_logarithm_is_accurate_from_the_smallest_word_to_the_largest():
    words = torch.cat([torch.arange(2000), 2**32 - 1 - torch.arange(2000), torch.logspace(0, 9.6, 5000).long()])
    y = words.double().add(0.5).float()
    exact = -(y.double() / 2**32).log()
    got = negative_log(y).double()
    assert (got >= 0).all()
    assert ((got - exact).abs() <= 3e-7 * exact).all()
    assert negative_log(torch.tensor([0.5])).item() == pytest.approx(33 * math.log(2), rel=1e-6)


def test_pairs_are_box_and_muller():
    radial, angular = torch.randint(0, 2**32, (2, 20_000), generator=torch.Generator().manual_seed(1))
    z = torch.empty(2, 20_000)
    normal_pair(radial, angular, z[0], z[1])
    r = (-2 * ((radial.double() + 0.5).float().double() / 2**32).log()).sqrt()  # u is rounded to float32
    assert torch.allclose(z.double().norm(dim=0), r, rtol=1e-6)
    quadrant = torch.stack([z[0] < 0, z[1] < 0], 1).double().mean(0)
    assert (quadrant - 0.5).abs().max() < 0.02
    # the angle is linear in the word's lower 30 bits
    phi = torch.atan2(z[1].abs().double(), z[0].abs().double())
    low = angular & (2**30 - 1)
    expected = (torch.where(low >= 2**29, low - 2**30, low).double() * 2.0**-30 + 0.5) * math.pi / 2
    assert (phi - expected).abs().max() < 1e-6


def test_moments_and_tails_are_normal():
    z = make(range(4000), range(1), (784,)).double().flatten()
    n = len(z)
    for k, value, spread in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:  # spread: variance of z^k
        assert abs((z**k).mean() - value) < 5 * math.sqrt(spread / n), k
    for t in (0.5, 1.0, 2.0, 3.0, 4.0, 4.5):
        p = scipy.stats.norm.sf(t)
        for count in ((z > t).sum().item(), (z < -t).sum().item()):
            assert abs(count - n * p) < 5 * math.sqrt(n * p) + 1, t
    assert scipy.stats.kstest(z[:200_000].numpy(), "norm").pvalue > 1e-4


def test_tails_reach_beyond_what_half_precision_clips():
    z = torch.empty(2, 4)
    normal_pair(torch.tensor([0, 1, 100, 2**32 - 1]), torch.tensor([2**29 - 1] * 4), z[0], z[1])
    assert z.abs().max(0).values.tolist() == pytest.approx([6.763, 6.598, 5.926, 0.0], abs=2e-3)


def test_streams_are_independent():
    streams = {
        "draw 0": make(range(300), range(1)),
        "draw 1": make(range(300), range(1, 2)),
        "next index": make(range(1000, 1300)),
        "seed": make(range(300), seed=1),
        **{p: make(range(300), purpose=p) for p in PURPOSES if p != "select"},
        **{s: make(range(300), split=s) for s in SPLITS if s != "test"},
    }
    rows = torch.stack([s.flatten() for s in streams.values()])
    off = torch.corrcoef(rows) - torch.eye(len(rows))
    assert off.abs().max() < 5 / math.sqrt(rows.shape[1])
    pixels = torch.corrcoef(make(range(5000), shape=(12,)).reshape(5000, 12).T) - torch.eye(12)
    assert pixels.abs().max() < 5 / math.sqrt(5000)


def test_purposes_and_splits_never_share_a_draw():
    values = [make([0], range(50), (4,), purpose=p, split=s) for p, s in itertools.product(PURPOSES, SPLITS)]
    assert len(torch.cat(values).reshape(-1, 4).unique(dim=0)) == 50 * len(PURPOSES) * len(SPLITS)


def test_sigma_scales_the_same_bits_and_the_global_generator_is_untouched():
    state = torch.get_rng_state()
    assert torch.equal(make([1, 2], sigma=0.25), make([1, 2]) * 0.25)
    assert torch.equal(state, torch.get_rng_state())
    assert make([1], range(0)).shape == (1, 0, 1, 7, 7)
    assert make(torch.zeros(0, dtype=torch.int64)).shape == (0, 1, 1, 7, 7)


def test_mistakes():
    with pytest.raises(UserError, match="estimate"):
        make([0], purpose="estmate")
    with pytest.raises(UserError, match="split"):
        make([0], split="testing")
    for sigma in (-1.0, math.nan, math.inf):
        with pytest.raises(UserError, match="sigma"):
            make([0], sigma=sigma)
    for draws in (range(-1, 2), range(2**32, 2**32 + 1), range(2, -3, -1)):
        with pytest.raises(ValueError, match="draws"):
            make([0], draws)


@pytest.mark.gpu
def test_bits_on_an_accelerator_are_those_of_the_processor():
    index = torch.arange(257)
    cpu = gaussian_noise(5, "estimate", "test", index, range(31), (3, 11, 5), 0.5)
    cuda = gaussian_noise(5, "estimate", "test", index, range(31), (3, 11, 5), 0.5, "cuda")
    assert torch.equal(cpu, cuda.cpu())
