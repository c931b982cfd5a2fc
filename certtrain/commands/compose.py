"""Runs a command under Hydra, and turns Hydra's refusals into messages that name the nearest key or option."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from typing import Any

from certtrain.config import GROUPS, conf_dir, options
from certtrain.errors import UserError, nearest

INTERRUPTED = 128  # exit statuses from here on: ended by a signal


def quoted(key: str, value: object) -> str:
    """The override `key='value'`, whatever the value holds: commas and `=` mean something to Hydra."""
    text = str(value)
    for found, escaped in (("\\", "\\\\"), ("'", "\\'"), ("${", "\\${")):
        text = text.replace(found, escaped)
    return f"{key}='{text}'"


def run_hydra(command: str, arguments: list[str], job: Callable[[Any], int]) -> int:
    """Compose `conf/<command>.yaml` with the arguments and run the job on it: `-m`, `--cfg`, `--help` as in Hydra.

    Raises:
        UserError: an unknown key, option or value.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    status: list[int] = []
    failures: list[Exception] = []
    multirun = "-m" in arguments or "--multirun" in arguments

    # Hydra swallows a single run's return value and prints over a failing one, so both travel beside it. A failing job
    # of a multirun does not end the others.
    def task(config: Any) -> None:
        if max(status, default=0) >= INTERRUPTED:  # a signal ends the whole multirun, not one job of it
            return
        try:
            status.append(job(config))
        except Exception as error:
            if multirun:
                print(f"certtrain: this job failed: {error}", file=sys.stderr)
            failures.append(error)

    task.__module__ = __name__
    full_error, argv = os.environ.get("HYDRA_FULL_ERROR"), sys.argv
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing its own message and exiting
    sys.argv = [f"certtrain {command}", *arguments]
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
    if failures and multirun:
        jobs = len(failures) + len(status)
        first = str(failures[0]).split("\n")[0]
        raise UserError(
            f"{len(failures)} of {jobs} jobs failed, the first because: {first}",
            where="the multirun",
            fix="the messages above; the other jobs are whole, the same command runs only what is missing",
        ) from failures[0]
    if failures:
        raise failures[0]
    return max(status, default=0)


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
    if match := re.search(r"Could not find '([\w./@-]+)/([^/'][^']*)'", text):
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
        config = compose(command)

    def walk(node: Any, prefix: str) -> None:
        for key in node:
            keys.add(f"{prefix}{key}")
            if not OmegaConf.is_missing(node, key) and isinstance(node._get_node(key), DictConfig):
                walk(node._get_node(key), f"{prefix}{key}.")

    walk(config, "")
    return keys
