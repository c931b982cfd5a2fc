"""Lines around smooth activations, on dense grids of boxes and of points in them; no tolerance: they move outward."""

import math

import mpmath
import pytest
import torch

from certtrain.bounds.activations import Elu, Gelu, LeakyRelu, Sigmoid, Silu, SmoothPlus, Softplus, Tanh, TanhGelu
from certtrain.bounds.nonlinear import LinePairs

CURVES = {"sigmoid": Sigmoid(), "tanh": Tanh(), "gelu": Gelu(), "tanh gelu": TanhGelu(), "silu": Silu()}
CURVES |= {"elu": Elu(1.0, 1.0), "elu 0.4": Elu(0.4, 1.0), "celu 3": Elu(3.0, 1 / 3), "celu 0.5": Elu(0.5, 2.0)}
CURVES |= {"softplus": SmoothPlus(1.0), "softplus 5": SmoothPlus(5.0)}
JUMPS = {"torch's softplus": Softplus(1.0, 20.0), "softplus to 2": Softplus(3.0, 2.0)}
ALL = {
    **CURVES,
    **JUMPS,
    "leaky relu": LeakyRelu(0.1),
    "leaky relu 0": LeakyRelu(0.0),
    "leaky relu 0.9": LeakyRelu(0.9),
}


def exactly(name, z):
    """The function in float64 without cancellation, for z float64."""
    scale = math.sqrt(2 / math.pi)
    return {
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "gelu": lambda z: z * torch.special.erfc(-z / math.sqrt(2)) / 2,
        "tanh gelu": lambda z: z * torch.sigmoid(2 * scale * (z + 0.044715 * z**3)),
        "silu": lambda z: z * torch.sigmoid(z),
        "elu": lambda z: torch.where(z > 0, z, torch.expm1(z)),
        "elu 0.4": lambda z: torch.where(z > 0, z, 0.4 * torch.expm1(z)),
        "celu 3": lambda z: torch.where(z > 0, z, 3 * torch.expm1(z / 3)),
        "celu 0.5": lambda z: torch.where(z > 0, z, 0.5 * torch.expm1(2 * z)),
        "softplus": lambda z: torch.logaddexp(z, torch.zeros_like(z)),
        "softplus 5": lambda z: torch.logaddexp(5 * z, torch.zeros_like(z)) / 5,
        "torch's softplus": torch.nn.functional.softplus,
        "softplus to 2": lambda z: torch.nn.functional.softplus(z, 3.0, 2.0),
        "leaky relu": lambda z: torch.where(z > 0, z, 0.1 * z),
        "leaky relu 0": torch.relu,
        "leaky relu 0.9": lambda z: torch.where(z > 0, z, 0.9 * z),
    }[name](z)


def boxes(dtype):
    """Boxes [l, u] on a grid of two dimensions: all pairs of ends, then centres by widths, down to one number."""
    ends = torch.cat([torch.linspace(-6, 6, 97), torch.tensor([-300.0, -40, -12, -9, 9, 12, 40, 300])]).to(dtype)
    left, right = torch.meshgrid(ends, ends, indexing="ij")
    centres = torch.linspace(-8, 8, 129, dtype=dtype)
    widths = torch.tensor([0, 1e-12, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 4e-3, 6e-3, 0.05, 0.3], dtype=dtype)
    some, wide = torch.meshgrid(centres, widths, indexing="ij")
    lower = torch.cat([torch.minimum(left, right).flatten(), (some - wide).flatten()])
    upper = torch.cat([torch.maximum(left, right).flatten(), (some + wide).flatten()])
    return lower, upper


def points(lower, upper, count=401):
    """(count, boxes) points of each box in float64, both ends among them."""
    lower, upper = lower.double(), upper.double()
    share = torch.linspace(0, 1, count, dtype=torch.float64)[:, None]
    return (lower + share * (upper - lower)).clamp(lower, upper)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ALL)
def test_every_point_lies_between_the_lines_and_in_the_interval(name, dtype):
    lower, upper = boxes(dtype)
    lines, (low, high) = ALL[name].lines(lower, upper), ALL[name].interval(lower, upper)
    z = points(lower, upper)
    values = exactly(name, z)
    # ReLU and its relatives are piecewise linear and rounded to nearest; the grid itself is evaluated in float64.
    slack = 0 if name in CURVES and dtype == torch.float32 else 8 * torch.finfo(dtype).eps * z.abs()
    slack = slack + 1e-15 * (values.abs() + z.abs())
    assert (lines.low.double() * z + lines.low_offset.double() <= values + slack).all()
    assert (lines.high.double() * z + lines.high_offset.double() >= values - slack).all()
    assert (low.double() <= values + slack).all()
    assert (high.double() >= values - slack).all()
    assert (low <= high).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CURVES)
