"""The means that the regularisers are functions of, by tensor operations and compiled: values and derivatives."""

import warnings

import pytest
import torch

from certtrain.kernels import loader, moments
from certtrain.kernels.loader import VARIABLE
from certtrain.kernels.moments import LOOPS, Moments, mean_centre

needs_compiler = pytest.mark.skipif(LOOPS.get() is None, reason="this machine has no C compiler")
WAYS = [pytest.param(0, marks=needs_compiler, id="compiled"), pytest.param(1 << 40, id="tensors")]
DTYPES = [torch.float32, torch.float64]
STILL = torch.tensor([1.0, 1, 0, 1, 1, 0, 1, 1], dtype=torch.float64)  # counts have no derivative


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    monkeypatch.setattr(loader, "LARGE", request.param)
    return request.param


def draw(*shape, seed=0, dtype=torch.float64, values=(), share=0.2):
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(*shape, generator=generator, dtype=dtype) + 0.3
    radius = torch.rand(*shape, generator=generator, dtype=dtype)
    ends = [centre - radius, centre + radius]
    if values:
        numbers = torch.tensor(values, dtype=dtype)
        for end in ends:
            places = torch.rand(*shape, generator=generator) < share
            end[places] = numbers[torch.randint(len(values), (int(places.sum()),), generator=generator)]
    return [end.requires_grad_() for end in ends]


@pytest.mark.parametrize("shape", [(3, 7), (2, 3, 5, 7), (1, 4096), (5, 1000)])
def test_the_means_are_those_of_the_definition(way, shape):
    lower, upper = draw(*shape)
    centre, pivot = (lower + upper) / 2, torch.tensor(0.25, dtype=torch.float64)
    away, active, inactive = centre - pivot, (lower > 0).double(), (upper < 0).double()
    parts = [(upper - lower) / 2, away]
    parts += [active, away * active, away**2 * active, inactive, away * inactive, away**2 * inactive]
    torch.testing.assert_close(Moments.apply(lower, upper, pivot), torch.stack([part.mean() for part in parts]))
    torch.testing.assert_close(mean_centre(lower, upper), centre.mean().detach())
    assert not mean_centre(lower, upper).requires_grad


def test_gradients_are_those_of_the_means(way):
    lower, upper = draw(3, 7)
    pivot = torch.tensor(-0.5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: Moments.apply(a, b, pivot) * STILL, (lower, upper))
    for column in range(8):  # as when nothing else is used
        assert torch.autograd.gradcheck(lambda a, b, c=column: Moments.apply(a, b, pivot)[c], (lower, upper))


def test_a_centre_that_is_no_number_has_no_gradient_of_what_its_layer_is_dropped_for(way):
    inf, nan = torch.inf, torch.nan
    lower = torch.tensor([1.0, 1, -inf, nan, -inf, -3, 2], requires_grad=True)
    upper = torch.tensor([inf, nan, inf, nan, -2, -1, 3], requires_grad=True)
    found = Moments.apply(lower, upper, torch.tensor(0.0))
    assert not found[4].isfinite()
    assert not found[7].isfinite()
    found.backward(torch.tensor([1.0, 2, 0, 0, 0, 0, 0, 0]))
    assert lower.grad.tolist() == pytest.approx([0.5 / 7] * 7)
    assert upper.grad.tolist() == pytest.approx([1.5 / 7] * 7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_numbers_are_added_up_in_float32(dtype):
    lower = torch.full((70_000,), 3.0, dtype=dtype, requires_grad=True)  # their sum exceeds what float16 holds
    upper = torch.full((70_000,), 4.0, dtype=dtype, requires_grad=True)
    pivot = mean_centre(lower, upper)
    assert (pivot.dtype, pivot.item()) == (torch.float32, pytest.approx(3.5))
    found = Moments.apply(lower, upper, torch.tensor(1.5))
    assert found.tolist() == pytest.approx([0.5, 2, 1, 2, 4, 0, 0, 0])
    found.sum().backward()
    assert lower.grad.dtype == upper.grad.dtype == dtype


def test_of_nothing_the_means_are_zero():
    lower, upper = draw(0, 4)
    found = Moments.apply(lower, upper, mean_centre(lower, upper))
    assert found.tolist() == [0.0] * 8
    found.sum().backward()
    assert lower.grad.shape == (0, 4)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("values", [(), (0.0, -0.0, 1e-30, -1e-30), (torch.nan,), (torch.inf, -torch.inf), (3e38,)])
@pytest.mark.parametrize("size", [1, 31, 64, 2047, 2049, 5000])
def test_both_ways_are_the_same_to_rounding(monkeypatch, dtype, values, size):
    lower, upper = draw(1, size, dtype=dtype, values=values, seed=size)
    pivot, grad, found = torch.tensor(0.1, dtype=dtype), torch.randn(8, dtype=dtype), []
    for large in (0, 1 << 40):
        monkeypatch.setattr(loader, "LARGE", large)
        means = Moments.apply(lower, upper, pivot)
        found.append([mean_centre(lower, upper), means, *torch.autograd.grad(means, (lower, upper), grad)])
    for ours, theirs in zip(*found, strict=True):
        # What overflows may do so on the way in one of them only: none is a number that the layer is kept with.
        ours, theirs = (t.clamp(-1e30, 1e30).nan_to_num(1e30) if 3e38 in values else t for t in (ours, theirs))
        tolerance = 200 * torch.finfo(dtype).eps
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance, equal_nan=True)


@needs_compiler
def test_the_number_of_threads_changes_no_bit(monkeypatch):
    monkeypatch.setattr(loader, "SEVERAL", 1000)
    monkeypatch.setattr(loader, "LARGE", 0)
    lower, upper = draw(70, 101, dtype=torch.float32)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            means = Moments.apply(lower, upper, torch.tensor(0.3))
            back = torch.autograd.grad(means, (lower, upper), torch.arange(8.0))
            found.append(torch.cat([means, mean_centre(lower, upper)[None], *(grad.flatten() for grad in back)]))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@needs_compiler
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("(REAL)0.5 - p, active", "(REAL)0.4 - p, active"),
        ("sums[7][lane] += below * below", "sums[7][lane] += below"),
        ("below_square * away", "above_square * away"),
        ("from - from == 0 ? from : 0", "from"),
        ("i - whole] += (l[i]", "i - whole] += 0 * (l[i]"),
    ],
)
def test_loops_that_compute_something_else_are_not_used(monkeypatch, right, wrong):
    text = loader.source("moments.c")
    assert right in text
    monkeypatch.setattr(loader, "source", lambda _: text.replace(right, wrong))
    with pytest.warns(UserWarning, match="the compiled means of bounds differ from the tensors'"):
        assert LOOPS.checked() is None


@needs_compiler
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_first_call_may_come_from_anywhere(monkeypatch, mode):
    monkeypatch.setattr(LOOPS, "_found", [])
    with warnings.catch_warnings(), mode():
        warnings.simplefilter("error")
        mean_centre(*torch.rand(2, loader.LARGE))
        assert LOOPS.get() is not None


@needs_compiler
def test_loops_are_for_large_plain_bounds():
    plain = torch.zeros(2, loader.LARGE)
    assert moments._loops_for(*plain) is LOOPS.get()
    for other in (plain[:, 1:], plain.half(), plain[:, ::2], plain.t()):
        assert moments._loops_for(*other[:2]) is None


def test_without_a_compiler_there_is_none():
    assert LOOPS.build({VARIABLE: ""}) is None
