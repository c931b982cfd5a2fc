"""Backward linear bounds: CROWN (Zhang et al. 2018, arXiv 1811.00866), CROWN-IBP (Zhang et al. 2020, arXiv 1906.06316).

Linear functions `<a, z_node>` are carried from a node back to the input, each step keeping a lower bound: affine layers
exactly, ReLU by lines chosen per neuron from its bounds [l, u]:

    alpha z <= relu(z) <= u / (u - l) * (z - l),   alpha = 1 if u > |l| else 0,

and other nonlinearities by lines of their own (`curves`, `activations`).

Several functions at once: coefficients are (N, S, *shape), S functions for each of N examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from certtrain.bounds.affine import Affine
from certtrain.bounds.forward import Pass
from certtrain.bounds.intermediates import Box, narrowed
from certtrain.bounds.interval import Mixing
from certtrain.bounds.nonlinear import Nonlinear, Relaxation
from certtrain.bounds.patches import Plan, plan, walk
from certtrain.bounds.relaxation import BoxLines, Lines
from certtrain.bounds.rules import Concat, Operation, Sum
from certtrain.system.work import pause, tell

# Elements of the largest coefficient tensor of a chunk in `refine`; several such tensors live at a time.
CHUNK_ELEMENTS = 2**24


def interval_lines(run: Pass) -> dict[int, BoxLines | Relaxation]:
    """The lines of every nonlinearity from its interval bounds."""
    found: dict[int, BoxLines | Relaxation] = {}
    for step, (lower, upper) in run.boxes.items():
        op = run.steps[step].op
        found[step] = op.lines(lower, upper) if isinstance(op, Nonlinear) else BoxLines(lower, upper)
    return found


def lower_bounds(
    run: Pass, lines: Mapping[int, Relaxation], step: int, a: Tensor, rows: Tensor | None = None
) -> Tensor:
    """Lower bounds (N, S) of `<a, output of step>` over the input set.

    Args:
        run: the interval pass, whose operations are walked backwards.
        lines: the relaxation of every nonlinearity before `step`.
        step: index of the step whose output `a` is about; 0 is the input.
        a: (N, S, *shape of that output).
        rows: (N,) which example each is about; None when N = B, in order.
    """
    pending = {step: a}
    constant: Tensor | None = None
    for index in range(step, 0, -1):
        if index not in pending:
            continue
        pause()
        a = pending.pop(index)
        op, sources = run.steps[index].op, run.steps[index].sources
        if isinstance(op, Affine):
            offset, parts = op.offset(a), [op.transpose(a)]
        elif isinstance(op, Sum):
            offset, parts = None, [a, op.sign * a]
        elif isinstance(op, Concat):
            offset, parts = None, list(a.split(op.sizes, op.dim + 1))
        else:
            before, offset = lines[index].at(rows).backward(a)
            parts = [before]
        for source, part in zip(sources, parts):
            pending[source] = pending[source] + part if source in pending else part
        if offset is not None:
            constant = offset if constant is None else constant + offset
    least = run.inputs.minimum(pending[0], rows)
    return least if constant is None else least + constant


class Refined(NamedTuple):
    """The lines of all nonlinearities, and the boxes of those that were refined."""

    lines: dict[int, Relaxation]
    boxes: dict[int, Box]


def refine(run: Pass, known: Mapping[int, Box] | None = None) -> Refined:
    """The lines of every nonlinearity from CROWN bounds of its input, in the order of execution.

    The bounds come from a backward pass of their own through the refined lines before it, intersected with the
    interval bounds. Only neurons whose lines these bounds leave open are bounded (of a ReLU the unstable ones), each
    with its own example. What reads another nonlinearity straight away is bounded by that one's own refined box.

    Args:
        run: the interval pass.
        known: bounds of the same inputs from elsewhere, by step: neurons that they settle are not bounded again.
    """
    lines: dict[int, Relaxation] = {}
    boxes: dict[int, Box] = {}
    read = {run.steps[index].sources[0] for index in run.boxes}
    after: dict[int, tuple[Tensor, Tensor]] = {}
    for number, (index, box) in enumerate(run.boxes.items()):
        tell(number / len(run.boxes))
        op, source = run.steps[index].op, run.steps[index].sources[0]
        lower, upper = narrowed(box, (known or {}).get(index))
        if source in after:
            lower, upper = boxes[index] = narrowed((lower, upper), after[source])
        elif run.regions[source].mixing is Mixing.MORE:
            open_ = open_neurons(op, lower, upper)
            lower, upper = boxes[index] = _refined(run, lines, source, lower, upper, open_)
        lines[index] = op.lines(lower, upper) if isinstance(op, Nonlinear) else Lines.of(lower, upper)
        if index in read:
            after[index] = image(op, lower, upper)
    return Refined(lines, boxes)


def open_neurons(op: Operation | None, lower: Tensor, upper: Tensor) -> Tensor:
    """Of which inputs of a nonlinearity a smaller box would make other lines: bool, (B, *shape)."""
    return op.unsettled(lower, upper) if isinstance(op, Nonlinear) else (lower < 0) & (upper > 0)


def image(op: Operation | None, lower: Tensor, upper: Tensor) -> Box:
    """Bounds of a nonlinearity's outputs over boxes of its inputs."""
    return op.interval(lower, upper) if isinstance(op, Nonlinear) else (lower.relu(), upper.relu())


