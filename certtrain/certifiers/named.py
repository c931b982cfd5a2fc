"""The certifier class that a dotted name stands for."""

from __future__ import annotations

import inspect
import re
from typing import Any

from certtrain.certifiers.base import Certifier
from certtrain.system.signatures import resolve

OURS = re.compile(r"certtrain\.certifiers(\.\w+){1,2}")


def certifier_class(target: object, *, ours: bool) -> type[Certifier] | None:
    """The certifier of that name; None where it is none. Nothing is called.

    Args:
        target: any value.
        ours: it may be a stranger's: nothing but certtrain's own certifiers is looked at.
    """
    if not isinstance(target, str) or (ours and not OURS.fullmatch(target)):
        return None
    try:
        kind: Any = resolve(target)
    except Exception:  # whatever a module of the user's raises; it is raised again when the certifier is built
        return None
    certifier = inspect.isclass(kind) and issubclass(kind, Certifier)
    return kind if certifier and (not ours or OURS.fullmatch(kind.__module__)) else None
