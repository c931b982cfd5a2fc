"""What a robust loss bounds around an input: the whole ball, or a part of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from certtrain.errors import UserError
from certtrain.methods.base import Part, Streams
from certtrain.methods.inner_attack import InnerAttack, check_box, checked_attack
from certtrain.threat import Linf, Threat


class Prepared(NamedTuple):
    """A batch with what was prepared of it.

    Attributes:
        x, y, index: of the batch.
        lower, upper: (B, ...) corners of the boxes, which need not hold x; None where the whole ball is bounded.
        points: each (B, ...): an adversarial input first, where one was looked for, then what a robust loss needs.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    lower: Tensor | None = None
    upper: Tensor | None = None
    points: tuple[Tensor, ...] = ()


class Region(Part, ABC):
    """The set around an input that is bounded, as a value. Nothing is certified over it: a certifier takes the ball."""

    @property
    def attacks(self) -> bool:
        """Whether `prepare` looks for an adversarial input, which it leaves in `points[0]`."""
        return False

    def check(self, threat: Threat) -> None:
        """Refuse a threat model that the region is not defined in.

        Raises:
            UserError: with what to change.
        """

    def prepare(self, network: nn.Module, inputs: Prepared, threat: Threat, step: int, streams: Streams) -> Prepared:
        """Place the region, as `Method.prepare`; `threat` is at eps_t."""
        return inputs

    @abstractmethod
    def around(self, inputs: Prepared, threat: Threat) -> Threat:
        """The set that is bounded, of what was prepared and the threat model at eps_t."""


@dataclass(frozen=True)
class WholeBall(Region):
    """The threat model itself."""

    def around(self, inputs: Prepared, threat: Threat) -> Threat:
        """The ball."""
        return threat


@dataclass(frozen=True)
class SmallBox(Linf):
    """The box between two corners; what a method bounds, not what a certificate is about."""

    corners: tuple[Tensor, Tensor] | None = None

    def box(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The corners."""
        assert self.corners is not None
        return self.corners


@dataclass(frozen=True)
class SmallBoxes(Region):
    """Boxes of half-width `tau = share (ub - lb) / 2` around `c = clip(x*, lb + tau, ub - tau)`, Mueller et al. (2023).

    [lb, ub] is the l-inf ball at eps_t within the input range, and x* an adversarial input of it, or of the larger ball
    that the attack's `radius` asks for. At share 1 it is the whole ball.

    Args:
        share: lambda of the paper, in (0, 1].
        attack: finds x*.

    Raises:
        UserError: a share out of its range, an attack that is none.
    """

    share: float = 0.4
    attack: InnerAttack = field(default_factory=InnerAttack)

    def __post_init__(self) -> None:
        share = self.share
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
            raise UserError(f"share = {share!r} is not in (0, 1]", where="method.share", fix="method.share=0.4")
        checked_attack(self.attack)

    @property
    def attacks(self) -> bool:
        """Unless the small box is the whole one."""
        return self.share < 1

    def check(self, threat: Threat) -> None:
        """Refuse what is not one box."""
        check_box(threat, "small boxes")

    def prepare(self, network: nn.Module, inputs: Prepared, threat: Threat, step: int, streams: Streams) -> Prepared:
        """Attack, and place the boxes."""
        lower, upper = threat.box(inputs.x)
        if not self.attacks:
            return inputs._replace(lower=lower, upper=upper)
        assert isinstance(threat, Linf)
        worst = self.attack.find(network, inputs, threat, step, streams)
        tau = self.share * (upper - lower) / 2
        centre = torch.minimum(torch.maximum(worst, lower + tau), upper - tau)
        return inputs._replace(lower=centre - tau, upper=centre + tau, points=(worst,))

    def around(self, inputs: Prepared, threat: Threat) -> Threat:
        """The small boxes."""
        assert inputs.lower is not None
        assert inputs.upper is not None
        return SmallBox(corners=(inputs.lower, inputs.upper))
