"""Runs a command under Hydra, and turns Hydra's refusals into messages that name the nearest key or option."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from certtrain.config.overrides import GROUPS, options
from certtrain.errors import UserError, nearest
from certtrain.system.files import conf_dir

INTERRUPTED = 128  # exit statuses from here on: ended by a signal
WITH_VALUE = ("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn", "--package", "-p", "--cfg", "-c")
# The groups that a command's help lists; the others mean nothing to it.
HELP_GROUPS = {"train": GROUPS, "certify": ("certifier", "bounds", "model", "data"), "predict": ("certifier", "bounds")}
HELP_GROUPS["export"] = ()


def unquoted(value: str) -> str:
    """The text that Hydra reads where a value is in quotes; any other value as it is."""
    if len(value) < 2 or value[0] not in "'\"":
        return value
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(f"key={value}")
    except HydraException:  # it says so itself, when it composes
        return value
    return value if override.is_sweep_override() else str(override.value())


def given_values(arguments: Sequence[str]) -> dict[str, str]:
    """The values of the `key=value` arguments, without the quotes that are for Hydra; of a key given twice the last."""
    pairs = (argument.split("=", 1) for argument in arguments if "=" in argument and not argument.startswith("-"))
    return {key: unquoted(value) for key, value in pairs}


def is_multirun(arguments: Sequence[str]) -> bool:
    """Whether Hydra makes one job per value rather than one run."""
    return "-m" in arguments or "--multirun" in arguments


def call_hydra(command: str, arguments: Sequence[str], task: Callable[[Any], None]) -> None:
    """Hand the arguments to Hydra, which composes and calls the task.

    Raises:
        UserError: what Hydra refuses, in our words. The task's own exceptions pass.
    """
    import warnings

    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    # Our presets of launchers bear the plugins' own names, whose schema Hydra then checks them against.
    warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/.*is validated against ConfigStore schema")
    full_error, argv = os.environ.get("HYDRA_FULL_ERROR"), sys.argv
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing its own message and exiting
    sys.argv = [f"certtrain {command}", *options_first(own_classes(arguments))]
    if "--help" in arguments:
        _list_groups_ourselves(command)
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=command)(task)()
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error, command) from error
    finally:
        sys.argv = argv
        if full_error is None:
            os.environ.pop("HYDRA_FULL_ERROR", None)
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error


def own_classes(arguments: Sequence[str]) -> list[str]:
    """`model._target_=my_net.Net model.width=8` as Hydra takes it: keys beside `_target_` are arguments of that class.

    Where no option of the group model is named, the class takes the place of the default one, whose arguments are not
    its own.
    """
    given = [argument.split("=", 1)[0].lstrip("+~") for argument in arguments if "=" in argument]
    nodes = {key.removesuffix("._target_") for key in given if key.endswith("._target_")}
    mine = tuple(f"{node}." for node in nodes if not node.startswith("hydra"))
    chosen = ["model=custom"] if "model" in nodes and "model" not in given else []
    chosen += ["data=dataset"] if "data.train" in nodes and "data" not in given else []
    return [*chosen, *(f"++{argument}" if argument.startswith(mine) else argument for argument in arguments)]


def options_first(arguments: Sequence[str]) -> list[str]:
    """Hydra's options before the overrides: between them, its parser takes no override after the first option."""
    before: list[str] = []
    overrides: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument.startswith("-"):
            before += [argument, *([next(rest, "")] if argument in WITH_VALUE else [])]
        else:
            overrides.append(argument)
    return [*before, *overrides]


def _list_groups_ourselves(command: str) -> None:
    """Hydra reads the whole folder anew for each group, half a second in all, and lists what means nothing here."""
    from hydra._internal.hydra import Hydra

    def listed(self: Any, predicate: Callable[[str], bool], compact: bool = True) -> str:
        shown = [group for group in HELP_GROUPS.get(command, GROUPS) if predicate(group)]
        return "\n".join(wrapped(group, options(group)) for group in shown) + "\n"

    Hydra.format_config_groups = listed  # type: ignore[method-assign]


def wrapped(group: str, names: Sequence[str], width: int = 100) -> str:
    """`group: a, b, c` in lines of at most `width` columns."""
    import textwrap

    text = f"{group}: {', '.join(names)}"
    return textwrap.fill(text, width, subsequent_indent=" " * 4, break_long_words=False, break_on_hyphens=False)


def explain(error: Exception, command: str) -> UserError:
    """A UserError for what Hydra refused."""
    text = str(error)
    if override := getattr(error, "override", None):
        return UserError(f"{override!r} cannot be read: {text}", where="the command line", fix="key=value; quote lists")
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match.group(1)
        return UserError(
            f"unknown configuration key {key!r}",
            where="the command line",
            fix=f"{nearest(key, known_keys(command))} (`certtrain {command} --cfg job` shows all)",
        )
    if match := re.search(r"Could not append to config. An item is already at '([^']+)'", text):
        key = match.group(1)
        return UserError(f"{key} is there already", where=f"+{key}=...", fix=f"{key}=..., without +")
    if match := re.search(r"Could not (?:find|load) '([\w./@-]+)/([^/'][^']*)'", text):
        group, option = match.group(1), match.group(2)
        if group.split("/")[0] == "experiment":
            option = f"{group}/{option}".removeprefix("experiment/")
            group = "experiment"
        if (conf_dir() / group).is_dir():
            return UserError(
                f"{group} has no option {option!r}", where=f"{group}={option}", fix=nearest(option, options(group))
            )
    if match := re.search(r"Could not override '?([\w/@.]+)'?\.?\s*No match in the defaults list", text):
        return UserError(f"unknown group {match.group(1)!r}", where="the command line", fix=nearest(match[1], GROUPS))
    first = next((line for line in text.splitlines() if line.strip()), type(error).__name__)
    return UserError(first.strip(), where="the configuration", fix=f"certtrain {command} --help")


def known_keys(command: str) -> set[str]:
    """Every key of the default configuration, and the names of the groups."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import DictConfig, OmegaConf

    GlobalHydra.instance().clear()
    keys: set[str] = set(GROUPS)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose(command, ["sweep=optuna"] if command == "train" else [])  # whose keys are there on demand

    def walk(node: Any, prefix: str) -> None:
        for key in node:
            keys.add(f"{prefix}{key}")
            if not OmegaConf.is_missing(node, key) and isinstance(node._get_node(key), DictConfig):
                walk(node._get_node(key), f"{prefix}{key}.")

    walk(config, "")
    return keys
