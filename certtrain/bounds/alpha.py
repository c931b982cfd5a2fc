"""alpha-CROWN (Xu et al. 2021, arXiv 2011.13824): CROWN with lines optimised for each function that is bounded.

A ReLU's lower line may have any slope alpha in [0, 1], a smooth function's lines touch it at points of a span
(`tangents`). Every choice is sound, so that the largest bound over the steps of an optimiser is a bound. Each margin,
and each side of each neuron inside, has lines of its own.

**The neurons inside.** The bound of a margin is, at fixed lower slopes, monotone in the boxes [l, u] of the neurons: a
smaller box has a smaller triangle, and an unstable neuron that becomes stable loses its triangle. What tightens any l
or u therefore never loosens a margin, and as the slopes of each are its own, each l and u is optimised for itself:
layer by layer, over the final boxes of the layers before, without one graph through all of them. Adam takes away the
positive factor by which the joint gradient differs. What an optimiser of all together does in T steps of all layers is
here T steps of each.

**Search and proof.** Slopes are searched in float32 on a copy of the network. What counts is one backward pass through
the lines that were found, in the precision of the bounds asked for and over boxes proved in it: first of each layer's
neurons, then of the margins, intersected with CROWN's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from certtrain.bounds.affine import Affine
from certtrain.bounds.ascent import Goal, Search, optimise
from certtrain.bounds.crown import Neurons, Refined, image, lower_bounds, open_neurons
from certtrain.bounds.forward import Pass
from certtrain.bounds.intermediates import Box, narrowed
from certtrain.bounds.interval import Mixing
from certtrain.bounds.nonlinear import Freedom, Relaxation
from certtrain.bounds.parameters import Choices, Parameters, Values, choices
from certtrain.bounds.rules import Relu
from certtrain.system.work import tell

PIECE = 2**24  # coefficients, of all steps together, that are optimised at once
SLACK = 1e-4  # of the largest logit: by as much a float32 margin must be above 0 to be taken for proved


@dataclass(frozen=True)
class Functions:
    """Functions `<a, output of step> + constant` of some examples.

    Attributes:
        run: the interval pass.
        step: the step.
        a: (N, S, *shape).
        constant: (N, S).
        rows: (N,) the example of each.
    """

    run: Pass
    step: int
    a: Tensor
    constant: Tensor
    rows: Tensor

    def take(self, part: Tensor | slice) -> Functions:
        """Some of them."""
        return replace(self, a=self.a[part], constant=self.constant[part], rows=self.rows[part])

    def bounds(self, lines: Parameters) -> Tensor:
        """(N, S) lower bounds."""
        return lower_bounds(self.run, lines, self.step, self.a, self.rows) + self.constant

    def before(self) -> Functions:
        """The same functions of the last nonlinearity's output: what every iteration would begin with is done once."""
        step, a, constant = self.step, self.a, self.constant
        while isinstance(op := self.run.steps[step].op, Affine):
            offset = op.offset(a)
            constant = constant if offset is None else constant + offset
            step, a = self.run.steps[step].sources[0], op.transpose(a)
        return Functions(self.run, step, a.contiguous(), constant, self.rows)


@dataclass(frozen=True)
class Root:
    """What alpha-CROWN found.

    Attributes:
        bounds: (B, S) of the functions.
        boxes: of the input of every nonlinearity, by step.
        which: (B, S) the functions that were optimised last.
        values: the parameters of these, in their order.
    """

    bounds: Tensor
    boxes: dict[int, Box]
    which: Tensor
    values: Values


