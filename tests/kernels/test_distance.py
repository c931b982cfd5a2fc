"""Weighted l1 distances: values and gradients by plain tensor operations, and loops as the tensor form."""

import math

import pytest
import torch

from certtrain.kernels import distance, loader
from certtrain.kernels.distance import WeightedDistance

needs_compiler = pytest.mark.skipif(distance.LOOPS.get() is None, reason="this machine has no C compiler")
DTYPES = [torch.float32, torch.float64]


def given(rows, count, size, dtype):
    torch.manual_seed(size)
    own, points, weight = (torch.randn(*shape, dtype=dtype) for shape in ((rows, size), (count, size), (rows, size)))
    points[0] = own[0]  # where two are equal the slope is 0
    return [one.requires_grad_() for one in (own, points, weight)]


@pytest.mark.parametrize("loops", [pytest.param(True, marks=needs_compiler), False])
@pytest.mark.parametrize("cached", [1, 2**18])
def test_values_and_gradients(loops, cached, monkeypatch):
    monkeypatch.setattr(distance, "CACHED", cached)
    own, points, weight = given(3, 4, 37, torch.float64)
    expected = ((own[:, None] - points).abs() * weight[:, None]).sum(2)
    toward = torch.randn(3, 4, dtype=torch.float64)
    with distance.LOOPS.instead(distance.LOOPS.get() if loops else None):
        found = WeightedDistance.apply(own, points, weight)
        gradients = torch.autograd.grad(found, (own, points, weight), toward)
    torch.testing.assert_close(found, expected)
    wanted = torch.autograd.grad(expected, (own, points, weight), toward)
    for one, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(one, other)


@needs_compiler
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "count", "size"), [(5, 3, 1), (2, 7, 33), (4, 2, 100)])
def test_loops_are_the_tensor_form_to_rounding(monkeypatch, threads, dtype, rows, count, size):
    monkeypatch.setattr(loader, "SEVERAL", 8)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    tensors, grad = given(rows, count, size, dtype), torch.randn(rows, count, dtype=dtype)
    try:
        found = []
        for chosen in (distance.LOOPS.get(), None):
            with distance.LOOPS.instead(chosen):
                distances = WeightedDistance.apply(*tensors)
                found.append([distances, *torch.autograd.grad(distances, tensors, grad)])
    finally:
        torch.set_num_threads(before)
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=64 * torch.finfo(dtype).eps, atol=256 * torch.finfo(dtype).eps)


@needs_compiler
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_is_no_number_stays_none(value, place):
    tensors = [one.detach() for one in given(3, 4, 5, torch.float64)]
    tensors[place][1, 2] = value
    for loops in (distance.LOOPS.get(), None):
        with distance.LOOPS.instead(loops):
            found = WeightedDistance.apply(*tensors)
        touched = ~found.isfinite()
        assert bool(touched[1].all() if place != 1 else touched[:, 1].all())
        assert int(touched.sum()) == (4 if place != 1 else 3)
