"""The hash of examples: each value, class, position, type and shape counts, and nothing else."""

import hashlib

import torch

from certtrain.data.hashing import PIECE, inputs_sha256

N = 3 * PIECE + 5


def examples():
    x = torch.rand(N, 2, 3, generator=torch.Generator().manual_seed(0))
    return x, torch.arange(N) % 7, torch.arange(N)


def test_it_is_the_sha256_that_the_docstring_describes():
    x, y, index = examples()
    content = f"float32 {N} 2 3\n".encode() + x.numpy().tobytes() + f"int64 {N} \n".encode() + y.numpy().tobytes()
    assert inputs_sha256(x, y, index) == hashlib.sha256(content).hexdigest()


def test_all_that_makes_other_examples_makes_another_hash():
    x, y, index = examples()
    pixel, label = x.clone(), y.clone()
    pixel[-1, -1, -1] += 1e-6
    label[-1] += 1
    hashes = [
        inputs_sha256(x, y, index),
        inputs_sha256(pixel, y, index),
        inputs_sha256(x, label, index),
        inputs_sha256(x, y, index.flip(0)),
        inputs_sha256(x, y, index[:-1]),
        inputs_sha256(x.double(), y, index),
        inputs_sha256(x.reshape(N, 6), y, index),
        inputs_sha256(x, y, index[:0]),
    ]
    assert len(set(hashes)) == len(hashes)


def test_what_is_not_chosen_and_how_it_lies_in_memory_do_not_count():
    x, y, index = examples()
    other = x.clone()
    other[1::2] = 0
    assert inputs_sha256(other, y, index[::2]) == inputs_sha256(x, y, index[::2])
    assert inputs_sha256(x.transpose(1, 2).contiguous().transpose(1, 2), y, index) == inputs_sha256(x, y, index)


def test_inputs_that_are_made_on_demand():
    x, y, index = examples()

    class Made:
        dtype, shape = x.dtype, tuple(x.shape)

        def __getitem__(self, positions):
            assert len(positions) <= PIECE
            return x[positions]

    assert inputs_sha256(Made(), y, index) == inputs_sha256(x, y, index)
