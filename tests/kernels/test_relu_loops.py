"""The loops of ReLUs compute what tensor operations compute, also what is not a number."""

import math
import warnings

import pytest
import torch

from certtrain.kernels import loader, relu
from certtrain.kernels.loader import VARIABLE

needs_compiler = pytest.mark.skipif(relu.LOOPS.get() is None, reason="this machine has no C compiler")
NAN, INF = math.nan, math.inf
SPECIAL = [0.0, -0.0, 1.0, -1.0, 1e-9, -1e-9, NAN, INF, -INF, 1e38, -1e38]
DTYPES = [torch.float32, torch.float64]


@pytest.fixture(params=[1, 3])
def threads(request, monkeypatch):
    monkeypatch.setattr(loader, "SEVERAL", 8)
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def both_ways(monkeypatch, run):
    """What the loops and what tensor operations give."""
    found = []
    monkeypatch.setattr(loader, "LARGE", 0)
    found.append(run())
    with relu.LOOPS.instead(None):
        found.append(run())
    return zip(*found, strict=True)


def draw(*shape, dtype, special=False):
    values = torch.randn(*shape, dtype=dtype)
    if special:
        places = torch.rand(*shape) < 0.3
        values[places] = torch.tensor(SPECIAL, dtype=dtype)[torch.randint(len(SPECIAL), (int(places.sum()),))]
    return values.requires_grad_()


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("outputs", ["p", "r", "pr", "prlu", "l", "ru", "c", "lu"])
def test_interval_relu_has_the_same_bits(monkeypatch, threads, dtype, special, stacked, outputs):
    torch.manual_seed(len(outputs))
    shapes = [(10, 3, 7)] if stacked else [(5, 3, 7)] * 2
    parts = [draw(*shape, dtype=dtype, special=special) for shape in shapes]
    radius = draw(5, 3, 7, dtype=dtype, special=special)

    def run():
        found = relu.IntervalRelu.apply(radius, *parts)
        *after, spread, lower, upper = found
        by_name = {"p": after, "c": after[-1:], "r": [spread], "l": [lower], "u": [upper]}
        loss = sum((tensor * grads[tensor.shape]).sum() for name in outputs for tensor in by_name[name])
        return *found, *torch.autograd.grad(loss, (radius, *parts), materialize_grads=True)

    grads = {torch.Size(shape): draw(*shape, dtype=dtype).detach() for shape in ((10, 3, 7), (5, 3, 7))}

    for ours, theirs in both_ways(monkeypatch, run):
        assert torch.equal(ours.nan_to_num(12345.0), theirs.nan_to_num(12345.0))


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "functions", "size"), [(5, 1, 3), (4, 9, 33), (1, 2, 64), (3, 4, 100)])
def test_boxed_relu_is_the_same_to_rounding(monkeypatch, threads, dtype, rows, functions, size):
    torch.manual_seed(size)
    a, lower = draw(rows, functions, size, dtype=dtype), draw(rows, size, dtype=dtype)
    upper = (lower.detach() + torch.rand(rows, size, dtype=dtype)).requires_grad_()
    grads = draw(rows, functions, size, dtype=dtype).detach(), draw(rows, functions, dtype=dtype).detach()

    def run():
        found = relu.BoxedRelu.apply(a, lower, upper)
        return *found, *torch.autograd.grad(found, (a, lower, upper), grads)

    for ours, theirs in both_ways(monkeypatch, run):
        torch.testing.assert_close(ours, theirs, rtol=16 * torch.finfo(dtype).eps, atol=64 * torch.finfo(dtype).eps)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_no_number_stays_none(monkeypatch, threads, dtype):
    torch.manual_seed(0)
    a, lower, upper = (draw(*shape, dtype=dtype, special=True) for shape in ((40, 2, 11), (40, 11), (40, 11)))
    grads = draw(40, 2, 11, dtype=dtype, special=True).detach(), draw(40, 2, dtype=dtype).detach()

    def run():
        found = relu.BoxedRelu.apply(a, lower, upper)
        return *found, *torch.autograd.grad(found, (a, lower, upper), grads)

    seen = 0
    for ours, theirs in both_ways(monkeypatch, run):
        assert torch.equal(ours.isnan(), theirs.isnan())
        finite = ours.isfinite() & theirs.isfinite()
        torch.testing.assert_close(ours[finite], theirs[finite], rtol=1e-4, atol=1e-6)
        seen += int(ours.isnan().sum())
    assert seen


