"""What a command line may choose from, and an override as Hydra reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from certtrain.system.files import conf_dir

# The groups a user chooses from; `tuned` is chosen by Hydra from method and data.
GROUPS = ("data", "model", "method", "optimizer", "bounds", "certifier", "trainer", "logger", "callbacks")
GROUPS += ("experiment", "sweep")


def options(group: str) -> list[str]:
    """The names that a group offers, without extension; experiments as `paper/row`."""
    return names_below(conf_dir() / group)


def names_below(folder: Path) -> list[str]:
    """The same of a folder. What begins with an underscore is shared by its neighbours, and not an option itself."""
    found = (path for path in folder.rglob("*.yaml") if not path.name.startswith("_"))
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in found)


def quoted(key: str, value: object) -> str:
    """The override `key='value'`, whatever the value holds: commas and `=` mean something to Hydra.

    A backslash is one, but before a quote, a `${` or the end, where it has to be doubled.
    """
    text = re.sub(r"(\\*)('|\$\{|\Z)", lambda found: found[1] * 2 + (found[2] and f"\\{found[2]}"), str(value))
    return f"{key}='{text}'"


def choices_by_name(choices: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """What was chosen per group, `custom` told by the name of its class."""
    named = {group: config[group]["_target_"] for group, choice in choices.items() if choice == "custom"}
    return {**choices, **named}
