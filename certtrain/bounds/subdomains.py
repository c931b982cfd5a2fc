"""Sub-domains of an input set, bounded by beta-CROWN (Wang et al. 2021, arXiv 2103.06624).

A sub-domain fixes the sign of some ReLUs' inputs z: of a split neuron `s z >= 0`, s = 1 or -1. Its ReLU is then a line,
and for every multiplier beta >= 0

    min over the sub-domain of f  >=  min over all of  f - beta s z,

because `beta s z >= 0` in the sub-domain. The multipliers are parameters of the lines beside the slopes, and optimised
with them. Both signs together hold every input, also those with z = 0, so that a function is positive over a set when
it is over both sub-domains of any of its splits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from certtrain.bounds.alpha import Functions, Root
from certtrain.bounds.ascent import Search, optimise
from certtrain.bounds.forward import Pass
from certtrain.bounds.intermediates import Box
from certtrain.bounds.nonlinear import Freedom, Relaxation
from certtrain.bounds.parameters import Choices, Parameters, Values, choices
from certtrain.bounds.relaxation import Slopes
from certtrain.bounds.rules import Relu


class Split(Freedom):
    """The lines of a ReLU over sub-domains, each with boxes of its own, and the multipliers of what is split.

    Attributes:
        seen: (D, 1, *shape) the coefficients after the ReLU of the last walk.

    Args:
        lower, upper: (D, *shape) of its input, with 0 at the end that a split leaves.
        sign: (D, *shape) int8: 1 and -1 where a neuron is split, else 0.
    """

    def __init__(self, lower: Tensor, upper: Tensor, sign: Tensor) -> None:
        self.slopes = Slopes.of(lower, upper)
        self.sign = sign.to(lower.dtype)
        self.most = torch.where(sign != 0, torch.inf, 0.0).to(lower.dtype)
        self.seen: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> Split:
        return self

    def start(self, flattest: bool = False) -> list[Tensor]:
        return [*self.slopes.start(flattest), torch.zeros_like(self.most)]

    def limits(self) -> list[tuple[Tensor | float, Tensor | float]]:
        return [*self.slopes.limits(), (torch.zeros_like(self.most), self.most)]

    def backward(self, a: Tensor, values: list[Tensor]) -> tuple[Tensor, Tensor]:
        self.seen = a.detach()
        before, constant = self.slopes.backward(a, values[:1])
        return before - values[1] * self.sign[:, None], constant


class _OfEach(Freedom):
    """Other choices of lines over boxes that are each a sub-domain's own already."""

    def __init__(self, inner: Freedom) -> None:
        self.start, self.limits, self.backward = inner.start, inner.limits, inner.backward  # type: ignore[method-assign]

    def map(self, function: Callable[[Tensor], Tensor]) -> _OfEach:
        return self


class _LinesOfEach:
    """One choice of lines, likewise."""

    def __init__(self, inner: Relaxation) -> None:
        self.backward = inner.backward

    def at(self, rows: Tensor | None) -> _LinesOfEach:
        return self


@dataclass(frozen=True)
class Domains:
    """Sub-domains of one example's set, each for one function.

    Attributes:
        function: (D,) which function.
        bound: (D,) its lower bound, of the sub-domain or of one that holds it.
        boxes: by step bounds (D, *shape) of every nonlinearity's input.
        signs: by step of a ReLU, see `Split`.
        values: the parameters (D, 1, *shape) that the last bound was found with.
        loss: by step of a ReLU (D, *shape) what the upper line of an unstable neuron costs the bound.
    """

    function: Tensor
    bound: Tensor
    boxes: Mapping[int, Box]
    signs: Mapping[int, Tensor]
    values: Values
    loss: Mapping[int, Tensor]

    def __len__(self) -> int:
        return len(self.function)

    def take(self, part: Tensor) -> Domains:
        """Some of them, (M,)."""
        return Domains(
            self.function[part],
            self.bound[part],
            {step: (lower[part], upper[part]) for step, (lower, upper) in self.boxes.items()},
            {step: sign[part] for step, sign in self.signs.items()},
            {step: [value[part] for value in some] for step, some in self.values.items()},
            {step: loss[part] for step, loss in self.loss.items()},
        )

    def beside(self, other: Domains) -> Domains:
        """Both together."""
        boxes = {
            step: (_joined(box[0], other.boxes[step][0]), _joined(box[1], other.boxes[step][1]))
            for step, box in self.boxes.items()
        }
        return Domains(
            torch.cat([self.function, other.function]),
            torch.cat([self.bound, other.bound]),
            boxes,
            {step: _joined(sign, other.signs[step]) for step, sign in self.signs.items()},
            {
                step: [torch.cat(pair) for pair in zip(some, other.values[step], strict=True)]
                for step, some in self.values.items()
            },
            {step: torch.cat([loss, other.loss[step]]) for step, loss in self.loss.items()},
        )

    def halves(self) -> tuple[Domains, Tensor]:
        """Each split at the neuron whose upper line costs its bound most, and which could be split, (D,).

        First all with `z >= 0`, then all with `z <= 0`; what cannot be split is in neither.
        """
        costs = torch.cat([loss.flatten(1) for loss in self.loss.values()], 1)
        most, place = costs.max(1)
        some = (most >= 0).nonzero().flatten()
        parents, place = self.take(some), place[some]
        children = parents.beside(parents)
        first = 0
        for step, loss in self.loss.items():
            size = loss[0].numel()
            here = ((place >= first) & (place < first + size)).nonzero().flatten()
            at = place[here] - first
            lower, upper = (end.flatten(1) for end in children.boxes[step])  # of tensors that `beside` made
            sign = children.signs[step].flatten(1)
            lower[here, at], sign[here, at] = 0, 1
            upper[here + len(some), at], sign[here + len(some), at] = 0, -1
            first += size
        return children, most >= 0


