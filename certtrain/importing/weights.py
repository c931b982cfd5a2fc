"""Weights that another program wrote: tensors anywhere in a file, brought to the names of a network of ours."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from torch import Tensor, nn

from certtrain.errors import UserError
from certtrain.importing.matching import Ambiguous, Match, by_name, by_order_and_shape, subtrees
from certtrain.models.normalize import Normalize
from certtrain.training.checkpoints import PREFIX, unreadable_reason


@dataclass(frozen=True)
class Weights:
    """All tensors of a file.

    Attributes:
        tensors: by name, on the CPU; the keys of the mappings, or places in the lists, that a tensor lies in come
            before its own name: `state_dict.fc.weight`, `0.fc.weight`.
        containers: the names of these mappings and lists, `` for the whole.
        ordered: whether tensors stand in the order of their registration.
    """

    tensors: dict[str, Tensor]
    containers: frozenset[str] = frozenset({""})
    ordered: bool = True


@dataclass(frozen=True)
class Fit:
    """Part of a file that is compared with a network: all names below a prefix.

    Attributes:
        prefix: where they branch.
        names: in the file.
        whole: compared with all of the network, else with the part behind its normalisation.
        match: what came out.
    """

    prefix: str
    names: tuple[str, ...]
    whole: bool
    match: Match


def read_weights(path: str | Path) -> Weights:
    """All tensors of a file that torch or safetensors wrote, in mappings, lists and tuples of any depth.

    Nothing in the file is executed (`weights_only=True`).

    Raises:
        UserError: no such file, not readable as tensors alone, or no tensors in it.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no file {path}", where="configuration key checkpoint", fix="checkpoint=FILE")
    safe = path.suffix == ".safetensors"
    content = (_safetensors if safe else _torch)(path)
    found, containers = {}, {""}
    for name, container, value in _tensors(content, ()):
        found[".".join((*container, name))] = value.detach()
        containers.add(".".join(container))
    if not found:
        what = f"holds no state_dict: its keys are {_few(map(str, content))}" if isinstance(content, Mapping) else ""
        raise UserError(
            f"{path} {what or f'holds a {type(content).__name__} without tensors, no state_dict'}",
            where=str(path),
            fix="torch.save(model.state_dict(), FILE), alone or within a dictionary",
        )
    return Weights(found, frozenset(containers), ordered=not safe)


def fit_weights(network: nn.Module, weights: Weights, source: str) -> tuple[bool, tuple[str, ...]]:
    """Load the part of the file that fits into the network.

    Its names must be the network's, or those of the part behind its normalisation, which other programs often keep out
    of the file; names are compared as `comparable` gives them. Where no part fits by names, layers are matched by order
    and shape.

    Returns:
        Whether the file held the normalisation (true for a network without one), and what was done to the names.

    Raises:
        UserError: no part fits: what is missing, unknown or of another shape in the nearest; several parts fit; layers
            that cannot be told apart; numbers that are not finite.
    """
    own, normalisation = network.state_dict(), normalisation_names(network)
    targets = {True: own, False: {name: own[name] for name in own if name not in normalisation}}
    if not normalisation:
        del targets[False]
    tried = list(_tried(targets, weights))
    fits = _largest([fit for fit in tried if not fit.match.wrong])
    by_order = not fits
    if by_order:
        fits = _largest(list(_ordered(targets, weights, source)))
    if not fits:
        raise _no_fit(tried, targets, weights, source)
    fit = _only(fits, weights, source)
    state = {name: weights.tensors[other] for name, other in fit.match.pairs.items()}
    bad = [fit.match.pairs[n] for n, v in state.items() if v.is_floating_point() and not v.isfinite().all()]
    if bad:
        raise UserError(f"{source} holds NaN or infinite weights: {_few(bad)}", where=source, fix="another checkpoint")
    network.load_state_dict(state, strict=False)
    return fit.whole, tuple(_notes(fit, targets[fit.whole], weights, by_order))


