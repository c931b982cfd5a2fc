"""Whole networks of one and two inputs against every point of a dense grid of the ball, for each nonlinearity."""

import math

import pytest
import torch
from torch import nn

from certtrain.bounds import NativeEngine, margin_matrix
from certtrain.threat import threat_of

ALL = ("ibp", "crown_ibp", "crown")
ACTIVATIONS = {
    "leaky relu": lambda: nn.LeakyReLU(0.2),
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "tanh gelu": lambda: nn.GELU("tanh"),
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "elu 0.4": lambda: nn.ELU(0.4),
    "celu": lambda: nn.CELU(2.0),
    "softplus": nn.Softplus,
    "softplus of a low threshold": lambda: nn.Softplus(2, 1),
    "max pool": lambda: nn.Sequential(nn.Unflatten(1, (1, 2, 4)), nn.MaxPool2d(2, 1), nn.Flatten()),
    "transposed": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 2, 2)), nn.ConvTranspose2d(2, 2, 2, 2), nn.ReLU(), nn.Flatten()
    ),
}


def network(name, inputs, scale, seed, dtype):
    torch.manual_seed(seed)
    layers = (nn.Linear(inputs, 8), ACTIVATIONS[name](), nn.LazyLinear(8), ACTIVATIONS[name](), nn.LazyLinear(3))
    net = nn.Sequential(*layers)
    net(torch.zeros(1, inputs))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter *= scale
    return net.to(dtype)


def grid(inputs, norm, eps):
    """Points of the ball around 0 in float64, its border and corners among them."""
    line = torch.linspace(-eps, eps, 2001 if inputs == 1 else 45, dtype=torch.float64)
    if inputs == 1:
        return line[:, None]
    if norm == "linf":
        return torch.cartesian_prod(line, line)
    angles = torch.linspace(0, 2 * math.pi, 97, dtype=torch.float64)
    radii = torch.linspace(0, eps, 21, dtype=torch.float64)
    return (radii[:, None, None] * torch.stack([angles.cos(), angles.sin()], 1)).flatten(0, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("inputs", [1, 2])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_no_grid_point_beats_a_bound(name, inputs, norm, dtype):
    for seed, scale in enumerate((1.5, 8.0)):
        net = network(name, inputs, scale, seed, dtype)
        x, y = torch.rand(5, inputs, dtype=dtype), torch.arange(5) % 3
        exact = network(name, inputs, scale, seed, torch.float64)
        for eps in (0.0, 1e-3, 0.3, 3.0):
            threat = threat_of(norm, eps, lower=None, upper=None)
            with torch.no_grad():
                bounds = NativeEngine(net).bounds(x, y, threat, ALL)
                z = exact((x.double() + grid(inputs, norm, eps)[:, None]).flatten(0, 1)).unflatten(0, (-1, 5))
            margins = torch.einsum("bsk,mbk->mbs", margin_matrix(y, 3, torch.float64), z)
            # What rounding inside the bounds may cost: they are not rounded outward as a whole.
            slack = 200 * torch.finfo(dtype).eps * (1 + margins.abs().amax())
            for method in ALL:
                found = bounds.margins[method].double()
                assert (found <= margins.amin(0) + slack).all(), (method, seed, eps)
                if eps == 0 and "threshold" not in name:  # that one is as loose as torch's function jumps
                    torch.testing.assert_close(found, margins[0], atol=float(slack) * scale**2, rtol=1e-5)
