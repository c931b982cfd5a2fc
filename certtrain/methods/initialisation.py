"""The IBP initialisation of Shi, Wang, Zhang, Yi and Hsieh 2021 (arXiv 2103.17268)."""

from __future__ import annotations

import math
import operator

import torch
from torch import fx, nn

from certtrain.errors import UserError
from certtrain.methods.losses import WEIGHTED

_ADDITIONS = frozenset({operator.add, operator.iadd, torch.add, "add", "add_"})


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, WEIGHTED) or super().is_leaf_module(m, module_qualified_name)


@torch.no_grad()
def ibp_init(network: nn.Module) -> None:
    """Draw weights under which the expected radius of an IBP box neither grows nor shrinks from layer to layer.

    Each linear and convolution weight except the last, in the order of execution, becomes N(0, 2 pi / fan_in^2). A
    layer fed directly by the sum of two branches gets half its weight, since that sum has both radii. Biases and
    BatchNorm are left alone. Draws from torch's global generator.

    Raises:
        UserError: the network cannot be traced, or a weight is parametrised, so that it cannot be set.
    """
    calls = _weighted_calls(network)
    layers = list(dict.fromkeys(name for name, _ in calls))
    for name in layers:
        layer = network.get_submodule(name)
        if "weight" not in dict(layer.named_parameters(recurse=False)):
            raise UserError(
                f"the weight of {name} is parametrised and cannot be drawn anew",
                where="method.init",
                fix="init=default",
            )
        if name != layers[-1]:
            fan_in = layer.weight[0].numel()
            layer.weight.normal_(0.0, math.sqrt(2 * math.pi) / fan_in)
    for name in dict.fromkeys(name for name, summed in calls if summed):
        network.get_submodule(name).weight.div_(2)


def _weighted_calls(network: nn.Module) -> list[tuple[str, bool]]:
    """Linear and convolution layers in the order of execution, and whether each is fed by the sum of two branches."""
    try:
        graph = _Tracer().trace(network)
    except Exception as error:  # fx raises whatever the network's forward raises on a symbolic value
        raise UserError(
            f"{type(network).__name__} cannot be traced by torch.fx: {error}",
            where="method.init=ibp",
            fix="init=default, or no control flow that depends on tensor values",
        ) from error
    live = {node for node in graph.nodes if node.op == "output"}
    for node in reversed(graph.nodes):
        if node in live:
            live.update(node.all_input_nodes)
    return [
        (str(node.target), _is_sum_of_branches(node.args[0]))
        for node in graph.nodes
        if node in live and node.op == "call_module" and isinstance(network.get_submodule(node.target), WEIGHTED)
    ]


def _is_sum_of_branches(node: object) -> bool:
    return (
        isinstance(node, fx.Node)
        and node.target in _ADDITIONS
        and all(isinstance(arg, fx.Node) and arg.op != "get_attr" for arg in node.args[:2])
    )
