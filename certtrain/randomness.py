"""Keyed randomness: every random number is a pure function of what it is for, never of what was drawn before it.

`f(seed, purpose, ..., index, draw)` makes the bits independent of batch size, order, number of devices and of the place
where a run was resumed. The generator is Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2,
3") in integer tensor operations: exact, hence the same on every device.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)  # golden ratio and sqrt(3) - 1: what the key grows by from round to round
ROUNDS = 10

Key = tuple[int, int]


def key(seed: int, *words: int | str) -> Key:
    """A Philox key (two 32-bit words) for a seed and a tuple of words that says what the numbers are for.

    The first 8 bytes of BLAKE2b over an injective encoding (type, length, text of each word). Distinct tuples, such as
    two purposes, share a key with probability 2^-64; `(1, "23")`, `(12, "3")` and `("1", 23)` are three tuples.
    """
    encoded = bytearray()
    for word in (seed, *words):
        if isinstance(word, bool) or not isinstance(word, (int, str)):
            raise TypeError(f"a key is made of integers and strings, not {word!r}")
        text = str(word).encode()
        encoded += b"%c%d:%s" % (b"s" if isinstance(word, str) else b"i", len(text), text)
    digest = hashlib.blake2b(bytes(encoded), digest_size=8, person=b"certtrain").digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def philox4x32(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: Key) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10: four 32-bit counters and two 32-bit key words to four random 32-bit words.

    Args:
        counter: four int64 tensors of values in [0, 2^32), of shapes that broadcast.
        key: two integers in [0, 2^32).

    Returns:
        Four int64 tensors of values in [0, 2^32), in the broadcast shape.
    """
    shape = torch.broadcast_shapes(*(word.shape for word in counter))
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        # The 64-bit products wrap around in int64; what matters is their bits. The low words are left unmasked above
        # bit 32: the mask after the next xor removes both that and the sign bits of the arithmetic shift.
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c2 = _mixed(p1 >> 32, c1, k0), _mixed(p0 >> 32, c3, k1)
        c1, c3 = p1, p0
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    c1, c3 = c1.bitwise_and_(MASK), c3.bitwise_and_(MASK)
    return c0.expand(shape), c1.expand(shape), c2.expand(shape), c3.expand(shape)


def _mixed(high: Tensor, low: Tensor, key_word: int) -> Tensor:
    """`(high ^ low ^ key_word) & MASK`; overwrites `high`.

    In the first two rounds words still depend on the row or on the block alone: what is small is done on the small one.
    """
    if high.shape == low.shape:
        return high.bitwise_xor_(low).bitwise_xor_(key_word).bitwise_and_(MASK)
    shape = torch.broadcast_shapes(high.shape, low.shape)
    if high.shape == shape:
        return high.bitwise_xor_(low ^ key_word).bitwise_and_(MASK)
    return high.bitwise_xor_(key_word).bitwise_and_(MASK) ^ (low & MASK)


def words(key: Key, index: Tensor, draw: Tensor, block: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The random words at counter (block, draw, low and high half of the index); int64 tensors that broadcast.

    `draw` and `block` must be in [0, 2^32): the caller knows them as Python numbers and `check_range`s those, because
    to look at a tensor's values would make the accelerator wait.
    """
    if index.dtype != torch.int64:
        raise ValueError(f"an index is int64, not {index.dtype}")
    return philox4x32((block, draw, index & MASK, (index >> 32) & MASK), key)


def check_range(name: str, low: int, high: int) -> None:
    """Refuse a counter outside [0, 2^32), which would silently repeat the numbers of another one.

    Raises:
        ValueError: low < 0 or high >= 2^32.
    """
    if low < 0 or high > MASK:
        raise ValueError(f"{name} = {low} .. {high} is outside [0, 2^32)")


def permutation(seed: int, epoch: int, n: int) -> Tensor:
    """The order of n examples in an epoch: an int64 permutation of 0 .. n-1, on the CPU.

    Sorts n keyed 64-bit numbers; equal ones (probability below n^2 2^-65) keep their order.
    """
    check_range("epoch", epoch, epoch)
    blocks = torch.arange((n + 1) // 2)
    a, b, c, d = words(key(seed, "permutation"), torch.tensor(0), torch.tensor(epoch), blocks)
    return torch.cat([(a << 32) | b, (c << 32) | d])[:n].argsort(stable=True)


def uniforms(seed: int, purpose: str, epoch: int, index: Tensor, count: int) -> Tensor:
    """Uniform numbers in [0, 1) for the examples of a batch, such as the choices of an augmentation.

    Args:
        seed: the run's seed.
        purpose: what they are for; two purposes are independent.
        epoch: number of the pass over the data.
        index: (B,) int64 positions in the split.
        count: how many per example.

    Returns:
        (B, count) float32 multiples of 2^-24, on the index's device.
    """
    check_range("epoch", epoch, epoch)
    blocks = torch.arange((count + 3) // 4, device=index.device)
    draw = torch.full((), epoch, device=index.device)  # torch.tensor would be sent there, and waited for
    lanes = words(key(seed, "uniforms", purpose), index[:, None], draw, blocks)
    bits = torch.stack(lanes, dim=-1).reshape(len(index), 4 * len(blocks))[:, :count]
    return (bits >> 8).to(torch.float32) * 2.0**-24  # 24 bits: the conversion is exact and never reaches 1
