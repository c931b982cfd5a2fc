"""Lower bounds of functions, raised by Adam on the parameters of the lines that they are bounded through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

from certtrain.bounds.parameters import Choices, Parameters, Values
from certtrain.errors import UserError
from certtrain.system.work import pause

WORTH = 0.75  # the share of functions still open at which the decided ones are dropped
FIRST_DECAY, SECOND_DECAY, TINY = 0.9, 0.999, 1e-8  # of Adam


@dataclass(frozen=True)
class Search:
    """How lines are optimised.

    Args:
        iterations: steps of Adam for each function; 0: the better of CROWN's lines and the flattest lower ones.
        rate: of the first step, where slopes lie in [0, 1], in (0, 1]: multipliers of splits have no upper limit of
            their own, and huge ones would cancel what a float64 margin is made of.
        decay: of the rate, after every step.
        intermediates: whether the bounds of the neurons inside are optimised as well.
        shared: whether all neurons of a layer have the same lines (of an example), a set for each side: fewer to store
            for later use, and looser.
        stop: whether examples and neurons are left alone once they are decided.
    """

    iterations: int = 20
    rate: float = 0.5
    decay: float = 0.98
    intermediates: bool = True
    shared: bool = False
    stop: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.iterations, bool) or not isinstance(self.iterations, int) or self.iterations < 0:
            what, fix = f"iterations = {self.iterations!r} is not a whole number >= 0", "iterations=20"
        elif isinstance(self.rate, bool) or not isinstance(self.rate, (int, float)) or not 0 < self.rate <= 1:
            what, fix = f"rate = {self.rate!r} is not a number in (0, 1]", "rate=0.5"
        else:
            return
        raise UserError(what, where="the engine of alpha_crown", fix=fix)


class Goal(Protocol):
    """Functions that are bounded through lines, `rows` (N,) the example of each."""

    @property
    def rows(self) -> Tensor: ...

    def take(self, part: Tensor | slice) -> Self:
        """Some of them."""
        ...

    def bounds(self, lines: Parameters) -> Tensor:
        """(N, S) lower bounds."""
        ...


@dataclass(frozen=True)
class Found:
    """The best bounds (N, S), and the parameters that gave them, see `Parameters.values`."""

    bounds: Tensor
    values: Values


def optimise(
    goal: Goal,
    chosen: Choices,
    search: Search,
    decided: Callable[[Tensor, Tensor], Tensor] | None = None,
    *,
    begin: Values | None = None,
    shared: int = 0,
) -> Found:
    """Lower bounds of functions, as large as `search.iterations` steps of Adam make them, and never below the first.

    Of the first iterate, those in the second half and the ones that decide a function the best is kept.

    Args:
        goal: N functions or groups of S.
        chosen: the relaxations of every nonlinearity.
        search: how.
        decided: of bounds (N, S) and the examples (N,) they are about: which, (N,), are left alone from there on.
        begin: the parameters to begin with; None: CROWN's, or where that is better those of the flattest lower lines.
        shared: at most as many functions at once, all with the parameters of their example; 0: each has its own.
    """
    here = Parameters(chosen, begin, shared=bool(shared))
    parts = [goal.take(slice(at, at + shared)) for at in range(0, len(goal.rows), shared)] if shared else [goal]

    def total(bounds: Tensor) -> Tensor:
        """Of those with the same parameters."""
        if not shared:
            return bounds
        owners = len(next(iter(here.values.values()))[0])
        return bounds.new_zeros(owners, bounds.shape[1]).index_add(0, goal.rows, bounds)

    with torch.no_grad():
        best = torch.cat([part.bounds(here) for part in parts])
        if not here.values:  # every nonlinearity has its one line
            return Found(best, {})
        if begin is None:
            flat = Parameters(chosen, shared=bool(shared), flattest=True)
            other = torch.cat([part.bounds(flat) for part in parts])
            better = total(other) > total(best)
            for step, values in here.values.items():
                here.values[step] = [
                    torch.where(_wide(better, value), low, value) for low, value in zip(flat.values[step], values)
                ]
            best = torch.where(better[goal.rows] if shared else better, other, best)
    if not search.iterations:
        return Found(best, here.values)
    kept = {step: [value.clone() for value in values] for step, values in here.values.items()}
    active = torch.arange(len(best), device=best.device)  # which functions are still optimised
    ascent = _Adam(here, search)
    for iteration in range(search.iterations + 1):
        last = iteration == search.iterations
        if decided is not None and not last:
            open_ = ~decided(best[active], goal.rows)
            if not open_.any():
                break
            if not shared and open_.sum() <= WORTH * len(open_):
                some = open_.nonzero().flatten()
                active, goal = active[some], goal.take(some)
                here, parts = here.take(some), [goal]
                ascent.take(some, here)
        bounds, grads = _evaluate(parts, here, gradient=not last)
        if iteration:
            better = total(bounds) > total(best[active])
            if not last and 2 * iteration <= search.iterations:  # too early to store, but for what is decided by it
                done = bounds.isnan().all(1) if decided is None else decided(bounds, goal.rows)
                better &= total(done[:, None].expand_as(bounds).to(bounds)) > 0
            _keep(kept, best, here, active, better, bounds, goal.rows if shared else None)
        if not last:
            ascent.step(grads)
    return Found(best, kept)


def _evaluate(parts: Sequence[Goal], here: Parameters, gradient: bool) -> tuple[Tensor, list[Tensor | None]]:
    """The bounds, and the gradients of their sum, by parameter in the order of the steps."""
    values = [value for some in here.values.values() for value in some]
    for value in values:
        value.requires_grad_(gradient)
    found, grads = [], [None] * len(values)
    for part in parts:
        pause()
        with torch.set_grad_enabled(gradient):
            bounds = part.bounds(here)
        if gradient and bounds.requires_grad:
            more = torch.autograd.grad(bounds, values, torch.ones_like(bounds), allow_unused=True)
            grads = [new if old is None else old if new is None else old + new for old, new in zip(grads, more)]
        found.append(bounds.detach())
    return torch.cat(found), grads


@torch.no_grad()
def _keep(
    kept: Values,
    best: Tensor,
    here: Parameters,
    active: Tensor,
    better: Tensor,
    bounds: Tensor,
    rows: Tensor | None,
) -> None:
    """Take over the parameters, and the bounds, of those that are better; `rows`, where they are shared, by example."""
    which = better if rows is None else better[rows]
    best[active] = torch.where(which, bounds, best[active])
    groups, sides = better.nonzero(as_tuple=True)
    to = groups if rows is not None else active[groups]
    for step, values in here.values.items():
        for mine, value in zip(kept[step], values):
            mine[to, sides] = value.detach()[groups, sides]


class _Adam:
    """Adam (Kingma and Ba 2015, arXiv 1412.6980) upwards, each step projected to the limits of the parameters.

    Args:
        here: whose parameters.
        search: rate and decay.
    """

    def __init__(self, here: Parameters, search: Search) -> None:
        self.rate, self.decay, self.steps = search.rate, search.decay, 0
        self.here, self.moments = here, {}

    def take(self, part: Tensor, here: Parameters) -> None:
        """Go on with some of the functions."""
        self.here = here
        self.moments = {key: (first[part], second[part]) for key, (first, second) in self.moments.items()}

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor | None]) -> None:
        """One step along the gradients, in the order of the parameters."""
        self.steps += 1
        rate = self.rate * self.decay ** (self.steps - 1) / (1 - FIRST_DECAY**self.steps)
        unbiased = 1 / (1 - SECOND_DECAY**self.steps)
        rest = iter(grads)
        for step, values in self.here.values.items():
            for place, (value, ends) in enumerate(zip(values, self.here.limits(step), strict=True)):
                grad = next(rest)
                if grad is None:
                    continue
                key = step, place
                if key not in self.moments:
                    self.moments[key] = torch.zeros_like(grad), torch.zeros_like(grad)
                first, second = self.moments[key]
                first.lerp_(grad, 1 - FIRST_DECAY)
                second.mul_(SECOND_DECAY).addcmul_(grad, grad, value=1 - SECOND_DECAY)
                value.addcdiv_(first, (second * unbiased).sqrt_().add_(TINY), value=rate)
                least, most = (end[:, None] if isinstance(end, Tensor) else end for end in ends)
                value.clamp_(least, most)


def _wide(mask: Tensor, like: Tensor) -> Tensor:
    """(N, S) to broadcast against (N, S, *shape)."""
    return mask.reshape(*mask.shape, *([1] * (like.dim() - 2)))