def _refined(
    run: Pass, lines: Mapping[int, Relaxation], source: int, lower: Tensor, upper: Tensor, unsettled: Tensor
) -> tuple[Tensor, Tensor]:
    neurons = Neurons.of(run, source, unsettled)
    if not len(neurons.rows):
        return lower, upper
    found = []
    for some in neurons.pieces(max(1, CHUNK_ELEMENTS // (2 * neurons.widest))):
        pause()
        found.append(some.bounds(lines))
    return neurons.put(torch.cat(found), lower, upper)


@dataclass(frozen=True)
class Neurons:
    """Some coordinates z of a step's output, each with its own example: `z` and `-z` are bounded.

    Attributes:
        run: the interval pass.
        source: the step.
        rows: (N,) the examples.
        places: (N,) the coordinates, counted through the flat output.
        way: how far back each needs its window alone.
    """

    run: Pass
    source: int
    rows: Tensor
    places: Tensor
    way: Plan

    @classmethod
    def of(cls, run: Pass, source: int, chosen: Tensor) -> Neurons:
        """Those of a mask (B, *shape)."""
        return cls(run, source, *chosen.flatten(1).nonzero(as_tuple=True), plan(run, source))

    @property
    def shape(self) -> torch.Size:
        """Of one example's output of the step."""
        return self.run.regions[self.source].example_shape

    @property
    def widest(self) -> int:
        """The largest number of coefficients of one function on its way back."""
        whole = [region.example_shape.numel() for region in self.run.regions[: self.way.end + 1]]
        return max(self.way.elements, *whole) if self.way.end > 0 else self.way.elements

    def take(self, part: Tensor | slice) -> Neurons:
        """Some of them."""
        return replace(self, rows=self.rows[part], places=self.places[part])

    def pieces(self, size: int) -> list[Neurons]:
        """All of them, at most `size` at a time."""
        return [self.take(slice(start, start + size)) for start in range(0, len(self.rows), size)]

    def bounds(self, lines: Mapping[int, Relaxation]) -> Tensor:
        """(N, 2) lower bounds of `z` and of `-z`."""
        if not self.way.steps:
            return lower_bounds(self.run, lines, self.source, self.functions(), self.rows)
        position = torch.unravel_index(self.places, self.shape)
        a, constant = walk(self.run, lines, self.way, self.rows, position, self.shape[0])
        return constant if self.way.end == 0 else lower_bounds(self.run, lines, self.way.end, a, self.rows) + constant

    def functions(self) -> Tensor:
        """(N, 2, *shape) the coefficients of `z` and `-z`."""
        a = self.run.inputs.x.new_zeros(len(self.rows), 2, self.shape.numel())
        a[:, 0].scatter_(1, self.places[:, None], 1.0)
        a[:, 1].scatter_(1, self.places[:, None], -1.0)
        return a.unflatten(2, self.shape)

    def put(self, bounds: Tensor, lower: Tensor, upper: Tensor) -> Box:
        """The intersection of boxes (B, *shape) with the bounds (N, 2) of these."""
        at = self.rows, self.places
        flat_lower, flat_upper = lower.flatten(1), upper.flatten(1)
        flat_lower = flat_lower.index_put(at, torch.maximum(flat_lower[at], bounds[:, 0]))
        flat_upper = flat_upper.index_put(at, torch.minimum(flat_upper[at], -bounds[:, 1]))
        return flat_lower.reshape(lower.shape), flat_upper.reshape(upper.shape)
