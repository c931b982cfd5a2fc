"""Each activation's constants and slopes, and networks of them trained through their bounds."""

import math

import mpmath
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from certtrain.bounds import NativeEngine
from certtrain.bounds.activations import Elu, Gelu, LeakyRelu, Sigmoid, Silu, SmoothPlus, Softplus, Tanh, TanhGelu
from certtrain.bounds.nonlinear import LinePairs
from certtrain.errors import UserError
from certtrain.threat import threat_of

CURVES = {"sigmoid": Sigmoid(), "tanh": Tanh(), "gelu": Gelu(), "tanh gelu": TanhGelu(), "silu": Silu()}
CURVES |= {"elu": Elu(1.0, 1.0), "elu 0.4": Elu(0.4, 1.0), "celu 3": Elu(3.0, 1 / 3), "celu 0.5": Elu(0.5, 2.0)}
CURVES |= {"softplus": SmoothPlus(1.0), "softplus 5": SmoothPlus(5.0)}


@pytest.mark.parametrize("name", ["gelu", "tanh gelu", "silu"])
def test_knots_least_points_and_bends(name):
    """Where the gates turn, to 20 digits, and the largest curvature."""
    scale = mpmath.sqrt(2 / mpmath.pi)
    function = {
        "gelu": lambda z: z * mpmath.ncdf(z),
        "tanh gelu": lambda z: z / 2 * (1 + mpmath.tanh(scale * (z + mpmath.mpf("0.044715") * z**3))),
        "silu": lambda z: z / (1 + mpmath.exp(-z)),
    }[name]
    gate = CURVES[name]
    with mpmath.workdps(20):
        knot = mpmath.findroot(lambda z: mpmath.diff(function, z, 2), gate.knot)
        least = mpmath.findroot(lambda z: mpmath.diff(function, z), gate.least)
        bends = [abs(mpmath.diff(function, mpmath.mpf(i) / 10, 2)) for i in range(81)]
    assert gate.knot == pytest.approx(float(knot), abs=1e-12)
    assert gate.least == pytest.approx(float(least), abs=1e-12)
    assert gate.bend >= max(bends) > 0.9 * gate.bend


@pytest.mark.parametrize("name", CURVES)
def test_slope_is_the_derivative_and_bend_bounds_its_own(name):
    curve = CURVES[name]
    z = torch.cat([torch.linspace(-9, 9, 2000), torch.tensor([-200.0, -30, 30, 200])]).double().requires_grad_()
    (slope,) = torch.autograd.grad(curve.forward(z).sum(), z)
    torch.testing.assert_close(curve.slope(z), slope, atol=1e-12, rtol=1e-9)
    (bend,) = torch.autograd.grad(curve.slope(z).sum(), z)
    assert bend.abs().max() <= curve.bend


def test_leaky_relu_by_hand():
    """alpha = 1/2 on [-1, 3]: through (-1, -1/2) and (3, 3), slope 7/8; below slope 1. On [-3, 1]: 1/2 below."""
    found = LeakyRelu(0.5).lines(torch.tensor([-1.0, -3, 1, -2]), torch.tensor([3.0, 1, 2, -1]))
    expected = LinePairs(
        *map(torch.tensor, ([1.0, 0.5, 1, 0.5], [0.0] * 4, [0.875, 0.625, 1, 0.5], [0.375, 0.375, 0, 0]))
    )
    for one in ("low", "low_offset", "high", "high_offset"):
        torch.testing.assert_close(getattr(found, one), getattr(expected, one))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("method", ["ibp", "crown_ibp", "crown"])
