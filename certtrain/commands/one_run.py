"""One training run from a composed configuration: its checked values, its name, its directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from certtrain import environment
from certtrain.commands.compose import choices_by_name
from certtrain.commands.naming import run_name
from certtrain.commands.seeds import swept_keys
from certtrain.config import check
from certtrain.errors import UserError
from certtrain.files import check_name
from certtrain.runs import RunDirectory
from certtrain.session_keys import EXTENDS, MAY_DIFFER

if TYPE_CHECKING:
    from certtrain.callbacks.pruning import Report

SHOWN: list[dict[str, Any]] = []  # the configuration that this command showed last, of several runs
# Overrides that say how runs are made, not what a run is.
NOT_OF_A_RUN = ("resume=", "name=", "seeds=", "trust=", "sweep=", "sweep.", "sweep/", "hydra/", "hydra.")


def resolve(config: Any, hydra: Any) -> tuple[dict[str, Any], list[str]]:
    """The checked configuration of one run, with its name, and the overrides that make it again.

    Args:
        config: the composed configuration.
        hydra: Hydra's own part of it.

    Raises:
        UserError: a mistake in the configuration.
    """
    resolved = check(config)
    for key in ("seeds", "sweep", "trust"):  # of several runs, or of one session of one
        resolved.pop(key, None)
    resolved["resume"] = None  # of a session, not of the run
    choices = {k: v for k, v in hydra.runtime.choices.items() if not k.startswith(("hydra/", "sweep"))}
    resolved["choices"] = choices = choices_by_name(choices, resolved)
    if choices.get("certifier") is None:
        raise UserError(
            f"method={choices['method']} chooses no certifier",
            where=f"conf/method/{choices['method']}.yaml",
            fix="+certifier=bounds (or smoothing), or in its defaults list: /certifier@_global_.certifier: bounds",
        )
    overrides = [o for o in hydra.overrides.task if not o.lstrip("+~").startswith(NOT_OF_A_RUN)]
    if resolved["name"] is None:
        resolved["name"] = run_name(choices, resolved["seed"], overrides, swept_keys(environment.typed_words()))
    resolved["name"] = check_name(resolved["name"])
    return resolved, overrides


def run_one(resolved: dict[str, Any], overrides: list[str], report: Report | None = None) -> int:
    """Train the run of a resolved configuration, or go on with it. Returns the exit status.

    Args:
        resolved, overrides: as `resolve` gives them.
        report: of a study's trial: told of each validation after the ramp's end, and may stop the training.

    Raises:
        UserError: as `run`.
        Pruned: the report said to stop.
    """
    from certtrain.commands.session import Session

    path = Path(resolved["runs_dir"]) / str(resolved["name"])
    _refuse_fewer_epochs(RunDirectory(path), resolved["epochs"])
    directory, state = RunDirectory.open(path, resolved, overrides, may_differ=MAY_DIFFER, extends=EXTENDS)
    with directory:
        return Session(directory, state, resolved, report, SHOWN).run()


def _refuse_fewer_epochs(directory: RunDirectory, epochs: int) -> None:
    if directory.config.exists() and epochs < (before := directory.read_config()["epochs"]):
        raise UserError(
            f"the run {directory.name} is one of {before} epochs and cannot go back to {epochs}",
            where="configuration key epochs",
            fix=f"epochs={before} or more, or another name=",
        )
