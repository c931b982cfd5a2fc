"""The self-test passes the real noise, on any seed, and refuses each way of being broken that has been seen."""

import pytest
import torch

from certtrain.errors import UserError
from certtrain.smoothing import selftest
from certtrain.smoothing.noise import noise_rows
from certtrain.smoothing.selftest import check_noise


@pytest.mark.parametrize(("seed", "precision"), [(0, "float32"), (1, "bfloat16"), (2, "float16")])
def test_the_real_noise_passes(seed, precision):
    report = check_noise(seed=seed, precision=precision)
    assert report["numbers"] == 4096 * 1024
    assert report["precision"] == precision
    assert report["device"] == "cpu"


def replayed(change):
    """A generator whose recorded bits are right, and whose four million numbers were changed."""

    def generator(seed, purpose, split, index, draw, shape, sigma):
        rows = noise_rows(seed, purpose, split, index, draw, shape, sigma)
        return rows if shape == (1000,) else change(rows, purpose)

    return generator


def repeated(rows, purpose):
    return torch.cat([rows[:-1], rows[:1]]) if len(rows) == 4096 else rows


def uniform_sum(rows, purpose):
    return torch.rand(len(rows), 12, rows.shape[1], generator=torch.Generator().manual_seed(0)).sum(1) - 6


BROKEN = {
    "tail beyond 4.5": lambda x, purpose: x.clamp(-4.5, 4.5),
    "tail above 4": lambda x, purpose: x.clamp(-3.6, 3.6),
    "tail below -4": lambda x, purpose: torch.where(x < -3.9, -x.remainder(3.9), x),
    "mean": lambda x, purpose: x + 0.004,
    "variance": lambda x, purpose: x * 1.003,
    "skewness": lambda x, purpose: (x + 0.002 * (x * x - 1)) / (1 + 2 * 0.002**2) ** 0.5,
    "kurtosis|tail": uniform_sum,
    "histogram": lambda x, purpose: torch.where((x > 0.1) & (x < 0.15), 0.101, x),
    "neighbours in a row": lambda x, purpose: (x + 0.01 * x.roll(1, 1)) / (1 + 0.01**2) ** 0.5,
    "neighbouring draws": lambda x, purpose: (x + 0.01 * x.roll(1, 0)) / (1 + 0.01**2) ** 0.5,
    "come twice": repeated,
    "mean ": lambda x, purpose: torch.full_like(x, torch.nan),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_noise_is_refused(name):
    with pytest.raises(UserError, match=name.strip()):
        check_noise(generator=replayed(BROKEN[name]))


def test_one_stream_for_selection_and_estimation_is_refused():
    def generator(seed, purpose, split, index, draw, shape, sigma):
        return noise_rows(seed, "estimate" if purpose == "select" else purpose, split, index, draw, shape, sigma)

    with pytest.raises(UserError, match="selection and estimation"):
        check_noise(generator=generator)


def test_other_bits_are_refused(monkeypatch):
    with pytest.raises(UserError, match="bits"):
        check_noise(generator=lambda *key: torch.randn(len(key[3]), *key[5]))
    monkeypatch.setattr(selftest, "BITS", "0" * 64)
    with pytest.raises(UserError, match="bits"):
        check_noise()


def test_noise_drawn_in_half_precision_is_refused():
    """Its tails are cut: 7 bits of a uniform number reach 3.1 standard deviations."""

    def generator(seed, purpose, split, index, draw, shape, sigma):
        rows = noise_rows(seed, purpose, split, index, draw, shape, sigma)
        if shape == (1000,):
            return rows
        u = torch.rand(rows.shape, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(0)).float()
        return torch.special.ndtri((u + 2.0**-9).clamp(2.0**-9, 1 - 2.0**-9))

    with pytest.raises(UserError, match=r"tail|mean|variance|skewness|kurtosis"):
        check_noise(generator=generator)
