"""A traced network as a plain list of instructions: what the interval pass runs through at every training step.

torch.fx's nodes are linked objects that refer to each other weakly. A list of tuples is read quicker, and torch.compile
can follow it without leaving its graph.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx, nn


@dataclass(frozen=True)
class Slot:
    """In the place of an argument: the value of an earlier instruction."""

    index: int


@dataclass(frozen=True)
class Instruction:
    """One node of the graph.

    Attributes:
        name: path in the network, unique, see `graph.Call`.
        abstract: whether the value is a tensor that depends on the input; the others are constants and sizes.
        path: of a module in the network; None for all else.
        attribute: of the network, such as a parameter, that the value is; None for all else.
        key: the function, or the name of a tensor's method; None where `path` or `attribute` is given, and of input.
        args: positional arguments, with a `Slot` for each value of an instruction.
        kwargs: keyword arguments, likewise.
        sources: the abstract ones among the arguments' instructions, `input` before `other` however a call names them.
    """

    name: str
    abstract: bool
    path: str | None
    attribute: str | None
    key: object
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    sources: tuple[int, ...]

    @property
    def is_input(self) -> bool:
        """Whether it is the network's input."""
        return self.path is None and self.attribute is None and self.key is None

    def value(self, network: nn.Module, read: Callable[[int], Any]) -> Any:
        """The value of a constant or a size; `read` gives those of the instructions before it."""
        if self.attribute is not None:
            return operator.attrgetter(self.attribute)(network)
        args, kwargs = filled(self.args, read), filled(self.kwargs, read)
        if self.path is not None:
            return network.get_submodule(self.path)(*args, **kwargs)
        if isinstance(self.key, str):
            return getattr(args[0], self.key)(*args[1:], **kwargs)
        return self.key(*args, **kwargs)  # type: ignore[operator]


def filled(template: Any, read: Callable[[int], Any]) -> Any:
    """The arguments, with what `read` gives of the instructions in their slots."""
    if isinstance(template, Slot):
        return read(template.index)
    if isinstance(template, tuple):
        return tuple(filled(item, read) for item in template)
    if isinstance(template, list):
        return [filled(item, read) for item in template]
    if isinstance(template, dict):
        return {key: filled(item, read) for key, item in template.items()}
    if isinstance(template, slice):
        return slice(filled(template.start, read), filled(template.stop, read), filled(template.step, read))
    return template


def instructions(nodes: Sequence[fx.Node], abstract: set[fx.Node], names: Mapping[fx.Node, str]) -> list[Instruction]:
    """The nodes as instructions, in their order."""
    where = {node: index for index, node in enumerate(nodes)}
    slots = {node: Slot(index) for node, index in where.items()}
    found = []
    for node in nodes:
        parents: list[fx.Node] = []
        # Sorted, `input` comes before `other`, in whichever order a difference was given them.
        fx.map_arg((node.args, dict(sorted(node.kwargs.items()))), parents.append)
        found.append(
            Instruction(
                name=names[node],
                abstract=node in abstract,
                path=str(node.target) if node.op == "call_module" else None,
                attribute=str(node.target) if node.op == "get_attr" else None,
                key=node.target if node.op in ("call_function", "call_method") else None,
                args=_plain(fx.map_arg(node.args, slots.__getitem__)),
                kwargs=_plain(fx.map_arg(node.kwargs, slots.__getitem__)),
                sources=tuple(where[parent] for parent in parents if parent in abstract),
            )
        )
    return found


def _plain(arguments: Any) -> Any:
    """Without fx's own immutable lists and dicts."""
    if isinstance(arguments, tuple):
        return tuple(_plain(item) for item in arguments)
    if isinstance(arguments, list):
        return [_plain(item) for item in arguments]
    if isinstance(arguments, dict):
        return {key: _plain(item) for key, item in arguments.items()}
    return arguments
