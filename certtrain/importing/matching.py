"""Which tensor of a file is which of a network's: by name as far as names choose anything, else by order and shape."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

OPTIONAL = "num_batches_tracked"  # absent from files of old versions of torch
Names = Mapping[str, Tensor]


class Ambiguous(Exception):
    """Several assignments are equally good; says which layers cannot be told apart."""


@dataclass(frozen=True)
class Match:
    """How names of a file are those of a network.

    Attributes:
        pairs: name in the file by name in the network, as far as both have it.
        missing: names of the network that the file lacks.
        unknown: names of the file that the network lacks.
        shapes: names of the network whose tensor in the file has another shape or kind of number.
    """

    pairs: dict[str, str]
    missing: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    shapes: tuple[str, ...] = ()

    @property
    def wrong(self) -> int:
        """How many names stand against it; 0: it fits."""
        return len(self.missing) + len(self.unknown) + len(self.shapes)


def by_name(own: Names, theirs: Names) -> Match:
    """Names as they are where these fit, else the `comparable` ones."""
    exact = _match(own, theirs, {name: name for name in own}, {name: name for name in theirs})
    return exact if not exact.wrong else _match(own, theirs, comparable(own), comparable(theirs))


def comparable(names: Iterable[str]) -> dict[str, str]:
    """Each name without the components that choose nothing, numbers among siblings replaced by their rank.

    A component chooses nothing where all names that agree so far have it: what wrappers put in front (`module`,
    `_orig_mod`, `model.net`) and in between (`features.module.0`). Numbers in a Sequential count layers without
    weights, too, which differ between programs: 0, 2, 4 here and 1, 4, 7 there are the same three layers.
    """
    found: dict[str, str] = {}

    def walk(group: Sequence[tuple[tuple[str, ...], str]], before: tuple[str, ...]) -> None:
        children: dict[str, list[tuple[tuple[str, ...], str]]] = defaultdict(list)
        for rest, name in group:
            children[rest[0]].append((rest[1:], name))
        numbers = sorted((child for child in children if child.isdecimal()), key=int)
        for child, inside in children.items():
            step = str(numbers.index(child)) if child in numbers else child
            last = [name for rest, name in inside if not rest]
            deeper = [(rest, name) for rest, name in inside if rest]
            for name in last:
                found[name] = ".".join((*before, step))
            if deeper:
                walk(deeper, before if len(children) == 1 and not last else (*before, step))

    walk([(tuple(name.split(".")), name) for name in names], ())
    return found


def subtrees(names: Iterable[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every prefix under which names branch, with the names under it; the outermost, which has all of them, first."""
    groups: dict[str, list[str]] = {"": []}
    for name in names:
        parts = name.split(".")
        for length in range(len(parts)):
            groups.setdefault(".".join(parts[:length]), []).append(name)
    # A prefix with one component behind it has the same names as the longer one, which is the one to tell of.
    seen = {tuple(inside): prefix for prefix, inside in sorted(groups.items(), key=lambda pair: pair[0].count("."))}
    yield from sorted(((prefix, inside) for inside, prefix in seen.items() if inside), key=lambda pair: -len(pair[1]))


def by_order_and_shape(own: Names, theirs: Names, *, ordered: bool = True) -> Match | None:
    """The layers of a file assigned to those of a network by the shapes of their tensors, and by order where several
    have the same ones. A layer is what owns tensors: names before the last component.

    Args:
        own: the network's tensors, in the order of their registration.
        theirs: the file's.
        ordered: whether the file keeps that order; if not, numbers in names must tell it.

    Returns:
        None where shapes or names of tensors within layers differ.

    Raises:
        Ambiguous: layers of the same shapes that neither order nor numbers tell apart.
    """
    mine, yours = _layers(own), _layers(theirs)
    if Counter(mine.values()) != Counter(yours.values()):
        return None
    pairs: dict[str, str] = {}
    repeated = len(set(mine.values())) < len(mine)
    if repeated and ordered and list(mine.values()) != list(yours.values()):
        raise Ambiguous("layers of the same shapes stand in another order than the model's")
    for signature in dict.fromkeys(mine.values()):
        here, there = ([path for path in side if side[path] == signature] for side in (mine, yours))
        if len(here) > 1:
            _refuse_unordered(here)
            if not ordered:
                there = _by_numbers(there)
            _refuse_unordered(there)
        for path, other in zip(here, there):
            pairs |= {_joined(path, leaf): _joined(other, leaf) for leaf, _ in signature}
    counts = [name for name in own if name.endswith(OPTIONAL)]
    paths = {name.rpartition(".")[0]: pairs[name].rpartition(".")[0] for name in pairs}
    also = {name: _joined(paths[name.rpartition(".")[0]], OPTIONAL) for name in counts}
    return Match(pairs | {name: other for name, other in also.items() if other in theirs})


def _match(own: Names, theirs: Names, mine: Mapping[str, str], yours: Mapping[str, str]) -> Match:
    by_comparable = {text: name for name, text in yours.items()}
    pairs = {name: by_comparable[text] for name, text in mine.items() if text in by_comparable}
    known = set(pairs.values())
    return Match(
        pairs,
        tuple(name for name in own if name not in pairs and not name.endswith(OPTIONAL)),
        tuple(name for name in theirs if name not in known),
        tuple(name for name, other in pairs.items() if not _alike(own[name], theirs[other])),
    )


def _alike(own: Tensor, theirs: Tensor) -> bool:
    return own.shape == theirs.shape and own.is_floating_point() == theirs.is_floating_point()


def _layers(names: Names) -> dict[str, tuple[tuple[str, tuple[int, ...]], ...]]:
    """By path of a layer the names and shapes of its tensors, sorted."""
    found: dict[str, list[tuple[str, tuple[int, ...]]]] = defaultdict(list)
    for name, value in names.items():
        path, _, leaf = name.rpartition(".")
        if leaf != OPTIONAL:
            found[path].append((leaf, tuple(value.shape)))
    return {path: tuple(sorted(leaves)) for path, leaves in found.items()}


def _refuse_unordered(paths: Sequence[str]) -> None:
    """Refuse layers of the same shapes whose names contradict their order, or stand side by side unnumbered: another
    program may register query, key and value in another order."""
    by_template: dict[str, str] = {}
    by_parent: dict[str, str] = {}
    for path in paths:
        template = re.sub(r"\d+", "#", path)
        before = by_template.get(template)
        if before is not None and _numbers(before) >= _numbers(path):
            raise Ambiguous(f"{before} and {path} have the same shapes, and their order is not that of their numbers")
        beside = by_parent.get(path.rpartition(".")[0])
        if beside is not None and re.sub(r"\d+", "#", beside) != template:
            raise Ambiguous(f"{beside} and {path} have the same shapes, and no numbers to tell their order")
        by_template[template] = by_parent[path.rpartition(".")[0]] = path


def _by_numbers(paths: Sequence[str]) -> list[str]:
    templates = {re.sub(r"\d+", "#", path): path for path in paths}
    if len(templates) > 1:
        first, second, *_ = templates.values()
        raise Ambiguous(f"{first} and {second} have the same shapes, and the file keeps no order")
    return sorted(paths, key=_numbers)


def _numbers(path: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", path))


def _joined(path: str, leaf: str) -> str:
    return f"{path}.{leaf}" if path else leaf
