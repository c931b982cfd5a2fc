"""Each activation's constants and slopes, and networks of them trained through their bounds."""

import mpmath
import pytest
import torch
from torch import nn

from certtrain.bounds import NativeEngine
from certtrain.bounds.activations import Gelu, LeakyRelu, Sigmoid, Silu, Tanh, TanhGelu
from certtrain.bounds.nonlinear import LinePairs
from certtrain.threat import ThreatModel

CURVES = {"sigmoid": Sigmoid(), "tanh": Tanh(), "gelu": Gelu(), "tanh gelu": TanhGelu(), "silu": Silu()}


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
    z = torch.cat([torch.linspace(-9, 9, 2001), torch.tensor([-200.0, -30, 30, 200])]).double().requires_grad_()
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
    x, y, threat = torch.rand(5, 4).double(), torch.tensor([0, 1, 2, 0, 1]), ThreatModel(norm, 0.3)

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
