"""The regularisers of Shi, Wang, Zhang, Yi and Hsieh 2021 (arXiv 2103.17268), which make short IBP ramps possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from certtrain.bounds.base import PreActivation
from certtrain.collective import global_means, global_sums
from certtrain.errors import UserError
from certtrain.methods.base import non_negative
from certtrain.models.normalize import Normalize
from certtrain.threat import ThreatModel

MIN_EPS = 1e-6  # during the natural warm-up the boxes are this wide, so that their growth can be measured
SMALLEST = 1e-12


class ShiTerms(NamedTuple):
    """The two terms, each a mean over the layers, before any weight."""

    tight: Tensor
    relu: Tensor


@dataclass(frozen=True)
class ShiRegulariser:
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

    def terms(self, input_radius: Tensor, pre_activations: Sequence[PreActivation]) -> ShiTerms:
        """L_tight and L_relu, before any weight.

        Args:
            input_radius: the mean radius of the input box, a scalar; see `normalised_radius`.
            pre_activations: interval bounds of each activation's input; L_relu is about those with a kink at 0.
        """
        if not pre_activations:
            zero = torch.zeros_like(input_radius)
            return ShiTerms(zero, zero)
        radii = global_means([(p.upper - p.lower) / 2 for p in pre_activations])
        tight = torch.stack([self._tight(input_radius, radius) for radius in radii]).mean()
        layers = [_Layer(p.lower, p.upper) for p in pre_activations if p.kink]
        means = global_means([part for layer in layers for part in layer.parts(layer.centre)])
        squares = [(layer.centre - mean) ** 2 for layer, mean in zip(layers, means[::3])]
        variances = global_sums([part for layer, s in zip(layers, squares) for part in layer.parts(s)[1:]])
        relu = [
            self._relu(torch.stack([active, -inactive, *spread]))
            for active, inactive, *spread in zip(means[1::3], means[2::3], variances[::2], variances[1::2])
        ]
        return ShiTerms(tight, torch.stack(relu).mean() if relu else torch.zeros_like(tight))

    def _tight(self, input_radius: Tensor, radius: Tensor) -> Tensor:
        return (self.tolerance - input_radius / radius.clamp_min(SMALLEST)).relu() / self.tolerance

    def _relu(self, numbers: Tensor) -> Tensor:
        """From (4,): the mean of the active centres, minus that of the inactive ones, their sums of squares."""
        # On the device, without asking the host. The dropped layer's numbers are replaced before they are divided: a
        # selection afterwards would hand NaN to the gradient.
        keep = torch.isfinite(numbers).all() & (numbers[1] > 0) & (numbers[3] > 0)
        mean_active, mean_inactive, var_active, var_inactive = torch.where(keep, numbers, torch.ones_like(numbers))
        terms = [
            (self.tolerance - _at_most_one(active_part / inactive_part)).relu()
            for active_part, inactive_part in ((mean_active, mean_inactive), (var_active, var_inactive))
        ]
        return torch.where(keep, (terms[0] + terms[1]) / self.tolerance, torch.zeros_like(terms[0]))


class _Layer:
    """One ReLU layer's input centres, and which are active (always above 0) or inactive (always below)."""

    def __init__(self, lower: Tensor, upper: Tensor) -> None:
        self.centre, self.active, self.inactive = (lower + upper) / 2, lower > 0, upper < 0

    def parts(self, values: Tensor) -> list[Tensor]:
        """The values, those of the active and those of the inactive neurons, 0 elsewhere."""
        return [values, values * self.active, values * self.inactive]


def _at_most_one(ratio: Tensor) -> Tensor:
    return torch.minimum(ratio, 1 / ratio.clamp_min(SMALLEST))


def normalised_radius(network: nn.Module, x: Tensor, threat: ThreatModel) -> Tensor:
    """The mean radius of the l-inf input box as the first layer after the normalisation sees it: a scalar.

    The published implementation normalises in the data loader, so that its delta0 is in those units.
    """
    lower, upper = threat.box(x)
    radius = (upper - lower) / 2
    normalise = next((module for module in network.modules() if isinstance(module, Normalize)), None)
    return global_means([radius / normalise.std if normalise is not None else radius])[0]
