"""The regularisers of Shi, Wang, Zhang, Yi and Hsieh 2021 (arXiv 2103.17268), which make short IBP ramps possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from certtrain.bounds.base import PreActivation
from certtrain.errors import UserError
from certtrain.kernels.moments import Moments, mean_centre
from certtrain.methods.base import Part, non_negative
from certtrain.models.normalize import Normalize
from certtrain.schedules import Ramp
from certtrain.system.collective import global_means, global_sum, shares
from certtrain.threat import Threat

MIN_EPS = 1e-6  # during the natural warm-up the boxes are this wide, so that their growth can be measured
SMALLEST = 1e-12


class ShiTerms(NamedTuple):
    """The two terms, each a mean over the layers, before any weight."""

    tight: Tensor
    relu: Tensor


@dataclass(frozen=True)
class ShiRegulariser(Part):
    """`weight (1 - eps_t/eps_max) (L_tight + L_relu)`, active from the first step to the end of the ramp.

    With l, u the bounds of one ReLU layer's inputs, c = (l+u)/2 their centres, delta = (u-l)/2 their radii, means over
    the batch (all of it, where several processes share it) and the layer's neurons, tau = `tolerance` and delta0 the
    input's radius after normalisation:

        L_tight = mean over layers of  max(0, tau - mean(delta0)/mean(delta)) / tau
        L_relu  = mean over layers of  (max(0, tau - rho(r_mean)) + max(0, tau - rho(r_var))) / tau
        r_mean  = mean(c [l > 0]) / -mean(c [u < 0])
        r_var   = sum((c - mean(c))^2 [l > 0]) / sum((c - mean(c))^2 [u < 0]),     rho(r) = min(r, 1/r).

    The first keeps boxes from growing through the layers, the second keeps active and inactive neurons in balance. A
    layer whose L_relu is NaN or infinite (no inactive neuron) adds nothing to the sum, but counts in the mean.

    Args:
        weight: lambda, >= 0. Theirs: 0.5; 0.1 to 0.2 on TinyImageNet.
        tolerance: tau, in (0, 1].

    Raises:
        UserError: weight < 0, or tolerance outside (0, 1].
    """

    weight: float
    tolerance: float = 0.5

    def __post_init__(self) -> None:
        non_negative(self.weight, "method.regulariser")
        if not 0 < self.tolerance <= 1:
            raise UserError(
                f"the regulariser's tolerance {self.tolerance} is not in (0, 1]",
                where="method.regulariser",
                fix="tolerance=0.5",
            )

    def at(self, step: int, ramp: Ramp) -> float:
        """The weight of both terms at this step: lambda (1 - eps_t/eps_max)."""
        return self.weight * (1 - ramp.fraction(step))

    def scheduled(self, step: int, ramp: Ramp) -> dict[str, float]:
        """That weight."""
        return {"regulariser": self.at(step, ramp)}

    def terms(self, input_radius: Tensor, pre_activations: Sequence[PreActivation]) -> ShiTerms:
        """L_tight and L_relu, before any weight.

        Args:
            input_radius: the mean radius of the input box, a scalar; see `normalised_radius`.
            pre_activations: interval bounds of each activation's input; L_relu is about those with a kink at 0.
        """
        if not pre_activations:
            zero = torch.zeros_like(input_radius)
            return ShiTerms(zero, zero)
        pivots = torch.stack([mean_centre(p.lower, p.upper) for p in pre_activations])
        share = shares([p.lower.numel() for p in pre_activations], pivots)
        if share is not None:
            pivots = global_sum(share * pivots)
        moments = torch.stack([Moments.apply(p.lower, p.upper, pivot) for p, pivot in zip(pre_activations, pivots)])
        if share is not None:
            moments = global_sum(share[:, None] * moments)
        tight = (self.tolerance - input_radius / moments[:, 0].clamp_min(SMALLEST)).relu() / self.tolerance
        kinks = [place for place, p in enumerate(pre_activations) if p.kink]
        if not kinks:
            return ShiTerms(tight.mean(), torch.zeros_like(tight[0]))
        if len(kinks) < len(pre_activations):
            pivots, moments = (torch.stack([numbers[place] for place in kinks]) for numbers in (pivots, moments))
        return ShiTerms(tight.mean(), self._relu(pivots, moments).mean())

    def _relu(self, pivots: Tensor, moments: Tensor) -> Tensor:
        """(n,) L_relu of each layer, from (n,) pivots and (n, 8) moments about them."""
        # On the device, without asking the host. A dropped layer's numbers are replaced before anything is computed
        # from them: a selection afterwards alone would hand NaN to the gradient.
        with torch.no_grad():
            numbers = _balance(pivots, moments)
            keep = torch.isfinite(numbers).all(1) & (numbers[:, 1] > 0) & (numbers[:, 3] > 0)
        numbers = _balance(torch.where(keep, pivots, 0), torch.where(keep[:, None], moments, 0))
        mean_active, mean_inactive, var_active, var_inactive = torch.where(keep[:, None], numbers, 1).unbind(1)
        terms = [
            (self.tolerance - _at_most_one(active_part / inactive_part)).relu()
            for active_part, inactive_part in ((mean_active, mean_inactive), (var_active, var_inactive))
        ]
        return torch.where(keep, (terms[0] + terms[1]) / self.tolerance, 0)


def _balance(pivots: Tensor, moments: Tensor) -> Tensor:
    """(n, 4): the mean of the active centres, minus that of the inactive ones, and the means of their squared distance
    to the mean of all centres. With that mean p + a it is `(c-p)^2 - 2 a (c-p) + a^2`."""
    _, above_pivot, active, above, above_square, inactive, below, below_square = moments.unbind(1)
    squares = [
        square - above_pivot * (2 * some - above_pivot * share)
        for share, some, square in ((active, above, above_square), (inactive, below, below_square))
    ]
    return torch.stack([above + pivots * active, -(below + pivots * inactive), *squares], 1)


def _at_most_one(ratio: Tensor) -> Tensor:
    return torch.minimum(ratio, 1 / ratio.clamp_min(SMALLEST))


def normalised_radius(network: nn.Module, x: Tensor, threat: Threat) -> Tensor:
    """The mean radius of the l-inf input box as the first layer after the normalisation sees it: a scalar.

    The published implementation normalises in the data loader, so that its delta0 is in those units.
    """
    lower, upper = threat.box(x)
    radius = (upper - lower) / 2
    normalise = next((module for module in network.modules() if isinstance(module, Normalize)), None)
    return global_means([radius / normalise.std if normalise is not None else radius])[0]
