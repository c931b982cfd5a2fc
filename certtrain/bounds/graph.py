"""The network as a graph of calls, traced once with torch.fx, without the engine owning any of its modules."""

from __future__ import annotations

import copy
import operator
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from certtrain.bounds.instructions import instructions
from certtrain.errors import UserError
from certtrain.models.normalize import Normalize
from certtrain.models.two_logits import TwoLogits

# Calls that yield sizes (plain Python values), never tensors.
_SIZE_METHODS = frozenset({"size", "dim", "numel"})
_SIZE_FUNCTIONS = frozenset({len})
_SIZE_ATTRIBUTES = frozenset({"shape", "ndim"})
IN_PLACE_OPERATORS = frozenset({"iadd", "isub", "imul", "itruediv"})


@dataclass(frozen=True)
class Call:
    """One executed node of the graph, with live values in place of the nodes it depends on.

    Attributes:
        name: path in the network, unique per node: `features.1`, `features.1#2` for a second use, `block.add`.
        key: what the rules are registered under: the module's class, the function, or the method's name.
        module: the module itself for a module call.
        args: positional arguments; kwargs: keyword arguments.
    """

    name: str
    key: object
    module: nn.Module | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def argument(self, position: int, keyword: str, default: Any = None) -> Any:
        """The argument given by position or by keyword."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(keyword, default)


class _Proxy(fx.Proxy):
    """Records `h += z` as what it is: fx itself takes it for `h = h + z`, and loses that it changes h's memory."""


def _recorded(function: Callable[[Any, Any], Any]) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    return lambda self, other: self.tracer.create_proxy("call_function", function, (self, other), {})


def _number(self: fx.Proxy) -> int:
    self.tracer.asked = self
    raise fx.proxy.TraceError("a value is used as a number of Python's, as by range(), int() or an index")


for _name in ("index", "int", "float"):
    setattr(_Proxy, f"__{_name}__", _number)
for _name in IN_PLACE_OPERATORS:
    setattr(_Proxy, f"__{_name}__", _recorded(getattr(operator, _name)))


class _Tracer(fx.Tracer):
    # What is computed from a buffer would be frozen at its value while tracing.
    proxy_buffer_attributes = True

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    asked: fx.Proxy | None = None  # what the forward last wanted the value of, which there is none of while tracing

    def to_bool(self, obj: fx.Proxy) -> bool:
        self.asked = obj
        return super().to_bool(obj)

    def iter(self, obj: fx.Proxy) -> Iterator[fx.Proxy]:
        self.asked = obj
        return super().iter(obj)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (Normalize, TwoLogits)) or super().is_leaf_module(m, module_qualified_name)


def _trace(network: nn.Module) -> fx.Graph:
    """The graph of the network's calls.

    Raises:
        UserError: the forward asks for a value while there is none, or fails in another way.
    """
    tracer = _Tracer()
    try:
        return _traced(tracer, network)
    except Exception as error:  # fx raises whatever the user's forward raises on a symbolic value
        if tracer.asked is not None and _is_of_shape(tracer.asked.node):
            why = "its forward branches on the input's shape"
            supported = "the same operations for every input: what a shape decides is decided in __init__; "
            supported += "x.flatten(1) and x.view(x.size(0), -1) are fine"
        else:
            why, supported = str(error), "no control flow that depends on tensor values"
        raise unsupported(f"{type(network).__name__} cannot be traced by torch.fx: {why}", supported) from error


def _is_of_shape(node: fx.Node) -> bool:
    """Whether a value is computed from sizes alone."""
    return _is_size(node) or (bool(node.all_input_nodes) and all(map(_is_of_shape, node.all_input_nodes)))


def _is_size(node: fx.Node) -> bool:
    """Whether the node asks for a size, a plain value of Python."""
    if node.op == "call_method":
        return node.target in _SIZE_METHODS
    return node.op == "call_function" and (
        node.target in _SIZE_FUNCTIONS or (node.target is getattr and node.args[1] in _SIZE_ATTRIBUTES)
    )


def _traced(tracer: _Tracer, network: nn.Module) -> fx.Graph:
    if not tracer.is_leaf_module(network, ""):
        return tracer.trace(network)
    graph = fx.Graph()  # the network is one layer: fx would trace into it
    graph.output(graph.call_module("", (graph.placeholder("input"),)))
    return graph


