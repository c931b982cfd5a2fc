"""Weights that another program wrote: a plain state_dict, its names brought to those of a network of ours."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from torch import Tensor, nn

from certtrain.checkpoints import PREFIX
from certtrain.errors import UserError
from certtrain.models.normalize import Normalize

# Under which key programs put the state_dict beside epochs and optimisers.
WRAPPERS = ("state_dict", "model_state_dict", "model")
# Path components that DataParallel and torch.compile put around a network.
WRAPPING = ("module", "_orig_mod")


@dataclass(frozen=True)
class Weights:
    """A state_dict, and what was done to it since the file was read.

    Attributes:
        state: tensors by name, on the CPU.
        notes: changes, in words.
    """

    state: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def read_weights(path: str | Path) -> Weights:
    """The state_dict of a file: plain, or under `state_dict`, `model_state_dict` or `model`; `.safetensors` likewise.

    Nothing in the file is executed (`weights_only=True`).

    Raises:
        UserError: no such file, not readable as tensors alone, no state_dict in it, or numbers that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no file {path}", where="configuration key checkpoint", fix="checkpoint=FILE")
    content, notes = (_safetensors if path.suffix == ".safetensors" else _torch)(path), []
    if isinstance(content, Mapping) and not _is_state(content):
        key = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping) and _is_state(content[key])), None)
        if key is None:
            raise UserError(
                f"{path} holds no state_dict: its keys are {_few(map(str, content))}",
                where=str(path),
                fix=f"torch.save(model.state_dict(), FILE), or a dictionary with it under {', '.join(WRAPPERS)}",
            )
        notes, content = [f"read from {key!r} of the file"], content[key]
    if not isinstance(content, Mapping):
        raise UserError(
            f"{path} holds a {type(content).__name__}, no state_dict",
            where=str(path),
            fix="torch.save(model.state_dict(), FILE)",
        )
    state = {str(name): value.detach() for name, value in content.items()}
    bad = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise UserError(f"{path} holds NaN or infinite weights: {_few(bad)}", where=str(path), fix="another checkpoint")
    other = sorted({str(v.dtype).removeprefix("torch.") for v in state.values() if v.is_floating_point()} - {"float32"})
    notes += [f"{', '.join(other)} weights as float32"] if other else []
    return Weights(state, tuple(notes))


def fit_weights(network: nn.Module, weights: Weights, source: str) -> tuple[bool, tuple[str, ...]]:
    """Load the weights into the network, under its own names.

    Tried in turn, and the first that gives every name the network needs and none it lacks is taken: the names as they
    are, without a first component that all share, and either of these as the part of the network behind its first
    layer, the normalisation, which other programs often keep out of the file.

    Returns:
        Whether the file held the normalisation, and what was done to the names.

    Raises:
        UserError: names are missing or unknown, or shapes differ: one message with the first few of each.
    """
    own = network.state_dict()
    optional = {name for name in own if name.endswith("num_batches_tracked")} | set(normalisation_names(network))
    # The first of the candidates with the fewest names too many or too few; with none where the file fits.
    weights = min(
        _candidates(_unwrapped(weights, own)),
        key=lambda names: len(own.keys() - optional - names.state.keys()) + len(names.state.keys() - own.keys()),
    )
    problems = _problems(own, optional, weights.state)
    if problems:
        raise UserError(
            f"{source} does not fit the model: {'; '.join(problems)}",
            where="configuration keys checkpoint and model",
            fix="the model= and its options that the weights are of, or model._target_=your.module.Network",
        )
    network.load_state_dict(weights.state, strict=False)
    return normalisation_names(network) <= weights.state.keys(), weights.notes


def normalisation_names(network: nn.Module) -> set[str]:
    """The names of all `Normalize` layers' mean and std in the network's state_dict."""
    layers = [name for name, module in network.named_modules() if isinstance(module, Normalize)]
    return {f"{layer}.{key}".lstrip(".") for layer in layers for key in ("mean", "std")}


def _torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, KeyError, ValueError, OSError, pickle.UnpicklingError, BadZipFile) as error:
        reason = str(error).split("\n")[0][:120]
        raise UserError(
            f"{path} cannot be read as weights alone ({reason}); nothing else in it is executed",
            where=str(path),
            fix="save the tensors alone: torch.save(model.state_dict(), FILE)",
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


def _is_state(content: Mapping[Any, Any]) -> bool:
    return bool(content) and all(isinstance(value, Tensor) for value in content.values())


def _unwrapped(weights: Weights, own: Mapping[str, Tensor]) -> Weights:
    """Without `module.` and `_orig_mod.` anywhere in the names, where the network has no such parts."""
    known = {part for name in own for part in name.split(".")}
    for wrapper in [word for word in WRAPPING if word not in known]:
        names = {name: ".".join(p for p in name.split(".") if p != wrapper) for name in weights.state}
        if any(old != new for old, new in names.items()):
            weights = _renamed(weights, names.__getitem__, f"{wrapper!r} left out of the names")
    return weights


def _candidates(weights: Weights) -> Iterable[Weights]:
    first = {name.split(".")[0] for name in weights.state}
    shared = [weights]
    if len(first) == 1 and all("." in name for name in weights.state):
        shared.append(_renamed(weights, lambda name: name.split(".", 1)[1], f"{min(first)!r} left out of the names"))
    yield from shared
    for names in shared:
        behind = "taken as the part behind the normalisation"
        if all(name.split(".")[0].isdigit() for name in names.state):
            yield _renamed(names, _one_further, behind)
        yield _renamed(names, lambda name: f"1.{name}", behind)


def _one_further(name: str) -> str:
    place, dot, rest = name.partition(".")
    return f"{int(place) + 1}{dot}{rest}"


def _renamed(weights: Weights, rename: Callable[[str], str], note: str) -> Weights:
    state = {rename(name): value for name, value in weights.state.items()}
    return replace(weights, state=state, notes=(*weights.notes, note)) if len(state) == len(weights.state) else weights


def _problems(own: Mapping[str, Tensor], optional: set[str], state: Mapping[str, Tensor]) -> list[str]:
    missing = [name for name in own if name not in state and name not in optional]
    unknown = [name for name in state if name not in own]
    shapes = [
        f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if name in state and own[name].shape != state[name].shape
    ]
    found = (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
    return [f"{len(names)} {word} ({_few(names)})" for word, names in found if names]


def _few(names: Iterable[str]) -> str:
    names = [name.removeprefix(PREFIX) for name in names]
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