def normalisation_names(network: nn.Module) -> set[str]:
    """The names of all `Normalize` layers' mean and std in the network's state_dict."""
    layers = [name for name, module in network.named_modules() if isinstance(module, Normalize)]
    return {f"{layer}.{key}".lstrip(".") for layer in layers for key in ("mean", "std")}


def _torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, KeyError, ValueError, OSError, pickle.UnpicklingError, BadZipFile) as error:
        raise UserError(
            f"{path} cannot be read as weights alone: {unreadable_reason(error)}; nothing else in it is executed",
            where=str(path),
            fix="save the tensors alone, where you trust the file: content = torch.load(FILE, weights_only=False); "
            "torch.save(content.state_dict(), NEW), or of a dictionary content['state_dict']",
        ) from error


def _safetensors(path: Path) -> Any:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise UserError(
            f"{path} needs the package safetensors", where=str(path), fix="pip install safetensors"
        ) from error
    try:
        return load_file(path)
    except Exception as error:  # of the package's own kind
        raise UserError(f"{path} is not a safetensors file ({error})", where=str(path), fix="another file") from error


def _tensors(content: Any, container: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...], Tensor]]:
    """Name, container and value of each."""
    if isinstance(content, Mapping):
        items: Iterable[tuple[Any, Any]] = content.items()
    else:
        items = enumerate(content) if isinstance(content, (list, tuple)) else ()
    for key, value in items:
        if isinstance(value, Tensor):
            yield str(key), container, value
        else:
            yield from _tensors(value, (*container, str(key)))


def _tried(targets: Mapping[bool, Mapping[str, Tensor]], weights: Weights) -> Iterator[Fit]:
    """Every part of the file that could be the network, compared by names."""
    least = min(len(target) for target in targets.values()) // 2  # fewer names say nothing about what is wrong
    for prefix, names in subtrees(weights.tensors):
        if len(names) < least:
            break
        inside = {name: weights.tensors[name] for name in names}
        for whole, target in targets.items():
            yield Fit(prefix, names, whole, _relative(target, inside, prefix))


def _relative(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor], prefix: str) -> Match:
    """`by_name` of names below a prefix, in whose result names of the file are whole again."""
    cut = len(prefix) + 1 if prefix else 0
    match = by_name(own, {name[cut:]: value for name, value in theirs.items()})
    full = {name[cut:]: name for name in theirs}
    pairs = {name: full[other] for name, other in match.pairs.items()}
    return Match(pairs, match.missing, tuple(full[name] for name in match.unknown), match.shapes)


def _ordered(targets: Mapping[bool, Mapping[str, Tensor]], weights: Weights, source: str) -> Iterator[Fit]:
    """Every mapping of the file whose layers have the shapes of the network's."""
    inside: dict[str, list[str]] = {}
    for name in weights.tensors:
        inside.setdefault(_container(name, weights), []).append(name)
    for container, names in inside.items():
        for whole, target in targets.items():
            try:
                match = by_order_and_shape(target, {n: weights.tensors[n] for n in names}, ordered=weights.ordered)
            except Ambiguous as unclear:
                raise UserError(
                    f"{source} has other names than the model, and layers of the same shapes: {unclear}",
                    where="configuration keys checkpoint and model",
                    fix="model._target_=your.module.Network, the class that the weights were saved of",
                ) from unclear
            if match is not None:
                yield Fit(container, tuple(names), whole, match)


def _largest(fits: Sequence[Fit]) -> list[Fit]:
    """Without those that are part of another: with its normalisation before without."""
    sets = [set(fit.names) for fit in fits]
    return [
        fit
        for i, (fit, names) in enumerate(zip(fits, sets))
        if not any(names < other or (names == other and j < i) for j, other in enumerate(sets))
    ]


