"""The activations that have lines besides ReLU."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from certtrain.bounds.curves import Convex, Gate, SShaped
from certtrain.bounds.nonlinear import Activation, LinePairs
from certtrain.bounds.relaxation import Slopes
from certtrain.bounds.tangents import Tangents
from certtrain.kernels.relu import relu_lines


class LeakyRelu(Activation):
    """`max(z, 0) + alpha min(z, 0) = alpha z + (1 - alpha) relu(z)`, 0 <= alpha < 1: relu's lines, with 1 - alpha >= 0.

    The lower line has slope 1 where u > |l|, else alpha: of the two the one with the smaller area, as for ReLU.
    """

    kink = True

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def forward(self, z: Tensor) -> Tensor:
        return F.leaky_relu(z, self.alpha)

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward(lower), self.forward(upper)

    def lines(self, lower: Tensor, upper: Tensor) -> LinePairs:
        sign, high, offset, _ = relu_lines(lower, upper)
        rest = 1 - self.alpha
        low = torch.where(sign > 0, torch.ones_like(high), torch.full_like(high, self.alpha))
        return LinePairs(low, torch.zeros_like(low), self.alpha + rest * high, rest * offset)

    def unsettled(self, lower: Tensor, upper: Tensor) -> Tensor:
        return (lower < 0) & (upper > 0)

    def freedom(self, lower: Tensor, upper: Tensor) -> Slopes:
        return Slopes.of(lower, upper, self.alpha)


class Sigmoid(SShaped):
    """`s(z) = 1 / (1 + exp(-z))`; `|s''| <= 1 / (6 sqrt 3) < 0.1`."""

    bend = 0.1

    def forward(self, z: Tensor) -> Tensor:
        return torch.sigmoid(z)

    def slope(self, z: Tensor) -> Tensor:
        return torch.sigmoid(z) * torch.sigmoid(-z)  # 1 - s(z) would cancel


class Tanh(SShaped):
    """tanh; `|tanh''| <= 4 / (3 sqrt 3) < 0.77`."""

    bend = 0.77

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(z)

    def slope(self, z: Tensor) -> Tensor:
        return 4 * torch.sigmoid(2 * z) * torch.sigmoid(-2 * z)  # 1 - tanh^2 would cancel


class Gelu(Gate):
    """`z Phi(z)` (Hendrycks and Gimpel 2016, arXiv 1606.08415): `f'' = phi(z) (2 - z^2)`, at most 2 phi(0) < 0.8."""

    knot, least, bend = math.sqrt(2), -0.7517915246935645, 0.8

    def forward(self, z: Tensor) -> Tensor:
        return F.gelu(z)

    def slope(self, z: Tensor) -> Tensor:
        return torch.erfc(-z / math.sqrt(2)) / 2 + z * torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)


class TanhGelu(Gate):
    """`z s(2 q(z))`, `q(z) = sqrt(2/pi) (z + 0.044715 z^3)`: GELU by tanh; `f''` is largest at 0, q'(0) < 0.8."""

    knot, least, bend = 1.418504008790828, -0.752461422071016, 0.8

    def forward(self, z: Tensor) -> Tensor:
        return F.gelu(z, approximate="tanh")

    def slope(self, z: Tensor) -> Tensor:
        scale = 2 * math.sqrt(2 / math.pi)
        inner = scale * (z + 0.044715 * z**3)
        gate = torch.sigmoid(inner)
        return gate + z * scale * (1 + 3 * 0.044715 * z.square()) * gate * torch.sigmoid(-inner)


class Silu(Gate):
    """`z s(z)`, also swish: `f''` is largest at 0, 1/2; its zeros solve `z tanh(z / 2) = 2`."""

    knot, least, bend = 2.3993572805154, -1.2784645427610738, 0.5

    def forward(self, z: Tensor) -> Tensor:
        return F.silu(z)

    def slope(self, z: Tensor) -> Tensor:
        return torch.sigmoid(z) * (1 + z * torch.sigmoid(-z))


class Elu(Convex):
    """`z` for z > 0, else `height (exp(rate z) - 1)`: ELU with rate 1 and CELU with rate 1 / height.

    Convex where its slope left of 0, height rate, is at most 1; the curvature there is at most height rate^2.
    """

    def __init__(self, height: float, rate: float) -> None:
        self.height, self.rate = height, rate
        self.bend, self.jump = height * rate**2, max(0.0, 1 - height * rate)
        self.kink = self.jump > 1e-9

    def forward(self, z: Tensor) -> Tensor:
        return z.clamp(min=0) + self.height * torch.expm1(self.rate * z.clamp(max=0))

    def slope(self, z: Tensor) -> Tensor:
        left = self.height * self.rate * torch.exp(self.rate * z.clamp(max=0))
        return torch.where(z > 0, torch.ones_like(z), left)


class SmoothPlus(Convex):
    """`log(1 + exp(beta z)) / beta`; the curvature is at most beta / 4."""

    noise = 1.0

    def __init__(self, beta: float) -> None:
        self.beta, self.bend = beta, beta / 4

    def forward(self, z: Tensor) -> Tensor:
        return z.clamp(min=0) + torch.log1p(torch.exp(-self.beta * z.abs())) / self.beta

    def slope(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.beta * z)


class Softplus(Activation):
    """torch's: `SmoothPlus` up to beta z = threshold, then z, which is less by at most `gap`; see `curves`."""

    def __init__(self, beta: float, threshold: float) -> None:
        self.beta, self.threshold, self.smooth = beta, threshold, SmoothPlus(beta)
        self.gap = 1.001 * math.log1p(math.exp(-threshold)) / beta

    def forward(self, z: Tensor) -> Tensor:
        return F.softplus(z, self.beta, self.threshold)

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self.smooth.interval(lower, upper)
        return low - self.gap, high

    def lines(self, lower: Tensor, upper: Tensor) -> LinePairs:
        found = self.smooth.lines(lower, upper)
        return LinePairs(found.low, found.low_offset - self.gap, found.high, found.high_offset)

    def freedom(self, lower: Tensor, upper: Tensor) -> Tangents:
        return Tangents.of(self.smooth, lower, upper, self.gap)
