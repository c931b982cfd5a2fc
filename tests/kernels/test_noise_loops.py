"""Compiled noise has the bits of the tensors' noise, or is not used."""

import shutil
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from certtrain.kernels import noise
from certtrain.kernels.loader import VARIABLE
from certtrain.randomness import key, uniforms
from certtrain.smoothing.noise import noise_rows

needs_compiler = pytest.mark.skipif(noise.LOOPS.get() is None, reason="this machine has no C compiler")
WORD = st.integers(0, 2**32 - 1)


@pytest.fixture
def threads():
    """Set the number of threads; the old number comes back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def counting(monkeypatch):
    """A process that has made no noise so far."""
    monkeypatch.setattr(noise, "_made", 0)


def same(left, right):
    return torch.equal(left.view(torch.int32), right.view(torch.int32))


def test_a_machine_with_a_compiler_has_loops():
    assert (noise.LOOPS.get() is not None) == (shutil.which("cc") is not None)


@needs_compiler
@settings(max_examples=50, deadline=None)
@given(
    key=st.tuples(WORD, WORD),
    rows=st.lists(st.tuples(st.integers(0, 2**62), WORD), min_size=0, max_size=40),
    blocks=st.integers(1, 70),
    sigma=st.floats(0, 4),
)
def test_bits_are_those_of_the_tensors(key, rows, blocks, sigma):
    index, draw = torch.tensor(rows, dtype=torch.int64).reshape(-1, 2).unbind(1)  # strided
    assert same(
        noise.LOOPS.get().rows(key, index, draw, blocks, sigma), noise.rows_by_tensors(key, index, draw, blocks, sigma)
    )


@needs_compiler
@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.integers(0, 2**62), min_size=0, max_size=40), count=st.integers(1, 70), epoch=WORD, seed=WORD)
def test_uniform_numbers_have_the_bits_of_the_tensors(rows, count, epoch, seed):
    index = torch.tensor(rows, dtype=torch.int64)
    expected = uniforms(seed, "attack", epoch, index, count)
    found = noise.LOOPS.get().uniforms(key(seed, "uniforms", "attack"), index, epoch, (count + 3) // 4)
    assert same(found[:, :count].contiguous(), expected)
    assert same(noise.keyed_uniforms(seed, "attack", epoch, index, count).contiguous(), expected)


@needs_compiler
def test_bits_are_those_of_the_tensors_at_every_word_where_something_changes():
    words = torch.cat([torch.arange(-99, 99) + (1 << bit) for bit in range(33)]) % (1 << 32)
    radial, angular = torch.cartesian_prod(words, words[:: len(words) // 40]).unbind(1)
    expected = torch.empty(2, len(radial))
    noise.normal_pair(radial, angular, *expected)
    assert same(torch.stack(noise.LOOPS.get().pairs(radial, angular)), expected)


@needs_compiler
@pytest.mark.parametrize("count", [1, 2, 5])
def test_bits_are_the_same_with_any_number_of_threads(threads, monkeypatch, count):
    monkeypatch.setattr(noise, "SEVERAL", 100)
    index, draw = torch.arange(23), torch.arange(23)
    expected = noise.rows_by_tensors((1, 2), index, draw, 61, 1.0)
    threads(count)
    assert same(noise.LOOPS.get().rows((1, 2), index, draw, 61, 1.0), expected)


@needs_compiler
def test_a_process_that_makes_little_noise_compiles_nothing(counting, monkeypatch):
    monkeypatch.setattr(noise, "PAYS_AFTER", 20)
    asked = []
    monkeypatch.setattr(noise.LOOPS, "get", lambda: asked.append(1))
    for blocks in (4, 16, 1):  # 20 counters, then one more
        assert not asked
        noise_rows(0, "train", "train", torch.arange(1), torch.arange(1), (4 * blocks,), 1.0)
    assert asked == [1]


@needs_compiler
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 5), (1,)])
def test_noise_does_not_change_where_the_loops_take_over(counting, monkeypatch, shape):
    args = (3, "estimate", "test", torch.arange(11), torch.arange(11) + 5, shape, 0.25)
    before = noise_rows(*args)
    monkeypatch.setattr(noise, "PAYS_AFTER", 0)
    assert same(noise_rows(*args), before)


@pytest.mark.parametrize("name", ["", "a compiler that is not there", "false"])
def test_without_a_compiler_that_works_there_are_no_loops(name):
    assert noise.LOOPS.build({VARIABLE: name}) is None


@needs_compiler
@pytest.mark.parametrize("constant", ["MINUS_LOG_2", "ANGLE"])
def test_loops_that_err_in_one_bit_are_not_used(monkeypatch, constant):
    right = noise.constants()
    value = getattr(noise, constant)
    line = f"#define {constant} {noise._float(value)}"
    wrong = torch.nextafter(torch.tensor(value), torch.tensor(0.0)).item()
    assert line in right
    monkeypatch.setattr(noise, "constants", lambda: right.replace(line, f"#define {constant} {wrong.hex()}f"))
    with pytest.warns(UserWarning, match="the compiled noise differ from the tensors'"):
        assert noise.LOOPS.checked() is None


@needs_compiler
def test_sound_noise_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert noise.LOOPS.checked() is not None
