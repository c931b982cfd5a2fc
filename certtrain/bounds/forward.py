"""The one interval pass: every node's operation and region, for all methods to share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from certtrain.bounds.affine import Affine
from certtrain.bounds.graph import Call, Graph
from certtrain.bounds.interval import InputSet, Region, combine, concatenate
from certtrain.bounds.nonlinear import Nonlinear
from certtrain.bounds.rules import Concat, Operation, Relu, Sum, check


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


def propagate(graph: Graph, inputs: InputSet) -> Pass:
    """Propagate the input set through the graph; the last step is the network's output.

    Raises:
        UserError: an operation whose live form has no rule.
    """
    run = Pass(inputs, [], [], {})
    values: dict[fx.Node, Any] = {}
    where: dict[fx.Node, int] = {}
    for node in graph.nodes:
        if node is graph.input:
            step, region = Step("input", None, ()), inputs.region()
        elif graph.is_abstract(node):
            step = _step(graph, node, values, where)
            regions = [run.regions[source] for source in step.sources]
            region = _apply(run, step.op, regions)
        else:
            values[node] = graph.evaluate(node, _concrete(values, node))
            continue
        where[node] = len(run.steps)
        values[node] = region
        run.steps.append(step)
        run.regions.append(region)
    return run


def _step(graph: Graph, node: fx.Node, values: dict[fx.Node, Any], where: dict[fx.Node, int]) -> Step:
    args, kwargs = graph.resolve(node, values)
    module = graph.network.get_submodule(node.target) if node.op == "call_module" else None
    key: object = type(module) if isinstance(module, nn.Module) else node.target
    name = graph.names[node]
    op = check(name, key, module)(Call(name, key, module, args, kwargs))
    sources: list[int] = []
    # Sorted, `input` comes before `other`, in whichever order a difference was given them.
    fx.map_arg(
        (node.args, dict(sorted(node.kwargs.items()))), lambda n: sources.append(where[n]) if n in where else None
    )
    return Step(name, op, tuple(sources))


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


def _concrete(values: dict[fx.Node, Any], node: fx.Node) -> dict[fx.Node, Any]:
    """Sizes are asked of the clean activations."""
    return {
        parent: values[parent].clean if isinstance(values[parent], Region) else values[parent]
        for parent in node.all_input_nodes
    }
