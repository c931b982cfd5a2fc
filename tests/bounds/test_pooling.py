"""Pooling by maximum against windows cut out one by one, on dense grids of two inputs, and by hand."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from certtrain.bounds import NativeEngine
from certtrain.bounds.pooling import MaxPool
from certtrain.errors import UserError
from certtrain.models import lenet
from certtrain.threat import threat_of

SHAPE = (2, 7, 6)
# kernel, stride, padding, dilation, ceil_mode
POOLS = {
    "halves": ((2, 2), (2, 2), (0, 0), (1, 1), False),
    "resnet": ((3, 3), (2, 2), (1, 1), (1, 1), False),
    "ceil": ((3, 2), (2, 2), (1, 0), (1, 1), True),
    "gaps": ((2, 1), (3, 4), (0, 0), (1, 1), False),
    "dilated": ((2, 3), (1, 2), (1, 1), (2, 2), False),
    "dilated ceil": ((2, 2), (3, 3), (1, 1), (2, 1), True),
    "one": ((1, 1), (2, 2), (0, 0), (1, 1), False),
}


def windows(pool, z):
    """Per output (row, column) the values (B, C, k) of its window, by plain loops."""
    kernel, stride, padding, dilation, _ = pool
    rows, columns = F.max_pool2d(z, *pool).shape[-2:]
    for i, j in itertools.product(range(rows), range(columns)):
        places = [
            (i * stride[0] - padding[0] + p * dilation[0], j * stride[1] - padding[1] + q * dilation[1])
            for p, q in itertools.product(range(kernel[0]), range(kernel[1]))
        ]
        inside = [(y, x) for y, x in places if 0 <= y < z.shape[-2] and 0 <= x < z.shape[-1]]
        yield i, j, inside


@pytest.mark.parametrize("name", POOLS)
def test_lines_are_those_of_each_window(name):
    torch.manual_seed(0)
    pool = POOLS[name]
    op = MaxPool(SHAPE, *pool)
    lower = torch.randn(3, *SHAPE, dtype=torch.float64)
    upper = lower + torch.rand_like(lower) * torch.tensor([0.1, 1.0, 3.0]).double()[:, None, None, None]
    lines, unsettled = op.lines(lower, upper), op.unsettled(lower, upper)
    expected = torch.zeros_like(unsettled)
    for i, j, inside in windows(pool, lower):
        for b, c in itertools.product(range(3), range(2)):
            low, high = ({at: float(box[b, c, *at]) for at in inside} for box in (lower, upper))
            first = max(inside, key=low.__getitem__)
            assert lines.low_at[b, c, i, j] == first[0] * SHAPE[2] + first[1]
            m = max(inside, key=high.__getitem__)
            assert lines.high_at[b, c, i, j] == m[0] * SHAPE[2] + m[1]
            rest = max([high[at] for at in inside if at != m], default=-math.inf)
            t = max(rest, low[m])
            h = (high[m] - t) / (high[m] - low[m])
            assert lines.high[b, c, i, j].item() == pytest.approx(h)
            assert lines.high_offset[b, c, i, j].item() == pytest.approx(t - h * low[m])
            if rest > low[m]:
                for y, x in inside:
                    expected[b, c, y, x] = True
    assert torch.equal(unsettled, expected)


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_point_of_the_box_leaves_the_lines_or_the_interval(name, dtype):
    torch.manual_seed(1)
    op = MaxPool(SHAPE, *POOLS[name])
    lower = torch.randn(6, *SHAPE, dtype=dtype)
    upper = lower + torch.rand_like(lower) * torch.tensor([0, 0.01, 0.3, 1, 3, 9.0], dtype=dtype)[:, None, None, None]
    share = torch.cat([torch.rand(200, *lower.shape), torch.rand(200, *lower.shape).round()]).to(dtype)
    z = lower + share * (upper - lower)
    values = op.forward(z.flatten(0, 1)).unflatten(0, z.shape[:2])
    low, high = op.interval(lower, upper)
    slack = 8 * torch.finfo(dtype).eps * 10
    assert (values >= low).all()
    assert (values <= high + slack).all()
    a = torch.randn(6, 3, *values.shape[2:], dtype=dtype)
    before, constant = op.lines(lower, upper).backward(a)
    bound = torch.einsum("bsn,mbn->mbs", before.flatten(2), z.flatten(2)) + constant
    true = torch.einsum("bsn,mbn->mbs", a.flatten(2), values.flatten(2))
    assert (bound <= true + 100 * slack).all()


def test_two_inputs_on_a_dense_grid():
    """max(z_1, z_2) over 81 boxes; the upper line touches at corners, so that none with its slope is lower."""
    ends = torch.linspace(-2, 2, 4, dtype=torch.float64)
    boxes = [(a, b, c, d) for a, b, c, d in itertools.product(ends, repeat=4) if a < b and c < d]
    lower, upper = (torch.tensor([[box[k], box[k + 2]] for box in boxes])[:, None, None, :] for k in (0, 1))
    op = MaxPool((1, 1, 2), (1, 2), (1, 2), (0, 0), (1, 1), False)
    share = torch.cartesian_prod(*[torch.linspace(0, 1, 41, dtype=torch.float64)] * 2)[:, None, None, None, :]
    z = lower + share * (upper - lower)
    values = z.amax(-1, keepdim=True)
    for sign in (1.0, -1.0):
        before, constant = op.lines(lower, upper).backward(torch.full((len(boxes), 1, 1, 1, 1), sign).double())
        gap = sign * values - ((before[:, 0] * z).sum(-1, keepdim=True) + constant[:, :, None, None])
        assert gap.min() > -1e-12
        assert (gap.amin(0) < 1e-12).all()


def test_a_decided_window_is_exact_and_an_open_one_by_hand():
    """[0, 1] and [2, 3]: the second. [0, 4] and [1, 2]: t = 2, h = 1/2, so at most 2 + z_1 / 2, at least z_2."""
    lower, upper = torch.tensor([[[[0.0, 2]]], [[[0, 1]]]]), torch.tensor([[[[1.0, 3]]], [[[4, 2]]]])
    lines = MaxPool((1, 1, 2), (1, 2), (1, 2), (0, 0), (1, 1), False).lines(lower, upper)
    assert lines.low_at.flatten().tolist() == [1, 1]
    assert lines.high_at.flatten().tolist() == [1, 0]
    assert lines.high.flatten().tolist() == [1.0, 0.5]
    assert lines.high_offset.flatten().tolist() == [0.0, 2.0]


def test_gradients():
    torch.manual_seed(2)
    op = MaxPool(SHAPE, *POOLS["resnet"])
    lower = torch.randn(1, *SHAPE, dtype=torch.float64, requires_grad=True)
    upper = (lower.detach() + torch.rand(1, *SHAPE).double()).requires_grad_()
    a = torch.randn(1, 2, *op.forward(lower).shape[1:], dtype=torch.float64)
    torch.autograd.gradcheck(lambda *box: op.lines(*box).backward(a), (lower, upper))
    torch.autograd.gradcheck(op.interval, (lower, upper))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nothing_is_claimed_of_a_window_that_is_not_finite(bad):
    lower, upper = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    upper[..., 0, 0] = bad
    lower[..., 0, 0] = -bad
    op = MaxPool((1, 2, 2), (2, 2), (2, 2), (0, 0), (1, 1), False)
    assert not op.lines(lower, upper).backward(torch.ones(1, 1, 1, 1, 1))[1].isfinite()
    assert not op.interval(lower, upper)[1].isfinite()


def test_the_lenet_of_the_smoothing_literature_has_bounds():
    """The max-pooled network, which could not be certified by bounds: boxes refined through both poolings."""
    torch.manual_seed(0)
    net = lenet((1, 16, 16), 10, [0.0], [1.0]).double().eval()
    x = torch.rand(2, 1, 16, 16, dtype=torch.float64)
    y = net(x).argmax(1)
    margins = NativeEngine(net).bounds(x, y, threat_of("linf", 0.0005), ("ibp", "crown_ibp", "crown")).margins
    assert (margins["crown"] > 0).all()
    assert (margins["crown"] - margins["crown_ibp"]).mean() > 0
    assert (margins["crown_ibp"] - margins["ibp"]).mean() > 0
    exact = NativeEngine(net).bounds(x, y, threat_of("linf", 0.0), ("crown",))
    others = torch.ones(2, 10, dtype=torch.bool).scatter(1, y[:, None], False)
    clean = (exact.clean.gather(1, y[:, None]) - exact.clean)[others].view(2, 9)
    torch.testing.assert_close(exact.margins["crown"], clean)
    # Pooling is no activation: what it reads is the ReLU's output.
    assert [box.name for box in exact.pre_activations] == ["2", "5", "9"]


def test_indices_are_refused():
    net = nn.Sequential(nn.MaxPool2d(2, return_indices=True))
    with pytest.raises(UserError, match=r"0 pools \(1, 4, 4\) or returns indices"):
        NativeEngine(net).bounds(torch.rand(1, 1, 4, 4), torch.tensor([0]), threat_of("linf", 0.1))
