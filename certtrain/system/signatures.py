"""What a dotted name stands for, and what a class or function takes by name."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any


def resolve(target: str) -> Any:
    """The object that a dotted name stands for: attribute by attribute, modules imported where they are not yet.

    Raises:
        ImportError, AttributeError: there is none.
    """
    parts = target.split(".")
    found = importlib.import_module(parts[0])
    for count, part in enumerate(parts[1:], start=2):
        try:
            found = getattr(found, part)
        except AttributeError:
            if not isinstance(found, ModuleType) or found.__name__ != ".".join(parts[: count - 1]):
                raise
            found = importlib.import_module(".".join(parts[:count]))
    return found


def parameter_names(target: Callable[..., Any]) -> set[str]:
    """Names of arguments; of a class that hands on `**options` those of its parents, too."""
    try:
        found = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):  # built in: nothing is known
        return set()
    names = {p.name for p in found if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    if inspect.isclass(target) and any(p.kind == p.VAR_KEYWORD for p in found):
        for parent in target.__mro__[1:]:
            if "__init__" in vars(parent) and parent is not object:
                names |= parameter_names(parent)
                break  # which looks further itself
    return names
