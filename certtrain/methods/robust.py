"""The robust term of an objective: which bounds it asks for, and the loss made of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from certtrain.bounds.base import BoundEngine, Bounds
from certtrain.methods.base import Part, Streams, Value
from certtrain.methods.losses import proved_share, robust_cross_entropy
from certtrain.methods.regions import Prepared
from certtrain.schedules import Ramp
from certtrain.threat import Threat


class RobustLoss(Part, ABC):
    """A robust loss, as a value. Its attributes that are schedules are numbers in `values`, under their names.

    Attributes:
        attacked: whether the loss is made of the logits at an adversarial input that it finds, `points[0]`, instead of
            those at x.
    """

    attacked: ClassVar[bool] = False

    def check(self, threat: Threat) -> None:
        """Refuse a threat model that the loss is not defined in.

        Raises:
            UserError: with what to change.
        """

    def methods(self, step: int, ramp: Ramp) -> tuple[str, ...]:
        """The bounds to compute at this step; none for a loss of logits alone."""
        return ("ibp",)

    def prepare(self, network: nn.Module, inputs: Prepared, threat: Threat, step: int, streams: Streams) -> Prepared:
        """What the loss needs beside bounds, such as attacked inputs in `points`; as `Method.prepare`.

        Args:
            network: to attack.
            inputs: as the region prepared them.
            threat: at eps_t.
            step: completed optimiser steps.
            streams: keyed random numbers.
        """
        return inputs

    def begin(self, engine: BoundEngine, threat: Threat) -> None:
        """Refuse a network, an engine or a threat model that the loss is not defined for, before the first step.

        Raises:
            UserError: with what to change.
        """

    def search(
        self,
        network: nn.Module,
        engine: BoundEngine,
        inputs: Prepared,
        threat: Threat,
        methods: tuple[str, ...],
        step: int,
        streams: Streams,
    ) -> Prepared:
        """What the loss needs of points inside the network, where bounds say how far they may go; after `prepare`.

        Args:
            network: to attack.
            engine: bounds it.
            inputs: as `prepare` left them.
            threat: the region that is bounded.
            methods: the bounds that this step computes.
            step: completed optimiser steps.
            streams: keyed random numbers.
        """
        return inputs

    def bounds(
        self,
        engine: BoundEngine,
        inputs: Prepared,
        threat: Threat,
        methods: tuple[str, ...],
        at: tuple[str, ...] = (),
    ) -> Bounds:
        """The bounds that `loss` is made of, over the region.

        Args:
            engine: bounds the network.
            inputs: x is where BatchNorm takes its statistics.
            threat: the region.
            methods: to compute.
            at: operations that bounds are asked for besides, for a loss that is `attacked`.
        """
        return engine.bounds(inputs.x, inputs.y, threat, methods, **({"at": at} if at else {}))

    def batch_norm_at(self, inputs: Prepared) -> tuple[Tensor, ...]:
        """Inputs that `loss` runs the network on by itself, see `Method.batch_norm_at`."""
        return ()

    @abstractmethod
    def loss(
        self,
        network: nn.Module,
        bounds: Bounds,
        inputs: Prepared,
        methods: tuple[str, ...],
        values: Mapping[str, Value],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, (), with its graph, and the parts to log with it; pure, as `Method.objective`.

        Args:
            network: for losses at further points.
            bounds: of `bounds`; where no method is asked for, the logits alone. Its clean logits are those at x, of a
                loss that is `attacked` those at `points[0]`.
            inputs: as they were prepared.
            methods: that were computed.
            values: what is scheduled, by name.
        """


@dataclass(frozen=True)
class IntervalLoss(RobustLoss):
    """`CE([0, -m], 0)` with m the IBP lower bounds of the margins."""

    def loss(
        self,
        network: nn.Module,
        bounds: Bounds,
        inputs: Prepared,
        methods: tuple[str, ...],
        values: Mapping[str, Value],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Parts: train_verified, the share correct and proved at eps_t."""
        margins = bounds.margins["ibp"]
        return robust_cross_entropy(margins), {"train_verified": proved_share(margins, bounds.clean, inputs.y)}
