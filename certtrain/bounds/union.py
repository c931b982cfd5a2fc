"""Bounds over a union of boxes: what holds in each of them holds in all, so that the least of their bounds is one."""

from __future__ import annotations

import torch
from torch import Tensor

from certtrain.bounds.base import BoundEngine, Bounds, Features, FusedLoss, Split, no_bounds_inside
from certtrain.threat import Threat


class United:
    """A bound engine over a set that is several boxes, as where columns of a table may take any of their categories.

    Every box is bounded by itself, `engine` once for each. The clean logits and the pre-activations are those of the
    input itself, whose box comes first.

    Args:
        engine: bounds one box.
    """

    def __init__(self, engine: BoundEngine) -> None:
        self.engine, self.name, self.version, self.methods = engine, engine.name, engine.version, engine.methods

    def bounds(
        self,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        methods: tuple[str, ...] = ("ibp", "crown_ibp"),
        at: tuple[str, ...] = (),
        closest: int | None = None,
    ) -> Bounds:
        """The least lower bounds of the margins over all boxes, of all margins; see `BoundEngine.bounds`.

        NaN where one has NaN.

        Raises:
            UserError: bounds inside the network are asked for, where each box has its own.
        """
        if at:
            self.splits()
        found = [self.engine.bounds(part, y, box, methods) for part, box in threat.parts(x)]
        margins = {method: torch.stack([one.margins[method] for one in found]).amin(0) for method in methods}
        return Bounds(found[0].clean, margins, found[0].pre_activations)

    def splits(self) -> tuple[Split, ...]:
        """None; see `BoundEngine.splits`.

        Raises:
            UserError: always.
        """
        raise no_bounds_inside("a set of several boxes")

    def features(self) -> Features:
        """None; see `BoundEngine.features`.

        Raises:
            UserError: always.
        """
        raise no_bounds_inside("a set of several boxes")

    def fused_loss(self, x: Tensor, y: Tensor, threat: Threat, method: str = "crown_ibp") -> FusedLoss:
        """The largest upper bounds of the loss over all boxes; see `BoundEngine.fused_loss`."""
        found = [self.engine.fused_loss(part, y, box, method) for part, box in threat.parts(x)]
        margins = torch.stack([one.margins["ibp"] for one in found]).amin(0)
        loss = torch.stack([one.loss for one in found]).amax(0)
        return FusedLoss(found[0].clean, {"ibp": margins}, found[0].pre_activations, loss)


def united(engine: BoundEngine, threat: Threat) -> BoundEngine:
    """The engine for a threat model: itself where that is one ball, else over the union."""
    return United(engine) if threat.several else engine
