"""Starts a command under Hydra: one job, or one for each value of a multirun."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from certtrain.cli.compose import call_hydra, is_multirun
from certtrain.cli.unread import refuse_unread
from certtrain.config.overrides import quoted


def _as_typed(argument: str) -> str:
    """A name is a text, also where Hydra would read a number: `name=8e067854` is not infinity."""
    key, _, value = argument.partition("=")
    return quoted(key, value) if key == "name" and re.fullmatch(r"[\w.+-]+", value) and value != "null" else argument


def run_hydra(command: str, arguments: list[str], job: Callable[[Any], int]) -> int:
    """Compose `conf/<command>.yaml` with the arguments and run the job on it: `-m`, `--cfg`, `--help` as in Hydra.

    Raises:
        UserError: an unknown key, option or value; jobs of a multirun that failed.
    """
    arguments = [_as_typed(argument) for argument in arguments]
    if is_multirun(arguments):
        from certtrain.cli.multirun import run_multirun

        return run_multirun(command, arguments)
    status: list[int] = []
    failures: list[Exception] = []

    # Hydra swallows the return value and prints over a failing job, so both travel beside it.
    def task(config: Any) -> None:
        try:
            refuse_unread(command, config)
            status.append(job(config))
        except Exception as error:
            failures.append(error)

    task.__module__ = __name__
    call_hydra(command, arguments, task)
    if failures:
        raise failures[0]
    return max(status, default=0)