def test_gradients_reach_the_weights(method, norm):
    """Against differences along a direction; bisection leaves steps of 2^-20 of a box in them."""
    torch.manual_seed(0)
    layers = (nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.LeakyReLU(0.3))
    net = nn.Sequential(*layers, nn.Linear(6, 4), nn.Unflatten(1, (1, 2, 2)), nn.MaxPool2d((1, 2)), nn.Flatten())
    net.append(nn.Linear(2, 3)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter *= 2
    x, y, threat = torch.rand(5, 4).double(), torch.tensor([0, 1, 2, 0, 1]), threat_of(norm, 0.3)

    def loss():
        return NativeEngine(net).bounds(x, y, threat, (method,)).margins[method].sum()

    parameters = list(net.parameters())
    gradients = torch.autograd.grad(loss(), parameters)
    directions = [torch.randn_like(parameter) for parameter in parameters]
    step, ends = 1e-4, []
    for sign in (1, -1):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions):
                parameter += sign * step * direction
            ends.append(loss().item())
            for parameter, direction in zip(parameters, directions):
                parameter -= sign * step * direction
    slope = sum((gradient * direction).sum().item() for gradient, direction in zip(gradients, directions))
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-2)


def test_elu_and_softplus_by_hand():
    """ELU on [-1, 1]: the chord from (-1, 1/e - 1) to (1, 1), the tangent z at 0. Softplus on [0, 2]: tangent at 1."""
    found = Elu(1.0, 1.0).lines(torch.tensor([-1.0]), torch.tensor([1.0]))
    e = math.e
    assert found.high.item() == pytest.approx(1 - 1 / (2 * e), rel=1e-6)
    assert found.high_offset.item() == pytest.approx(1 / (2 * e), rel=1e-4)
    assert (found.low.item(), found.low_offset.item()) == pytest.approx((1, 0), abs=1e-4)
    plus = Softplus(1.0, 20.0).lines(torch.tensor([0.0]), torch.tensor([2.0]))
    assert plus.low.item() == pytest.approx(e / (1 + e), rel=1e-5)
    assert plus.low_offset.item() == pytest.approx(math.log(1 + e) - e / (1 + e), rel=1e-4)
    assert plus.high.item() == pytest.approx((math.log(1 + e**2) - math.log(2)) / 2, rel=1e-4)


def test_a_jump_of_softplus_at_its_threshold_is_covered():
    """torch's falls there, by log(1 + exp(-1)) here: the least value of the box is not at its lower end."""
    lower, upper = torch.tensor([0.99]).double(), torch.tensor([1.01]).double()
    low, high = Softplus(1.0, 1.0).interval(lower, upper)
    after, before = (F.softplus(z, 1.0, 1.0).item() for z in (upper, lower))
    assert after < before
    assert low.item() <= 1.0 < before <= high.item()


def test_elu_has_a_kink_where_its_slope_jumps():
    assert [Elu(alpha, 1.0).kink for alpha in (1.0, 0.4)] == [False, True]
    assert not any(Elu(alpha, 1 / alpha).kink for alpha in (0.1, 0.3, 3.0, 49.0))


@pytest.mark.parametrize(
    "of",
    [F.elu, F.celu, F.softplus, nn.ELU(), nn.ELU(0.4, inplace=True), nn.CELU(2.0), nn.Softplus(), nn.Softplus(3, 5)],
)
def test_modules_and_functions_have_bounds(of):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)
            self.of = of if isinstance(of, nn.Module) else None

        def forward(self, x):
            z = self.first(x)
            return self.last(of(z) if self.of is None else self.of(z))

    torch.manual_seed(0)
    net, x, y = Net().double(), torch.rand(5, 4).double(), torch.arange(5) % 3
    bounds = NativeEngine(net).bounds(x, y, threat_of(eps=0.1), ("ibp", "crown_ibp", "crown"))
    torch.testing.assert_close(bounds.clean, net(x))
    clean = net(x).gather(1, y[:, None]) - net(x)
    for margins in bounds.margins.values():
        assert (margins.sum(1) < clean.sum(1)).all()


def test_selu_is_refused_with_the_reason():
    with pytest.raises(UserError, match=r"SELU.*its slope falls at 0"):
        NativeEngine(nn.Sequential(nn.Linear(4, 3), nn.SELU()))
