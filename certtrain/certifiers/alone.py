"""What each feature of a table can do alone: all others keep their values, so that its box is a line.

A column of words that may take any of its categories is one feature, and its line is its categories.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from certtrain.attacks import inner, inside, margin
from certtrain.bounds import BoundEngine, NativeEngine
from certtrain.certifiers.base import frozen
from certtrain.certifiers.bounds import BoundCertifier
from certtrain.data.batch import Batch
from certtrain.models.invariance import check_function
from certtrain.threat import threat_of
from certtrain.threat.moves import BoxMoves
from certtrain.threat.scales import Scales

METHODS = ("ibp", "crown_ibp", "crown")
STEPS = 200  # points on each side of an example's line that are tried


@dataclass(frozen=True)
class Alone:
    """One feature, of which each example's radius is decided by itself.

    Attributes:
        name: of the feature, or of the column of words.
        size: its change at radius 1, in shares of the input range; None: it takes any of its categories, whatever the
            radius.
        proved: (n,) the largest radius of the grid at which no value of the feature changes the class; 0 for none; -1
            where a category does, which it may at 0 too.
        broken: (n,) the smallest radius at which a value was found that does; infinite for none; 0 for a category.
    """

    name: str
    size: Fraction | None
    proved: NDArray[np.float64]
    broken: NDArray[np.float64]

    def counts(self, radius: Fraction) -> tuple[int, int, int]:
        """How many of the n examples are proved at the radius, broken within it, and neither."""
        proved = int((self.proved >= float(radius)).sum())
        broken = int((self.broken <= float(radius)).sum())
        return proved, broken, len(self.proved) - proved - broken


def each_alone(
    network: nn.Module,
    batch: Batch,
    scales: Scales,
    radii: Sequence[Fraction],
    engine: Callable[[nn.Module], BoundEngine] = NativeEngine,
    progress: Callable[[str], None] = lambda name: None,
) -> list[Alone]:
    """For each feature that may change, what it can do to the examples that are classified correctly.

    Proofs are those of `BoundCertifier` in float64 over the line, rounded outward; broken says that one of 200 points
    on each side up to the largest radius, each inside the exact line and on a whole number where the feature has only
    these, has another class in float64. The categories of a column are tried one and all, in float64: none stays open.

    Args:
        network: (B, d) inputs to logits.
        batch: examples that it classifies correctly.
        scales: of which each feature's size is taken, one at a time.
        radii: the grid, ascending.
        engine: makes the bound engine.
        progress: told the name of each feature before it is tried.

    Returns:
        In the order of the inputs.

    Raises:
        ValueError: an example that is misclassified.
        UserError: a network that is not one function of each input.
    """
    check_function(network, batch.x)
    own = copy.deepcopy(network).double()
    with frozen(own), torch.no_grad():
        if bool((own(batch.x.double()).argmax(1) != batch.y).any()):
            raise ValueError("an example is misclassified: there is no right decision to flip")
    found = []
    columns = {places[0]: (column, places) for column, places in scales.groups}
    for place, (name, size) in enumerate(zip(scales.names, scales.values)):
        if place in columns:
            progress(columns[place][0])
            found.append(_any_category(own, batch, replace(scales, groups=(columns[place],)), max(radii)))
        elif size:
            progress(name)
            zeros = [Fraction(0)] * len(scales.values)
            only = replace(scales, values=(*zeros[:place], size, *zeros[place + 1 :]), groups=())
            certifier = BoundCertifier(METHODS, radii, engine, attack_steps=0, scales=only)
            proved = certifier.certify(network, batch).radius
            with frozen(own):
                broken = _broken(own, batch.x.double(), batch.y, only, max(radii))
            found.append(Alone(name, size, proved, broken))
    return found


def _any_category(own: nn.Module, batch: Batch, scales: Scales, largest: Fraction) -> Alone:
    """The one column of the scales, which keeps the category it has or takes another."""
    flipped = torch.zeros(len(batch.x), dtype=torch.bool, device=batch.x.device)
    with frozen(own), torch.no_grad():
        for other in scales.categories(batch.x.double()):
            flipped |= ~(margin(own(other), batch.y) > 0)
    fell = flipped.cpu().numpy()
    ((column, _),) = scales.groups
    return Alone(column, None, np.where(fell, -1.0, float(largest)), np.where(fell, 0.0, np.inf))


def _broken(own: nn.Module, x: Tensor, y: Tensor, scales: Scales, largest: Fraction) -> NDArray[np.float64]:
    broken = np.full(len(x), np.inf)
    for step in range(STEPS, 0, -1):
        radius = largest * step / STEPS
        ball = inner(threat_of(scales=scales), inside(radius)).moves(x)
        assert isinstance(ball, BoxMoves)
        for end in (ball.lower, ball.upper):
            point = end if ball.admissible is None else ball.admissible(end)
            with torch.no_grad():
                fallen = ~(margin(own(point), y) > 0)
            broken[fallen.cpu().numpy()] = float(radius)
    return broken
