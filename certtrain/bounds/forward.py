"""The one interval pass: every node's operation and region, for all methods to share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from certtrain.bounds.affine import Affine
from certtrain.bounds.graph import Call, Graph, unsupported
from certtrain.bounds.instructions import Instruction, filled
from certtrain.bounds.interval import InputSet, Region, combine, concatenate
from certtrain.bounds.nonlinear import Nonlinear
from certtrain.bounds.rules import Concat, Operation, Relu, Sum, check
from certtrain.system.work import pause


@dataclass(frozen=True)
class Step:
    """One operation: its path in the network, itself, and the steps that its arguments come from."""

    name: str
    op: Operation | None
    sources: tuple[int, ...]


@dataclass(frozen=True)
class Pass:
    """What the interval pass leaves behind.

    Attributes:
        inputs: the perturbed inputs.
        steps: the operations in the order of execution; step 0 is the input and has none.
        regions: the region after each step.
        boxes: for the steps that are ReLU or another nonlinearity, lower and upper bounds of their input.
    """

    inputs: InputSet
    steps: list[Step]
    regions: list[Region]
    boxes: dict[int, tuple[Tensor, Tensor]]


def propagate(graph: Graph, inputs: InputSet, *, channels_last: bool = False) -> Pass:
    """Propagate the input set through the graph; the last step is the network's output.

    Args:
        graph: the network.
        inputs: the input set.
        channels_last: see `InputSet.region`.

    Raises:
        UserError: an operation whose live form has no rule.
    """
    run = Pass(inputs, [], [], {})
    network = graph.network
    values: list[Any] = []
    where: dict[int, int] = {}  # from an instruction to its step
    for index, instruction in enumerate(graph.instructions):
        if not instruction.abstract:
            values.append(instruction.value(network, lambda place: _concrete(values[place])))
            continue
        if instruction.is_input:
            step, region = Step("input", None, ()), inputs.region(channels_last=channels_last)
        else:
            pause()
            step = _step(network, instruction, values, where)
            region = _apply(run, step.op, [run.regions[source] for source in step.sources])
        where[index] = len(run.steps)
        values.append(region)
        run.steps.append(step)
        run.regions.append(region)
    return run


def rough(graph: Graph, run: Pass) -> Pass:
    """The same interval pass in float32 and without gradients, of a copy of the network: to search in, not to prove."""
    inputs = run.inputs
    parts = {"x": inputs.x, "centre": inputs.centre, "radius": inputs.radius, "eps": inputs.eps}
    copies = {name: None if part is None else part.detach().float().clone() for name, part in parts.items()}
    return propagate(graph.rough(), InputSet(**copies))  # type: ignore[arg-type]


def resume(run: Pass, step: int, points: Tensor) -> Tensor:
    """The network's output from points (N, ...) of a step's output on, with the operations of the interval pass.

    Raises:
        UserError: a path leads around the step, so that its output does not determine the network's.
    """
    values = {step: points}
    for index in range(step + 1, len(run.steps)):
        sources = run.steps[index].sources
        if not all(source in values for source in sources):
            raise unsupported(f"a path leads around {run.steps[step].name}", "a cut that all paths go through")
        values[index] = _at_points(run.steps[index].op, [values[source] for source in sources])
    return values[len(run.steps) - 1]


def _at_points(op: Operation | None, values: list[Tensor]) -> Tensor:
    if isinstance(op, Sum):
        return torch.add(*values, alpha=op.sign)
    if isinstance(op, Concat):
        return torch.cat(values, op.dim)
    if isinstance(op, Relu):
        return values[0].relu()
    assert isinstance(op, Affine | Nonlinear)
    return op.forward(values[0])


def _step(network: nn.Module, instruction: Instruction, values: list[Any], where: dict[int, int]) -> Step:
    module = network.get_submodule(instruction.path) if instruction.path is not None else None
    key: object = type(module) if module is not None else instruction.key
    args, kwargs = (filled(given, values.__getitem__) for given in (instruction.args, instruction.kwargs))
    op = check(instruction.name, key, module)(Call(instruction.name, key, module, args, kwargs))
    return Step(instruction.name, op, tuple(where[source] for source in instruction.sources))


def _apply(run: Pass, op: Operation | None, regions: list[Region]) -> Region:
    if isinstance(op, Affine):
        return regions[0].affine(op)
    if isinstance(op, Sum):
        return combine(*regions, op.sign)
    if isinstance(op, Concat):
        return concatenate(regions, op.dim)
    assert isinstance(op, Relu | Nonlinear)
    after = regions[0].relu() if isinstance(op, Relu) else regions[0].nonlinear(op)
    region, run.boxes[len(run.steps)] = after
    return region


def _concrete(value: Any) -> Any:
    """Sizes are asked of the clean activations."""
    return value.clean if isinstance(value, Region) else value
