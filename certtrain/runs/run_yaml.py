"""Reads the YAML of a run directory, which may have been sent by a stranger: plain values, never nested without end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from certtrain.errors import UserError

DEEP = 1_000  # levels of nesting: with many more the loaders, which recurse, run out of stack


def read_yaml(path: Path, kind: type) -> Any:
    """The plain values of a run's file.

    Raises:
        UserError: it cannot be read, or holds something else than a `kind`.
    """
    try:
        value = _plain_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path}: {error}", where="run directory", fix="is this a run?") from error
    if not isinstance(value, kind):
        raise UserError(f"{path} does not hold a {kind.__name__}", where="run directory", fix="is this a run?")
    return value


def _plain_yaml(text: str) -> Any:
    """The plain values of a YAML text, by libyaml where there is one, which is seven times as fast.

    Raises:
        ValueError: it is nested too deep. Each level takes a bracket, a brace, a dash, a question mark or more spaces
            at the beginning of a line, so that most texts are known not to be without a look at their structure.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    indent = max((len(line) - len(line.lstrip(" ")) for line in text.split("\n")), default=0)
    if indent + sum(map(text.count, "[{-?")) >= DEEP:
        depth = 0
        for event in yaml.parse(text, loader):  # which does not recurse
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth >= DEEP:
                raise ValueError(f"it is nested {DEEP:,} levels deep")
    return yaml.load(text, loader)
