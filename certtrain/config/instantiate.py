"""Builds what a configuration names by `_target_`: the one place below the command line that knows Hydra."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from certtrain.errors import UserError, nearest
from certtrain.system.signatures import parameter_names


def plain(config: Any) -> Any:
    """A configuration node as plain containers with every interpolation resolved."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config


def instantiate(node: Any, key: str, /, *args: Any, **kwargs: Any) -> Any:
    """Build the object that a configuration node describes by `_target_`; the only place that does so.

    Args:
        node: the configuration node.
        key: its place in the configuration, for messages: `model`, `certifier.crown`.
        args, kwargs: what the program adds to the configured arguments.

    Raises:
        UserError: with the key, the target, the real cause, and the nearest argument names for a mistyped one.
    """
    import hydra.utils

    node = plain(node)
    if not isinstance(node, dict) or "_target_" not in node:
        raise UserError(f"{key} names nothing to build", where=f"configuration key {key}", fix="it needs a _target_")
    target = node["_target_"]
    where = f"configuration key {key} (target {target})"
    if missing := list(_missing(node, key)):
        named, fix = " and ".join(missing), " ".join(f"{name}=..." for name in missing)
        raise UserError(f"{named} must be given", where=where, fix=fix)
    apart = bool(args or kwargs) and not node.get("_partial_")
    try:
        if not apart:
            return hydra.utils.instantiate(node, *args, **kwargs, _convert_="all")
        # What is given beside the node is no configuration: Hydra would build dictionaries in it that have a _target_.
        make = hydra.utils.instantiate({**node, "_partial_": True}, _convert_="all")
        return make(*args, **kwargs)
    except Exception as error:
        cause = _root_cause(error)
        if isinstance(cause, UserError):
            raise UserError(cause.what, where=cause.where or where, fix=cause.fix) from error
        raise UserError(f"{key} cannot be built: {cause}", where=where, fix=_argument_hint(target, cause)) from error


def _missing(node: dict[str, Any], key: str) -> Iterator[str]:
    """Keys whose value is still `???`."""
    for name, value in node.items():
        if isinstance(value, dict):
            yield from _missing(value, f"{key}.{name}")
        elif isinstance(value, str) and value == "???":
            yield f"{key}.{name}"


def call_partial(partial: Any, key: str, *args: Any, **kwargs: Any) -> Any:
    """Call a `_partial_: true` target; a wrong argument only shows here, so it gets the same message."""
    target = getattr(partial, "func", partial)
    name = f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', target)}"
    try:
        return partial(*args, **kwargs)
    except UserError:
        raise
    except Exception as error:
        where, fix = f"configuration key {key} (target {name})", _argument_hint(name, error, target)
        raise UserError(f"{key} cannot be built: {error}", where=where, fix=fix) from error


def _root_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None and not isinstance(error, UserError):
        error = error.__cause__
    return error


def _argument_hint(target: str, cause: BaseException, found: Any = None) -> str:
    match = re.search(r"unexpected keyword argument '(\w+)'", str(cause))
    if match is None:
        return "see the cause above; --traceback shows where it was raised"
    try:
        if found is None:
            import hydra.utils

            found = hydra.utils.get_object(target)
        names = sorted(parameter_names(found))
    except Exception:  # a target without a signature: the message is still better than none
        return "remove it"
    return nearest(match.group(1), names)
