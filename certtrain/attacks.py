"""Projected gradient descent (Madry et al. 2018, arXiv 1706.06083): upper bounds of robust accuracy."""

from __future__ import annotations

import contextlib
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certtrain.errors import UserError, nearest
from certtrain.evaluation import frozen
from certtrain.randomness import key
from certtrain.threat import ThreatModel

LOSSES = ("margin", "cross_entropy")
HALVE_EVERY = 10


class Attack(NamedTuple):
    """What an attack found.

    Attributes:
        margin: (B,) the smallest `min_j z_y - z_j`, j != y, met inside the ball; <= 0 means not robust. NaN where that
            was met and nothing <= 0.
        x: (B, ...) the input that has it.
    """

    margin: Tensor
    x: Tensor


def pgd_margins(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 40,
    restarts: int = 2,
    step_size: float | None = None,
    generator_seed: int = 0,
    loss: str = "margin",
) -> Attack:
    """The smallest margin that PGD finds inside the ball around each input, the unperturbed input included.

    Every point on the way is looked at, so more steps or restarts never find less. Steps are `eps/4` at first, half as
    long after every 10; along the sign of the gradient (l-inf) or the gradient (l2). Points stay in the ball exactly as
    floating point numbers: l-inf inside `threat.box(x)`, l2 inside the ball and the input range.

    Evaluates the network in eval mode and leaves its modes, `.grad` and the global random generators as they were.
    Works under `no_grad` and inference mode.

    Args:
        network: (B, ...) inputs to (B, K) logits, K >= 2.
        x: (B, ...) inputs.
        y: (B,) classes.
        threat: norm, eps (scalar or (B,)) and input range.
        steps: gradient steps of each start.
        restarts: starts: the first from x, the others from random points of the ball.
        step_size: constant length of a step in input units instead.
        generator_seed: of the random starts.
        loss: what is descended: `margin`, or `cross_entropy` (ascended).

    Raises:
        UserError: steps or restarts below 0, or an unknown loss.
    """
    if loss not in LOSSES:
        raise UserError(f"unknown loss {loss!r} of an attack", where="loss", fix=nearest(loss, LOSSES))
    if steps < 0 or restarts < 0:
        raise UserError(f"an attack with {steps} steps and {restarts} restarts", where="attack", fix="use at least 0")
    with contextlib.ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(frozen(network))
        stack.enter_context(torch.enable_grad())
        x, y = (tensor.clone() if tensor.is_inference() else tensor.detach() for tensor in (x, y))
        ball = _Ball(x, threat)
        best = Attack(x.new_full((len(x),), math.inf), x)
        for restart in range(max(restarts, 1)):
            point = x if restart == 0 else ball.random(restart, generator_seed)
            for step in range(steps if restarts else 0):
                point = point.detach().requires_grad_()
                logits = network(point)
                best = _better(best, logits, y, point)
                (gradient,) = torch.autograd.grad(_loss(logits, y, loss).sum(), point)
                length = ball.eps / 4 * 0.5 ** (step // HALVE_EVERY) if step_size is None else step_size
                point = ball.project(point.detach() - length * ball.direction(gradient))
            with torch.no_grad():
                best = _better(best, network(point), y, point)
    return best


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """(B,) `min_j z_y - z_j` over j != y, for (B, K) logits."""
    others = logits.scatter(1, y[:, None], -math.inf).amax(1)
    return logits.gather(1, y[:, None])[:, 0] - others


def _loss(logits: Tensor, y: Tensor, loss: str) -> Tensor:
    return margin(logits, y) if loss == "margin" else -F.cross_entropy(logits, y, reduction="none")


def _better(best: Attack, logits: Tensor, y: Tensor, point: Tensor) -> Attack:
    found, point = margin(logits.detach(), y), point.detach()
    # A margin that is no number is worse than a positive one, and better than one that is an attack without doubt.
    improved = (found < best.margin) | (found.isnan() & (best.margin > 0)) | (best.margin.isnan() & (found <= 0))
    rows = improved.reshape(-1, *([1] * (point.dim() - 1)))
    return Attack(torch.where(improved, found, best.margin), torch.where(rows, point, best.x))


class _Ball:
    """The admissible inputs around x."""

    def __init__(self, x: Tensor, threat: ThreatModel) -> None:
        self.x, self.threat, self.eps = x, threat, threat.eps_tensor(x)
        if threat.norm == "linf":
            self.lower, self.upper = threat.box(x)
        else:
            # Rounding moves each of d coordinates by up to half an ulp of 1: stay that far inside.
            ulp = torch.finfo(x.dtype).eps
            self.inner = (self.eps * (1 - 4 * ulp) - ulp * math.sqrt(x[0].numel())).clamp_min(0)

    def direction(self, gradient: Tensor) -> Tensor:
        """The steepest direction, of length 1 in the ball's norm; none where the gradient is no number."""
        gradient = gradient.nan_to_num(0, 0, 0)
        if self.threat.norm == "linf":
            return gradient.sign()
        return gradient / self._norms(gradient)

    def project(self, point: Tensor) -> Tensor:
        """The nearest admissible input (l-inf), or one on the way to the nearest (l2)."""
        if self.threat.norm == "linf":
            return point.clamp(self.lower, self.upper)
        offset = point - self.x
        point = self.x + offset * (self.inner / self._norms(offset)).clamp_max(1)
        # x is in the range: clipping to it brings no coordinate further from x.
        return point.clamp(self.threat.lower, self.threat.upper) if self._bounded else point

    def random(self, restart: int, seed: int) -> Tensor:
        """A random admissible input: uniform (l-inf), or of random direction and length (l2)."""
        words = key(seed, "attack", restart)
        generator = torch.Generator().manual_seed(words[0] << 32 | words[1])

        def draw(source: object, *shape: int) -> Tensor:
            return source(*shape, generator=generator, dtype=torch.float32).to(self.x)  # type: ignore[operator]

        if self.threat.norm == "linf":
            share = draw(torch.rand, *self.x.shape)
            return self.project(self.lower + share * (self.upper - self.lower))
        offset = draw(torch.randn, *self.x.shape)
        share = draw(torch.rand, len(self.x), *([1] * (self.x.dim() - 1)))
        return self.project(self.x + offset * (self.eps * share / self._norms(offset)))

    @property
    def _bounded(self) -> bool:
        return self.threat.lower is not None or self.threat.upper is not None

    @staticmethod
    def _norms(values: Tensor) -> Tensor:
        norms = values.flatten(1).norm(dim=1).reshape(-1, *([1] * (values.dim() - 1)))
        return norms.clamp_min(torch.finfo(values.dtype).tiny)
