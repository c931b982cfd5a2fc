"""A network's features: what its last linear layer takes, for methods that compare networks inside."""

from __future__ import annotations

from torch import fx, nn

from certtrain.bounds.base import Features
from certtrain.bounds.graph import Graph
from certtrain.errors import UserError


def features(graph: Graph) -> Features | None:
    """Where a network's features are: before the last linear layer that every path to the logits goes through.

    None where there is no such layer, or it takes the network's input.
    """
    found = _last_linear(graph)
    if found is None:
        return None
    layer, source = found
    return Features(graph.names[source], layer.in_features)


def no_features() -> UserError:
    """What is raised where there are none."""
    return UserError(
        "the network has no linear layer behind others that every path to the logits goes through",
        where="model",
        fix="a network that ends in nn.Linear, behind another layer",
    )


def feature_network(network: nn.Module) -> tuple[nn.Module, Features]:
    """The network up to its features, made of the same layers, and where they are.

    Raises:
        UserError: torch.fx cannot trace the network, or it has no features.
    """
    graph = Graph(network)
    where, found = features(graph), _last_linear(graph)
    if where is None or found is None:
        raise no_features()
    part, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in graph.nodes:
        copies[node] = part.node_copy(node, copies.__getitem__)
        if node is found[1]:
            break
    part.output(copies[found[1]])
    return fx.GraphModule(network, part), where


def _last_linear(graph: Graph) -> tuple[nn.Linear, fx.Node] | None:
    """The layer, and the node whose value it takes."""
    cuts = graph.cuts()
    for node, _, module in reversed(list(graph.calls())):
        if isinstance(module, nn.Linear) and graph.names[node] in cuts:
            (source,) = node.all_input_nodes
            return None if source is graph.input else (module, source)
    return None
