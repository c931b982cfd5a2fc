"""Refuses keys that nothing reads: appended with `+` or `++`, by a file of a user's own, or taken away with `~`.

Struct mode catches a mistyped override of what is there. What is appended is there by definition, and files are merged
before that mode is on. So the composed configuration is held against the one that the same choices make without any
override and without an experiment. What a part's constructor takes may be added to the part.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from certtrain.config.overrides import GROUPS, options
from certtrain.config.received import check_resumed
from certtrain.errors import UserError
from certtrain.system.files import conf_dir

# Told to Hydra, not to the part.
INSTANTIATE = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")
# What is below has names of its own, and whoever reads it refuses those that mean nothing.
CHECKED_WHERE_READ = ("sweep.space",)
# Groups of which several options may be chosen, beside parts with a `_target_` of the user's.
SEVERAL = ("logger", "callbacks")
# The settings of the first have defaults beside those in `conf/`; the others are there when they are asked for.
MAY_LACK = ("trainer", "callbacks")


def refuse_unread(command: str, config: Any) -> None:
    """Refuse a composed configuration with a key that nothing reads, or without one that is needed.

    Args:
        command: whose configuration it is; called where Hydra has set its own.
        config: as Hydra composed it.

    Raises:
        UserError: with the nearest keys.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    check_resumed(config)
    hydra = HydraConfig.get()
    if not _may_differ(hydra):
        return
    made = OmegaConf.to_container(config, resolve=False)
    known = _reference(command, hydra)
    theirs = _resumed(made)  # a run that was made with such a key, when it had no effect, is not lost by it
    for path in _extra(made, known):
        if path in theirs:
            continue
        raise UserError(
            f"unknown configuration key {path!r}: nothing would read it",
            where=_where(path, hydra, "+"),
            fix=_near(path, made, known) or f"leave it out; `certtrain {command} --cfg job` shows the keys there are",
        )
    for path in _missing(made, known):
        raise UserError(
            f"the configuration key {path!r} is needed, and was taken away",
            where=_where(path, hydra, "~"),
            fix="keep it",
        )


def _may_differ(hydra: Any) -> bool:
    """Whether there can be other keys than ours: one was added or taken away, or files of the user's were composed."""
    changed = any(text.startswith(("+", "~")) for text in hydra.overrides.task)
    experiment = hydra.runtime.choices.get("experiment")
    theirs = any(source.provider == "command-line" for source in hydra.runtime.config_sources)
    return changed or theirs or experiment not in (None, *options("experiment"))


def _reference(command: str, hydra: Any) -> dict[str, Any]:
    """The configuration of the same choices, with nothing overridden and no experiment."""
    from contextlib import nullcontext

    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    chosen = {g: c for g, c in hydra.runtime.choices.items() if g in (*GROUPS, "sweep/space") and c is not None}
    chosen.pop("experiment", None)
    # A group that no defaults list has, as the certifier of a custom method without one, was appended, and is again.
    appended = {text.lstrip("+").split("=")[0] for text in hydra.overrides.task if text.startswith("+")}
    overrides = [
        f"{'+' * (group in appended)}{group}={choice}" for group, choice in chosen.items() if group not in SEVERAL
    ]
    if command == "train":  # any of them may be asked for, one by one or as a list
        overrides += [f"{group}=[{','.join(options(group))}]" for group in SEVERAL]
    where: Any = nullcontext()
    if not GlobalHydra.instance().is_initialized():  # a launcher's process, which is told no more than the job
        where = initialize_config_dir(str(conf_dir()), version_base="1.3")
        own = [s.path for s in hydra.runtime.config_sources if s.schema == "file" and s.provider != "main"]
        overrides += [f"hydra.searchpath=[{','.join(f'file://{path}' for path in own)}]"] if own else []
    with where:
        return OmegaConf.to_container(compose(command, overrides), resolve=False)  # type: ignore[return-value]


def _resumed(made: Mapping[str, Any]) -> set[str]:
    """The keys that the run has which is resumed."""
    if made.get("resume") is None:
        return set()
    from certtrain.runs.directory import find_run

    return set(_paths(find_run(made["resume"], made["runs_dir"]).read_config()))


def _extra(made: Mapping[str, Any], known: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The paths of keys that are in `made` without being known, or taken by the part that they belong to."""
    part = "_target_" in made
    for key, value in made.items():
        path = f"{prefix}{key}"
        if path in CHECKED_WHERE_READ:
            continue
        if key in known:
            inside = known[key]
            # A mapping among the arguments of a part is the part's own, unless it is a part again.
            if isinstance(value, dict) and isinstance(inside, dict) and (not part or "_target_" in value):
                yield from _extra(value, inside, f"{path}.")
        elif part:
            if key not in INSTANTIATE and not _takes(made["_target_"], key):
                yield path
        elif not (isinstance(value, dict) and _is_further_part(prefix.removesuffix("."), value)):
            yield path


def _is_further_part(group: str, node: Mapping[str, Any]) -> bool:
    """A certifier, logger or callback by a name of the user's."""
    return group == "certifier" or (group in SEVERAL and "_target_" in node)


def _takes(target: object, name: str) -> bool:
    """Whether a target's constructor has an argument; one that cannot be looked at is built, and refuses for itself."""
    names = _arguments(target)
    return names is None or name in names


def _arguments(target: object) -> set[str] | None:
    import hydra.utils

    try:
        parameters = inspect.signature(hydra.utils.get_object(str(target))).parameters.values()
    except Exception:
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters}


def _missing(made: Mapping[str, Any], known: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in known.items():
        path = f"{prefix}{key}"
        if path in MAY_LACK or path in CHECKED_WHERE_READ or prefix.removesuffix(".") in SEVERAL:
            continue
        if key not in made:
            yield path
        elif isinstance(value, dict) and isinstance(made[key], dict) and "_target_" not in value:
            yield from _missing(made[key], value, f"{path}.")


def _near(path: str, made: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """`did you mean optimizer.lr?`, of the keys of the same part, else of all; empty where none is near."""
    parent, _, leaf = path.rpartition(".")
    node: Any = made
    for name in parent.split(".") if parent else ():
        node = node[name]
    beside = {*(_arguments(node["_target_"]) or ()), *node} - {leaf} if "_target_" in node else set()
    places = {key: key for key in sorted(beside) if not key.startswith("_")}
    if not places:
        for key in _paths(known):
            places.setdefault(key.rpartition(".")[2], key)
    close = difflib.get_close_matches(leaf, places, n=3, cutoff=0.6)
    return f"did you mean {', '.join(places[name] for name in close)}?" if close else ""


def _paths(node: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """All keys, the outer ones before those inside."""
    yield from (f"{prefix}{key}" for key in node if not str(key).startswith("_"))
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{key}.")


def _where(path: str, hydra: Any, mark: str) -> str:
    for override in hydra.overrides.task:
        key = override.lstrip("+~").split("=", 1)[0]
        if override.startswith(mark) and (path == key or path.startswith(f"{key}.") or key.startswith(f"{path}.")):
            return f"{override} on the command line"
    if experiment := hydra.runtime.choices.get("experiment"):
        return f"experiment={experiment}"
    return "the configuration"