def test_interval_is_the_range_and_lines_are_close_to_the_best(name, dtype):
    """At the middle of a box no line can do better than the convex hull of the function, here of 51 of its points."""
    lower, upper = boxes(dtype)
    wide = (upper - lower > 0.01) & (lower.abs() + upper.abs() < 30)
    lower, upper = lower[wide][::3], upper[wide][::3]
    curve = CURVES[name]
    lines, (low, high) = curve.lines(lower, upper), curve.interval(lower, upper)
    z = points(lower, upper)
    values = exactly(name, z)
    torch.testing.assert_close(low.double(), values.amin(0), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(high.double(), values.amax(0), atol=1e-3, rtol=1e-4)
    # Chords between points of the grid, over the middle, the 201st of the 401 points.
    away = torch.arange(8, 201, 8)
    left, right = values[200 - away][:, None], values[200 + away][None]
    shares = away[:, None] / (away[:, None] + away[None])
    middle = torch.lerp(left, right, shares[:, :, None].double()).flatten(0, 1)
    centre, rounding = z[200], 64 * torch.finfo(dtype).eps * (1 + z.abs().amax(0))
    over = lines.high.double() * centre + lines.high_offset.double() - torch.maximum(middle.amax(0), values[200])
    under = torch.minimum(middle.amin(0), values[200]) - (lines.low.double() * centre + lines.low_offset.double())
    extent = values.amax(0) - values.amin(0)
    assert (over <= 0.005 * extent + rounding).all(), ((over - rounding) / extent).max()
    assert (under <= 0.005 * extent + rounding).all(), ((under - rounding) / extent).max()


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_those_of_the_lines(name):
    """Through chords, tangents at the middle, tangents from an end, and narrow boxes."""
    ends = torch.tensor(
        [[-3.1, -2.3], [-3.0, 0.4], [-1.3, 0.2], [-0.7, 1.1], [-0.3, 2.6], [0.4, 0.9], [1.1, 4.3], [-4.0, 5.0], [2, 9]],
        dtype=torch.float64,
    )
    ends = torch.cat([ends, torch.tensor([[0.3, 0.3 + 1e-7]])])
    lower, upper = (end.clone().requires_grad_() for end in ends.unbind(1))
    a = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)

    def used(lower, upper):
        lines = ALL[name].lines(lower[:, None], upper[:, None])
        before, constant = lines.backward(a.expand(len(lower), 2, 1))
        return before[..., 0], constant

    def direct(lower, upper):
        return ALL[name].interval(lower, upper)

    torch.autograd.gradcheck(direct, (lower[:-1], upper[:-1]), eps=1e-6, atol=1e-5)
    # Bisection stops at 2^-20 of the box, which differences would divide by: a larger step.
    torch.autograd.gradcheck(used, (lower[:-1], upper[:-1]), eps=1e-3, atol=2e-2, rtol=2e-2)
    for output in used(lower, upper):
        for gradient in torch.autograd.grad(output.sum(), (lower, upper), retain_graph=True, allow_unused=True):
            assert gradient is None or gradient.isfinite().all()


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("ends", [(math.nan, math.nan), (-math.inf, math.inf), (0.0, math.inf), (math.nan, 1.0)])
def test_nothing_is_claimed_of_a_box_that_is_not_finite(name, ends):
    lower, upper = (torch.tensor([[end]]) for end in ends)
    for a in (1.0, -1.0):
        _, constant = CURVES[name].lines(lower, upper).backward(torch.full((1, 1, 1), a))
        assert constant.isnan().all()
    for bound in CURVES[name].interval(lower, upper):
        assert bound.isnan().all()


def test_tangent_from_an_end_by_hand():
    """Over tanh on [-4, 1.5] the line from (-4, tanh -4) that touches it; below by symmetry."""
    found = Tanh().lines(torch.tensor([-4, -1.5]).double(), torch.tensor([1.5, 4]).double())
    touch = mpmath.findroot(lambda p: (1 - mpmath.tanh(p) ** 2) * (p + 4) - mpmath.tanh(p) - mpmath.tanh(4), 1.1)
    assert 0 < touch < 1.5
    slope = float(1 - mpmath.tanh(touch) ** 2)
    assert found.high[0].item() == pytest.approx(slope, rel=1e-4)
    assert found.high_offset[0].item() == pytest.approx(4 * slope - math.tanh(4), rel=1e-4)
    assert found.low[1].item() == pytest.approx(slope, rel=1e-4)
    assert found.low_offset[1].item() == pytest.approx(math.tanh(4) - 4 * slope, rel=1e-4)


def test_a_curve_that_bisection_would_overshoot_is_noticed():
    """The grids above are strong enough to see a tangent taken on the wrong side of the point that will just do."""

    class Wrong(Tanh):
        def tangent(self, end, start, far, sign):
            line = super().tangent(end, start, far, sign)
            point = line.anchor - 0.02 * (far - end).sign()
            return type(line)(self.slope(point), point, self.forward(point))

    lower, upper = boxes(torch.float32)
    lines: LinePairs = Wrong().lines(lower, upper)
    z = points(lower, upper)
    assert not (lines.high.double() * z + lines.high_offset.double() >= torch.tanh(z) - 1e-6).all()