def _joined(one: Tensor, other: Tensor) -> Tensor:
    """A tensor of its own, in the order of its places: `halves` writes through a flat view, which is none of others."""
    return torch.cat([one, other]).contiguous()


class Bounder:
    """Bounds sub-domains of one example.

    Args:
        run: the interval pass of the one example, in the precision of proofs.
        rough: the same in float32.
        functions: (S, K) of the logits.
        search: how slopes and multipliers are raised.
    """

    def __init__(self, run: Pass, rough: Pass, functions: Tensor, search: Search) -> None:
        self.run, self.rough, self.functions, self.search = run, rough, functions, search

    def root(self, root: Root, functions: Tensor) -> Domains:
        """The whole set, once for each of some functions, (D,), that alpha-CROWN was the last to bound."""
        rows = (root.which[0].cumsum(0) - 1)[functions]
        boxes = {
            step: (lower.expand(len(rows), *lower.shape[1:]), upper.expand(len(rows), *upper.shape[1:]))
            for step, (lower, upper) in root.boxes.items()
        }
        relus = [step for step in boxes if isinstance(self.run.steps[step].op, Relu)]
        signs = {step: torch.zeros_like(boxes[step][0], dtype=torch.int8) for step in relus}
        values = {step: [value[rows] for value in some] for step, some in root.values.items()}
        for step in set(relus) & set(values):
            values[step].append(torch.zeros_like(values[step][0]))
        return self.bounded(Domains(functions, root.bounds[0, functions], boxes, signs, values, {}))

    def bounded(self, domains: Domains, iterations: int | None = None) -> Domains:
        """The same with their bounds, each at least what it was, in the precision of proofs."""
        search = self.search if iterations is None else replace(self.search, iterations=iterations)
        rough, proof = self._choices(domains, self.rough), self._choices(domains, self.run)
        found = optimise(self._goal(self.rough, domains), rough, search, begin=domains.values)
        values = {step: [value.to(domains.bound) for value in some] for step, some in found.values.items()}
        with torch.no_grad():
            bounds = self._goal(self.run, domains).bounds(Parameters(proof, values))[:, 0]
        better = bounds.isfinite() & (bounds > domains.bound)
        loss = {step: self._loss(domains, step, rough[step]) for step in domains.signs}
        return replace(domains, bound=torch.where(better, bounds, domains.bound), values=found.values, loss=loss)

    def _goal(self, run: Pass, domains: Domains) -> Functions:
        a = self.functions[domains.function][:, None].to(run.inputs.x)
        rows = torch.zeros_like(domains.function)
        return Functions(run, len(run.steps) - 1, a, a.new_zeros(len(a), 1), rows).before()

    def _choices(self, domains: Domains, run: Pass) -> Choices:
        found: dict[int, Freedom | Relaxation] = {}
        for step, box in domains.boxes.items():
            lower, upper = (end.to(run.inputs.x) for end in box)
            if step in domains.signs:
                found[step] = Split(lower, upper, domains.signs[step])
                continue
            one = choices(run.steps[step].op, lower, upper)
            found[step] = _OfEach(one) if isinstance(one, Freedom) else _LinesOfEach(one)
        return found

    def _loss(self, domains: Domains, step: int, split: Freedom | Relaxation) -> Tensor:
        """`-min(a, 0)` times the chord's offset where a neuron is unstable, else -1: nothing to split."""
        assert isinstance(split, Split)
        lower, upper = domains.boxes[step]
        if split.seen is None:  # no path from the function leads through it
            return torch.full_like(split.sign, -1.0)
        cost = -split.seen[:, 0].clamp(max=0) * split.slopes.offset
        return torch.where((lower < 0) & (upper > 0), cost, -1.0)