def _only(fits: Sequence[Fit], weights: Weights, source: str) -> Fit:
    """The one fit, or the first of several with the same numbers.

    Raises:
        UserError: they differ.
    """
    first = fits[0].match.pairs
    for fit in fits[1:]:
        pairs = fit.match.pairs
        if any(not torch.equal(weights.tensors[first[n]], weights.tensors[pairs[n]]) for n in first if n in pairs):
            named = ", ".join(repr(fit.prefix or "the whole") for fit in fits[:3])
            raise UserError(
                f"{source} holds {len(fits)} sets of weights that fit the model: {named}",
                where="configuration key checkpoint",
                fix="save the one you mean alone: torch.save(torch.load(FILE, weights_only=True)[KEY], NEW)",
            )
    return fits[0]


def _no_fit(
    tried: Sequence[Fit], targets: Mapping[bool, Mapping[str, Tensor]], weights: Weights, source: str
) -> UserError:
    """What is wrong with the nearest part of the file."""
    match = min((fit.match for fit in tried), key=lambda match: match.wrong, default=None)
    if match is None:
        return UserError(
            f"{source} holds {len(weights.tensors)} tensors, the model {min(map(len, targets.values()))} and more",
            where="configuration keys checkpoint and model",
            fix="the file and the model= that belong together",
        )
    own = targets[True]
    shapes = [
        f"{name} {tuple(weights.tensors[match.pairs[name]].shape)} for {tuple(own[name].shape)}"
        for name in match.shapes
    ]
    found = (("missing", match.missing), ("unknown", match.unknown), ("of another shape", shapes))
    problems = [f"{len(names)} {word} ({_few(names)})" for word, names in found if names]
    return UserError(
        f"{source} does not fit the model: {'; '.join(problems)}",
        where="configuration keys checkpoint and model",
        fix="the model= and its options that the weights are of, or model._target_=your.module.Network",
    )


def _notes(fit: Fit, target: Mapping[str, Tensor], weights: Weights, by_order: bool) -> Iterator[str]:
    """What was done to the names and numbers of a file, in words."""
    container = _container(next(iter(fit.names)), weights)
    if container:
        yield f"read from {container!r} of the file"
    pairs = fit.match.pairs
    if by_order:
        layers = {name.rpartition(".")[0]: other.rpartition(".")[0] for name, other in pairs.items()}
        told = [f"{there.removeprefix(f'{container}.')} as {here}" for here, there in layers.items()]
        yield f"matched by order and shape: {', '.join(told)}"
    else:
        here, there = ({word for name in names for word in _words(name)} for names in (pairs, pairs.values()))
        dropped = [word for word in _words(next(iter(pairs.values()))) if word not in here]
        dropped += sorted(there - here - set(dropped))
        if dropped := [word for word in dropped if word not in container.split(".")]:
            yield f"{'.'.join(dropped)!r} left out of the names"
        numbers = [[re.findall(r"\d+", name) for name in pair] for pair in pairs.items()]
        if any(here != there and len(here) == len(there) for here, there in numbers):
            yield "layers numbered as in the model"
    if not fit.whole:
        yield "taken as the part behind the normalisation"
    beside = [n for n in weights.tensors if n not in fit.names and _container(n, weights) == container]
    if beside:
        yield f"not used: {_few(name.removeprefix(f'{container}.') for name in beside)}"
    kinds = {
        str(weights.tensors[other].dtype).removeprefix("torch.") for other in pairs.values() if _real(other, weights)
    }
    if kinds := sorted(kinds - {"float32"}):
        yield f"{', '.join(kinds)} weights as float32"


def _real(name: str, weights: Weights) -> bool:
    return weights.tensors[name].is_floating_point()


def _words(name: str) -> list[str]:
    """The components of a name before the last that are no numbers."""
    return [word for word in name.split(".")[:-1] if not word.isdecimal()]


def _container(name: str, weights: Weights) -> str:
    """The mapping or list that a tensor lies in."""
    parts = name.split(".")
    options = (".".join(parts[:length]) for length in range(len(parts) - 1, -1, -1))
    return next(option for option in options if option in weights.containers)


def _few(names: Iterable[str]) -> str:
    names = [name.removeprefix(PREFIX) for name in names]
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
