"""MACER (Zhai et al. 2020, arXiv 2001.02378): the certified radius itself, as far as noises tell it, made large."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from certtrain.errors import UserError
from certtrain.methods.base import Value, non_negative
from certtrain.methods.noisy import Noisy, NoisyLoss, NoisyTraining, log_mean_softmax
from certtrain.schedules import Ramp


def radius_loss(logits: Tensor, y: Tensor, sigma: float, beta: float, gamma: float) -> Tensor:
    """(B,) `sigma/2 (gamma + xi)` with `xi = Phi^-1(p2) - Phi^-1(p1)`, and 0 where there is nothing to gain.

    p1 and p2 are the two largest of `mean_i softmax(beta z_i)`. There is something to gain where the largest is that of
    y and |xi| <= gamma: a radius sigma/2 gamma is enough.

    Args:
        logits: (B, m, K).
        y: (B,) classes.
        sigma: of the noise.
        beta: inverse temperature.
        gamma: twice the radius that is enough, in units of sigma.

    Raises:
        UserError: a single class.
    """
    if logits.shape[2] < 2:
        raise UserError("MACER with one logit: a radius is the lead over another class", where="method", fix="model")
    largest, classes = (beta * logits).softmax(2).mean(1).topk(2, dim=1)
    # Where p1 rounds to 1, xi is infinite, and so would be its gradient: both are looked at before it is taken.
    with torch.no_grad():
        xi = torch.special.ndtri(largest[:, 1]) - torch.special.ndtri(largest[:, 0])
        gains = (classes[:, 0] == y) & xi.isfinite() & (xi.abs() <= gamma)
    safe = torch.where(gains[:, None], largest, 0.5)
    xi = torch.special.ndtri(safe[:, 1]) - torch.special.ndtri(safe[:, 0])
    return torch.where(gains, sigma / 2 * (gamma + xi), 0.0)


@dataclass(frozen=True)
class MacerLoss(NoisyLoss):
    """`-log mean_i p_y(x + delta_i) + weight sigma/2 max(gamma + xi, 0)`, see `radius_loss`.

    Args:
        sigma: of the noise.
        weight: lambda of the paper, >= 0, at the ramp's end.
        beta: inverse temperature of the radius's softmax.
        gamma: of `radius_loss`.
    """

    sigma: float
    weight: float = 6.0
    beta: float = 16.0
    gamma: float = 8.0

    def __post_init__(self) -> None:
        for key in ("weight", "beta", "gamma"):
            non_negative(getattr(self, key), f"method.{key}")

    def scheduled(self, step: int, ramp: Ramp) -> dict[str, float]:
        """radius_weight: the weight, which rises over the ramp."""
        return {"radius_weight": self.weight * ramp.fraction(step)}

    def loss(
        self, network: nn.Module, logits: Tensor, inputs: Noisy, values: Mapping[str, Value]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Parts: loss_smoothed, the cross-entropy of the mean softmax; loss_radius, before its weight."""
        smoothed = -log_mean_softmax(logits).gather(1, inputs.y[:, None]).mean()
        radius = radius_loss(logits, inputs.y, self.sigma, self.beta, self.gamma).mean()
        parts = {"loss_smoothed": smoothed.detach(), "loss_radius": radius.detach()}
        return smoothed + values["radius_weight"] * radius, parts


class MACER(NoisyTraining):
    """The loss of `MacerLoss`, plus `l1 ||w||_1`.

    The weight of the radius rises over the ramp. A ramp of no length after a long warm-up (`schedule.ramp=0`) is the
    deferred variant of later papers; no ramp and no warm-up is the authors' own.

    Args:
        sigma, ramp, noises, l1: see `NoisyTraining`; 16 noises in the paper.
        weight: lambda of the paper.
        beta: inverse temperature of the radius's softmax.
        gamma: see `radius_loss`.

    Raises:
        UserError: a negative weight, beta or gamma; as `NoisyTraining`.
    """

    def __init__(
        self,
        sigma: float,
        ramp: Ramp,
        weight: float = 6.0,
        beta: float = 16.0,
        gamma: float = 8.0,
        noises: int = 16,
        l1: float = 0.0,
    ) -> None:
        super().__init__(sigma, MacerLoss(sigma, weight, beta, gamma), noises, ramp=ramp, l1=l1)