class AlphaCrown:
    """Bounds of functions inside a network by alpha-CROWN, see this module.

    Args:
        run: the interval pass, in the precision of the bounds.
        rough: the same in float32, where lines are searched.
        refined: CROWN's boxes, of `run`.
        search: how.
    """

    def __init__(self, run: Pass, rough: Pass, refined: Refined, search: Search) -> None:
        self.run, self.rough, self.search = run, rough, search
        self.crown = {index: refined.boxes.get(index, box) for index, box in run.boxes.items()}
        self.slack = SLACK * run.regions[-1].clean.flatten(1).abs().amax(1)

    def least(self, step: int, functions: Tensor, constant: Tensor, crown: Tensor) -> Root:
        """Lower bounds (B, S) of `<function, output of step> + constant`, at least those of CROWN.

        With `search.stop` functions are left as they are once their bound is > 0, and the neurons of an example once
        all of its are.

        Args:
            step: the step whose output the functions are about.
            functions: (B, S, *shape).
            constant: (B, S), or () where it is 0.
            crown: (B, S) CROWN's bounds.
        """
        best, constant = crown.clone(), constant.expand_as(crown)
        which, boxes = self._open(best), self.crown
        values = self._ascend(step, functions, constant, best, which, boxes)
        if self.search.intermediates and (left := self._open(best)).any():
            values = {at: [value[left[which]] for value in some] for at, some in values.items()}
            which, boxes = left, self.tightened(left.any(1))
            values = self._ascend(step, functions, constant, best, which, boxes, values)
        return Root(best, boxes, which, values)

    def tightened(self, examples: Tensor) -> dict[int, Box]:
        """The boxes of every nonlinearity's input, optimised for the examples of a mask (B,)."""
        boxes: dict[int, Box] = {}
        rough: dict[int, Freedom | Relaxation] = {}
        proof: dict[int, Freedom | Relaxation] = {}
        after: dict[int, Box] = {}
        read = {self.run.steps[index].sources[0] for index in self.crown}
        for number, (index, box) in enumerate(self.crown.items()):
            tell(number / len(self.crown))
            op, source = self.run.steps[index].op, self.run.steps[index].sources[0]
            if source in after:
                box = narrowed(box, after[source])
            elif self.run.regions[source].mixing is Mixing.MORE:
                chosen = open_neurons(op, *box) & examples.view(-1, *([1] * (box[0].dim() - 1)))
                box = self._optimised(Neurons.of(self.rough, source, chosen), rough, proof, box, isinstance(op, Relu))
            boxes[index] = box
            rough[index], proof[index] = self._choices(index, box)
            if index in read:
                after[index] = image(op, *box)
        return boxes

    def _choices(self, index: int, box: Box) -> tuple[Freedom | Relaxation, Freedom | Relaxation]:
        """Of a nonlinearity, in the precision of the search and of proofs."""
        lower, upper = (end.to(self.rough.inputs.x.dtype) for end in box)
        return choices(self.rough.steps[index].op, lower, upper), choices(self.run.steps[index].op, *box)

    def _optimised(self, neurons: Neurons, rough: Choices, proof: Choices, box: Box, kinked: bool) -> Box:
        """The box with the neurons' bounds."""
        if not len(neurons.rows):
            return box
        size = max(1, PIECE // (2 * self._coefficients(neurons.source)))
        settled = _is_stable if kinked and self.search.stop else None
        shared, found = self.search.shared, []
        for part in [neurons] if shared else neurons.pieces(size):
            lines = optimise(part if shared else _before(part), rough, self.search, settled, shared=size * shared)
            values = {step: [value.to(box[0]) for value in some] for step, some in lines.values.items()}
            exact = replace(part, run=self.run)
            for some in exact.pieces(size) if shared else [_before(exact)]:
                with torch.no_grad():
                    found.append(some.bounds(Parameters(proof, values, shared)))
        bounds = torch.cat(found)
        return neurons.put(torch.where(bounds.isfinite(), bounds, -torch.inf), *box)

    def _ascend(
        self,
        step: int,
        functions: Tensor,
        constant: Tensor,
        best: Tensor,
        which: Tensor,
        boxes: Mapping[int, Box],
        begin: Values | None = None,
    ) -> Values:
        """Raise `best`, (B, S), where a mask says; the parameters that did, of each of the mask's N functions."""
        rows, places = which.nonzero(as_tuple=True)
        both = {index: self._choices(index, box) for index, box in boxes.items()}
        rough, proof = ({index: pair[side] for index, pair in both.items()} for side in (0, 1))
        size = max(1, PIECE // self._coefficients(step))
        kept: dict[int, list[list[Tensor]]] = {}

        def proved(bounds: Tensor, rows: Tensor) -> Tensor:
            return (bounds > self.slack[rows, None]).all(1)

        for some in [slice(at, at + size) for at in range(0, len(rows), size)]:
            here, there = rows[some], places[some]
            tell(float(some.start) / len(rows))
            wanted, rest = functions[here, there][:, None], constant[here, there][:, None]
            goals = [
                Functions(run, step, wanted.to(run.inputs.x), rest.to(run.inputs.x), here).before()
                for run in (self.rough, self.run)
            ]
            start = None if begin is None else {at: [value[some] for value in values] for at, values in begin.items()}
            found = optimise(goals[0], rough, self.search, proved if self.search.stop else None, begin=start)
            values = {at: [value.to(best) for value in values] for at, values in found.values.items()}
            with torch.no_grad():
                bounds = goals[1].bounds(Parameters(proof, values))[:, 0]
            before = best[here, there]
            best[here, there] = torch.where(bounds.isfinite() & (bounds > before), bounds, before)
            for at, values in found.values.items():
                kept.setdefault(at, []).append(values)
        return {at: [torch.cat(parts) for parts in zip(*pieces)] for at, pieces in kept.items()}

    def _open(self, best: Tensor) -> Tensor:
        """(B, S) the functions that are still to be bounded; what is no number stays so."""
        return best.isfinite() & ~(best > 0) if self.search.stop else best.isfinite()

    def _coefficients(self, step: int) -> int:
        """Of one function on its way back from a step, at all steps together."""
        return sum(region.example_shape.numel() for region in self.run.regions[: step + 1])


def _before(neurons: Neurons) -> Goal:
    """The neurons as functions of the last nonlinearity, where they are not taken back in windows."""
    if neurons.way.steps:
        return neurons
    a = neurons.functions()
    return Functions(neurons.run, neurons.source, a, a.new_zeros(a.shape[:2]), neurons.rows).before()


def _is_stable(bounds: Tensor, rows: Tensor) -> Tensor:
    """z > 0 or -z > 0."""
    return (bounds > 0).any(1)