@needs_compiler
def test_gradients_are_those_of_the_formula(monkeypatch):
    monkeypatch.setattr(loader, "LARGE", 0)
    torch.manual_seed(0)
    a, lower = draw(3, 2, 5, dtype=torch.float64), draw(3, 5, dtype=torch.float64)
    upper = (lower.detach() + torch.rand(3, 5, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(relu.BoxedRelu.apply, (a, lower, upper))
    both, radius = draw(6, 5, dtype=torch.float64), torch.rand(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(relu.IntervalRelu.apply, (radius, both))


@needs_compiler
def test_loops_are_for_large_plain_tensors():
    plain = torch.zeros(4, 4)
    assert relu.LOOPS.loops_for(loader.LARGE - 1, [plain]) is None
    assert relu.LOOPS.loops_for(1, [plain], same_bits=True) is relu.LOOPS.get()
    assert relu.LOOPS.loops_for(loader.LARGE, [plain, None]) is relu.LOOPS.get()
    for other in (plain.t()[:, 1:], plain.half(), plain.to(torch.int64), plain[:, ::2]):
        assert relu.LOOPS.loops_for(loader.LARGE, [other]) is None
    assert relu.LOOPS.loops_for(loader.LARGE, [plain, plain.double()]) is None


@pytest.fixture
def fresh(monkeypatch):
    """A process that has compiled nothing so far."""
    monkeypatch.setattr(relu.LOOPS, "_found", [])


@needs_compiler
def test_a_process_of_small_tensors_compiles_nothing(fresh, monkeypatch):
    monkeypatch.setattr(relu.LOOPS, "checked", lambda: pytest.fail("compiled"))
    assert relu.LOOPS.loops_for(1, [torch.zeros(4)], same_bits=True) is None


@needs_compiler
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_first_call_may_come_from_anywhere(fresh, mode):
    parts = [torch.rand(2, loader.LARGE // 2) for _ in range(3)]
    with warnings.catch_warnings(), mode():
        warnings.simplefilter("error")
        relu.IntervalRelu.apply(*parts)
        assert relu.LOOPS._found
        assert relu.LOOPS.get() is not None


@needs_compiler
@pytest.mark.parametrize(
    ("right", "wrong"), [("(REAL)0.5 *", "(REAL)0.4999 *"), ("slope + shift", "slope - shift"), ("u < 0", "u < -3")]
)
def test_loops_that_compute_something_else_are_not_used(monkeypatch, right, wrong):
    text = loader.source("relu.c")
    assert right in text
    monkeypatch.setattr(loader, "source", lambda _: text.replace(right, wrong))
    with pytest.warns(UserWarning, match="the compiled ReLUs differ from the tensors'"):
        assert relu.LOOPS.checked() is None


def test_without_a_compiler_tensor_operations_do_the_same(monkeypatch):
    assert relu.LOOPS.build({VARIABLE: ""}) is None
    monkeypatch.setattr(relu.LOOPS, "_found", [None])
    monkeypatch.setattr(loader, "LARGE", 0)
    both, radius = torch.tensor([[1.0], [-1.0]]), torch.tensor([[3.0]])
    assert [value.tolist() for value in relu.IntervalRelu.apply(radius, both)] == [[[1], [1]], [[1]], [[-4]], [[2]]]