class Graph:
    """The traced network: fx nodes that its output depends on, and names for them.

    Holds a weak reference to the network and looks modules, parameters and buffers up at every call, so that an
    optimiser's updates are seen and the network's state_dict knows nothing of the graph.

    Args:
        network: maps (B, ...) inputs to logits (B, K).

    Raises:
        UserError: torch.fx cannot trace the network, it has several inputs or outputs, or it changes in place a
            tensor that is used elsewhere.
    """

    def __init__(self, network: nn.Module) -> None:
        network = getattr(network, "_orig_mod", network)  # what torch.compile wraps
        if not runs_unchanged(network):  # fx would trace the class's forward
            raise unsupported(
                f"{type(network).__name__} has a forward of its own or forward hooks", "a forward defined by the class"
            )
        graph = _trace(network)
        self._network: Callable[[], nn.Module | None] = weakref.ref(network)
        result = next(node for node in graph.nodes if node.op == "output").args[0]
        if not isinstance(result, fx.Node):
            raise unsupported(f"{type(network).__name__} returns {type(result).__name__}", "one tensor of logits")
        self.result = result
        needed = {result}
        for node in reversed(graph.nodes):
            if node in needed:
                needed.update(node.all_input_nodes)
        # The nodes point into the fx graph weakly in parts: keep it alive beside them.
        self._fx = graph
        self.nodes = [node for node in graph.nodes if node in needed]
        inputs = [node for node in self.nodes if node.op == "placeholder"]
        if len(inputs) != 1:
            raise unsupported(f"{type(network).__name__} computes its logits from {len(inputs)} inputs", "one input")
        self.input = inputs[0]
        # Nodes that depend on the input: the others are constants and sizes, evaluated as they stand.
        self._depends = {self.input}
        for node in self.nodes:
            if not _is_size(node) and any(parent in self._depends for parent in node.all_input_nodes):
                self._depends.add(node)
        self.names = self._names()
        self.instructions = instructions(self.nodes, self._depends, self.names)
        for node in graph.nodes:  # also those whose own result nobody uses: what they change may be used
            self._refuse_hidden_mutation(node)

    @property
    def network(self) -> nn.Module:
        """The network, which its owner must keep alive."""
        network = self._network()
        if network is None:
            raise RuntimeError("the network of this bound engine no longer exists")
        return network

    def rough(self) -> Graph:
        """The same graph over a copy of the network in float32, which it keeps, without gradients."""
        network = copy.deepcopy(self.network).float().requires_grad_(False)
        found = copy.copy(self)
        found._network = lambda: network
        return found

    def is_abstract(self, node: fx.Node) -> bool:
        """Whether the node's value is a tensor that depends on the input."""
        return node in self._depends

    def calls(self) -> Iterator[tuple[fx.Node, object, nn.Module | None]]:
        """The input-dependent calls, each with its rule key and module."""
        for node in self.nodes:
            if node in self._depends and node.op != "placeholder":
                module = self.network.get_submodule(node.target) if node.op == "call_module" else None
                yield node, type(module) if module is not None else node.target, module

    def cuts(self) -> set[str]:
        """The names of the operations that every path from the input to the logits goes through."""
        found = set()
        earliest = len(self.instructions)  # of what the operations after this one read
        for index, one in reversed(list(enumerate(self.instructions))):
            if one.abstract and not one.is_input:
                if earliest >= index:
                    found.add(one.name)
                earliest = min(earliest, *one.sources)
        return found

    def _names(self) -> dict[fx.Node, str]:
        names: dict[fx.Node, str] = {}
        seen: dict[str, int] = {}
        for node in self.nodes:
            if node.op == "call_module":
                name = str(node.target) or type(self.network).__name__
            else:
                stack = list((node.meta.get("nn_module_stack") or {}).values())
                path = stack[-1][0] if stack else ""
                what = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", node.name)
                name = f"{path}.{what}" if path else str(what)
            seen[name] = seen.get(name, 0) + 1
            names[node] = name if seen[name] == 1 else f"{name}#{seen[name]}"
        return names

    def _refuse_hidden_mutation(self, node: fx.Node) -> None:
        """An in-place call also changes whatever else reads that memory, which the graph does not show."""
        if not self._is_in_place(node):
            return
        if node.kwargs.get("out") is not None:
            raise unsupported(
                f"{self._name(node)} writes into out= and so changes another tensor in place",
                "operations that return their result",
            )
        source = node.args[0] if node.args else node.kwargs.get("input")
        while isinstance(source, fx.Node):
            # The input belongs to the caller, parameters and buffers stay for the next call.
            if source.op in ("placeholder", "get_attr") or len(source.users) > 1:
                raise unsupported(
                    f"{self._name(node)} changes {self._name(source)} in place, which is used elsewhere",
                    "operations that do not change a shared tensor in place (inplace=False)",
                )
            if not (self._is_view(source) or self._is_in_place(source)):
                return
            source = source.args[0] if source.args else source.kwargs.get("input")

    def _name(self, node: fx.Node) -> str:
        return self.names.get(node, node.name)

    def _is_in_place(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return bool(getattr(self.network.get_submodule(node.target), "inplace", False))
        if node.op == "call_method":
            return node.target.endswith("_")
        name = getattr(node.target, "__name__", "")
        given = node.kwargs.get("inplace") or node.kwargs.get("out") is not None
        return bool(given) or name in IN_PLACE_OPERATORS or name.endswith("_")

    def _is_view(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return isinstance(
                self.network.get_submodule(node.target),
                (nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, nn.Dropout2d),
            )
        return node.target in ("view", "reshape", "flatten", torch.flatten, torch.reshape)


def unsupported(what: str, supported: str, where: str = "bounds=native") -> UserError:
    """The one form in which the native engine refuses a network.

    The other engine is no way out: what it bounds, this one does, too (tests/bounds/test_graph.py goes through it).
    """
    return UserError(what, where=where, fix=f"supported: {supported}")


def runs_unchanged(module: nn.Module) -> bool:
    """Whether calling the module does what its class says: no forward of its own, no forward hooks.

    The forward that `bounds.batchnorm` gives BatchNorm in a distributed training is what its bound rule says, too.
    """
    own = vars(module).get("forward")
    ours = own is None or getattr(own, "whole_batch", False)
    return ours and not (module._forward_hooks or module._forward_pre_hooks)
