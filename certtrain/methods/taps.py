"""TAPS (Mao et al. 2023, arXiv 2305.04574): interval bounds up to a layer, an attack within them from there on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certtrain.bounds.base import BoundEngine, Bounds
from certtrain.errors import UserError
from certtrain.kernels.latent import Linked, advance
from certtrain.methods.base import Part, Streams, Value, whole
from certtrain.methods.bound_training import BoundTraining, Options
from certtrain.methods.losses import proved_share, robust_cross_entropy
from certtrain.methods.regions import Prepared
from certtrain.methods.robust import RobustLoss
from certtrain.models.evaluation import frozen
from certtrain.schedules import Ramp
from certtrain.system.collective import global_means
from certtrain.threat import Threat

ATTACKED = "taps"  # among the methods of a step: the second part is attacked
LINK_TOLERANCE = 1e-5  # of the paper's code: below it a box has no inside
SPLIT, WEIGHT = 0.5, 2.0


@dataclass(frozen=True)
class LatentAttack(Part):
    """PGD in a latent box on each margin `z_y - z_j` by itself, from a random point of the box.

    A step goes `step_size` widths of the box along the sign of the gradient. It is a fifth of that after 70 % of 10 to
    50 steps, after 40 and 70 % of up to 80, after 30, 60 and 80 % of more, as in the paper's code. The point with the
    least margin over all steps and restarts is kept.

    Args:
        steps: gradient steps, at least 1.
        restarts: random starts, at least 1.
        step_size: of a step, in widths of the box; None: the larger one of 0.2 and 2 / steps.

    Raises:
        UserError: no step or no start, a step of no length.
    """

    steps: int = 10
    restarts: int = 1
    step_size: float | None = None

    def __post_init__(self) -> None:
        for key, usual in (("steps", 10), ("restarts", 1)):
            whole(getattr(self, key), f"method.latent_attack.{key}", good=usual)
        if self.step_size is not None and not self.step_size > 0:
            what = f"latent_attack.step_size = {self.step_size!r} is not > 0"
            raise UserError(what, where="method.latent_attack.step_size", fix="method.latent_attack.step_size=null")

    def sizes(self) -> list[float]:
        """Of each step, in widths of the box."""
        size = max(0.2, 2 / self.steps) if self.step_size is None else self.step_size
        shares: tuple[float, ...] = (0.3, 0.6, 0.8)
        if self.steps <= 80:
            shares = (0.4, 0.7) if self.steps > 50 else (0.7,) if self.steps >= 10 else ()
        ends = [int(self.steps * share) for share in shares]
        return [size * 0.2 ** sum(step >= end for end in ends) for step in range(self.steps)]

    def __call__(
        self, margins: Callable[[Tensor], Tensor], box: tuple[Tensor, Tensor], start: Callable[[int], Tensor]
    ) -> Tensor:
        """(B, K-1, ...) where in the box each margin is small, in [0, 1]: 0 at the lower, 1 at the upper bound.

        Args:
            margins: of (B, K-1, ...) points, one for each margin, that margin, (B, K-1).
            box: lower and upper bounds, (B, ...) each.
            start: of a restart (B, K-1, ...) numbers in [0, 1).
        """
        lower, width = box[0].detach().contiguous(), (box[1] - box[0]).detach().contiguous()
        best = least = None
        for restart in range(self.restarts):
            place = start(restart).to(lower).contiguous()
            point = (place * width[:, None]).add_(lower[:, None])
            for size in (*self.sizes(), None):
                point.requires_grad_()
                with torch.enable_grad():
                    found = margins(point)
                value = found.detach()
                better = torch.ones_like(value, dtype=torch.bool) if least is None else value < least
                least = value if least is None else torch.where(better, value, least)
                best = torch.empty_like(place) if best is None else best
                if size is None:
                    best = torch.where(better.reshape(*better.shape, *[1] * (place.dim() - 2)), place, best)
                    break
                # Of the point, whose slopes have the signs of the place's.
                (gradient,) = torch.autograd.grad(found.sum(), point)
                place, best, point = advance(place, best, better, gradient.contiguous(), lower, width, size)
        assert best is not None
        return best


def others(y: Tensor, classes: int) -> Tensor:
    """(B, K-1) the classes other than y, ascending."""
    numbers = torch.arange(classes - 1, device=y.device).expand(len(y), -1)
    return numbers + (numbers >= y[:, None])


def point_margins(logits: Callable[[Tensor], Tensor], points: Tensor, y: Tensor) -> Tensor:
    """(B, K-1) margins `z_y - z_j`, each at a point of its own.

    Args:
        logits: of (N, ...) points, (N, K).
        points: (B, K-1, ...), those of the j-th class other than y in the j-th place.
        y: (B,) classes.
    """
    z = logits(points.flatten(0, 1)).unflatten(0, points.shape[:2])
    own = z.gather(2, y[:, None, None].expand(-1, z.shape[1], 1))
    return (own - z.gather(2, others(y, z.shape[2])[:, :, None])).squeeze(2)


def linked(place: Tensor, box: tuple[Tensor, Tensor], link: float) -> Tensor:
    """(B, K-1, ...) the points `p = l + place (u - l)` of a box, with the paper's rectified linear gradient link.

    p is a constant but for

        dp/du = [p >= u - c (u-l)] (p - (u - c (u-l))) / (c (u-l))
        dp/dl = [p <= l + c (u-l)] ((l + c (u-l)) - p) / (c (u-l)),       c = link:

    1 at the bound itself, linearly less inside, 0 from the share c of the width on. At c = 1 it is the derivative of
    p itself. As in the paper's code numerators are at least 0.5e-5 and denominators 1e-5, so that both are 1/2 in a box
    without width.

    Args:
        place: (B, K-1, ...) in [0, 1], without gradient.
        box: lower and upper bounds, (B, ...) each.
        link: c, in (0, 1].
    """
    lower, upper = (bound.contiguous() for bound in box)
    return Linked.apply(place, lower, upper, link, LINK_TOLERANCE)


def expanded(loss: Tensor, weight: float) -> Tensor:
    """GradExpand: the loss itself, its gradient times `weight`."""
    constant = loss.detach()
    return constant + weight * (loss - constant)


@dataclass(frozen=True)
class TapsLoss(RobustLoss):
    """`GradExpand_w(L_taps) L_ibp`, both means over the batch.

    The network is cut in two. Interval bounds go through the first part to a latent box, and an attack looks in it for
    the point where the second part makes the margin of class j least, for each j by itself. L_taps is `CE([0, -m], 0)`
    of these margins, L_ibp of the IBP margins of the whole network. Gradients of L_taps reach the box, and so the first
    part, by `linked`. The margins of an attack are no bounds: nothing is certified with them.

    BatchNorm in training mode has the batch statistics of one pass everywhere, the attack included.

    Args:
        split: where the first part ends: an operation's name in the network (or the number of a layer in a
            Sequential), or in (0, 1) about the share of linear and convolution layers in the first part.
        weight: w, of L_taps' gradient.
        attack: on the second part.
        link: c of `linked`, in (0, 1].
        ibp_ramp: L_ibp alone while eps rises, as in the paper.

    Raises:
        UserError: an argument out of its range.
    """

    split: str | int | float = SPLIT
    weight: float = WEIGHT
    attack: LatentAttack = field(default_factory=LatentAttack)
    link: float = 0.5
    ibp_ramp: bool = True

    def __post_init__(self) -> None:
        split = self.split
        if isinstance(split, bool) or not isinstance(split, (str, int, float)):
            what = f"split = {split!r} is neither an operation's name nor a share"
            raise UserError(what, where="method.split", fix=f"method.split={SPLIT}")
        if isinstance(split, float) and not 0 < split < 1:
            what = f"split = {split!r} is not a share in (0, 1)"
            raise UserError(what, where="method.split", fix=f"method.split={SPLIT}")
        for key, usual, most in (("weight", WEIGHT, float("inf")), ("link", 0.5, 1.0)):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= most:
                within = "(0, 1]" if most == 1 else "(0, inf)"
                what = f"{key} = {value!r} is not in {within}"
                raise UserError(what, where=f"method.{key}", fix=f"method.{key}={usual}")
        if not callable(self.attack):
            fix = "{_target_: certtrain.methods.taps.LatentAttack, steps: 10}"
            what = f"latent_attack = {self.attack!r} is not an attack"
            raise UserError(what, where="method.latent_attack", fix=fix)

    def methods(self, step: int, ramp: Ramp) -> tuple[str, ...]:
        """IBP's bounds, and with the attack from the end of the ramp on, or from the first step."""
        return ("ibp",) if self.ibp_ramp and step < ramp.end else ("ibp", ATTACKED)

    def begin(self, engine: BoundEngine, threat: Threat) -> None:
        """Refuse a split that the network does not have."""
        self.place(engine)

    def place(self, engine: BoundEngine) -> str:
        """The name of the first part's last operation.

        For a share the last one of the nearest share, of two as near the smaller one.

        Raises:
            UserError: the split names none, or leaves a part without a layer or activation; the engine has no bounds
                inside the network.
        """
        places = engine.splits()
        if not places:
            raise UserError(
                "the network has no place that leaves a layer and an activation on both sides",
                where="method.split",
                fix="a network with two activations or more, or method=ibp",
            )
        if isinstance(self.split, float):
            best = places[0]  # shares ascend
            for place in places[1:]:
                closer = abs(place.share - self.split) < abs(best.share - self.split) - 1e-9
                best = place if closer or place.share == best.share else best
            return best.name
        names = [place.name for place in places]
        if str(self.split) not in names:
            raise UserError(
                f"split = {self.split!r} leaves no layer and activation on both sides, or is not in the network",
                where="method.split",
                fix=f"one of {', '.join(names)}, or a share in (0, 1)",
            )
        return str(self.split)

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
        """The attack's points, as places in the latent box, so that they lie in that of the objective's own pass."""
        if ATTACKED not in methods:
            return inputs
        y = inputs.y
        with frozen(network, statistics="batch"):  # not under no_grad, where engines look at their inputs
            bounds = self.bounds(engine, inputs, threat, methods)
            (node,) = bounds.at.values()
            like = node.lower[:, None].expand(-1, bounds.clean.shape[1] - 1, *node.lower.shape[1:])
            place = self.attack(
                lambda points: point_margins(node.logits, points, y),
                (node.lower, node.upper),
                lambda restart: streams.uniform(like, inputs.index, step, f"latent attack {restart}"),
            )
        return inputs._replace(points=(*inputs.points, place))

    def bounds(
        self,
        engine: BoundEngine,
        inputs: Prepared,
        threat: Threat,
        methods: tuple[str, ...],
        at: tuple[str, ...] = (),
    ) -> Bounds:
        """IBP's, and those at the split where it is attacked."""
        if ATTACKED not in methods:
            return engine.bounds(inputs.x, inputs.y, threat, methods)
        return engine.bounds(inputs.x, inputs.y, threat, ("ibp",), at=(self.place(engine),))

    def loss(
        self,
        network: nn.Module,
        bounds: Bounds,
        inputs: Prepared,
        methods: tuple[str, ...],
        values: Mapping[str, Value],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Parts: train_verified, the share correct and proved at eps_t by IBP; where attacked loss_ibp, loss_taps."""
        ibp = bounds.margins["ibp"]
        parts = {"train_verified": proved_share(ibp, bounds.clean, inputs.y)}
        if ATTACKED not in methods:
            return robust_cross_entropy(ibp), parts
        (node,), place = bounds.at.values(), inputs.points[-1]
        points = linked(place, (node.lower, node.upper), self.link)
        margins = point_margins(node.logits, points, inputs.y)
        # A product of two means over the whole batch, of which each of several processes has a share.
        taps, proved = global_means([torch.logsumexp(F.pad(-m, (1, 0)), 1) for m in (margins, ibp)])
        parts |= {"loss_taps": taps.detach(), "loss_ibp": proved.detach()}
        return expanded(taps, self.weight) * proved, parts


class TAPS(BoundTraining):
    """`kappa CE(z(x), y) + (1 - kappa) GradExpand_w(L_taps) L_ibp`, see `TapsLoss`.

    Args:
        train_eps, ramp, options: see `BoundTraining`.
        split: where the attacked part of the network begins.
        weight: of the gradient of L_taps against that of L_ibp; 2 to 8 in published recipes.
        latent_attack: on the second part.
        link: c of the gradient link, in (0, 1].
        ibp_ramp: train with L_ibp alone while eps rises.

    Raises:
        UserError: as `TapsLoss` and `BoundTraining`; before the first step a split that the network does not have, and
            a bound engine without bounds inside the network.
    """

    def __init__(
        self,
        train_eps: Fraction | float | str,
        ramp: Ramp,
        split: str | int | float = SPLIT,
        weight: float = WEIGHT,
        latent_attack: LatentAttack = LatentAttack(),  # noqa: B008 - frozen
        link: float = 0.5,
        ibp_ramp: bool = True,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(train_eps, ramp, TapsLoss(split, weight, latent_attack, link, ibp_ramp), **options)
