"""One training run from a composed configuration: its checked values, its name, its directory, its processes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from certtrain.cli.naming import run_name
from certtrain.cli.seeds import swept_keys
from certtrain.config.checks import check
from certtrain.config.instantiate import call_partial
from certtrain.config.overrides import choices_by_name
from certtrain.errors import UserError
from certtrain.runs import environment
from certtrain.runs.directory import RunDirectory
from certtrain.runs.session_keys import EXTENDS, MAY_DIFFER
from certtrain.sessions.launcher import ProcessDied, launch
from certtrain.system.files import check_name
from certtrain.system.signals import Interrupted

if TYPE_CHECKING:
    from certtrain.runs.directory import State
    from certtrain.training.callbacks.pruning import Report

FAILED = 1
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
    """Train the run of a resolved configuration, or go on with it, in as many processes as `trainer.devices` says.

    Args:
        resolved, overrides: as `resolve` gives them.
        report: of a study's trial: told of each validation after the ramp's end, and may stop the training.

    Returns:
        The exit status: 0; 1 when a certificate of the test set was falsified or a process died; 130 or 143 after a
        signal.

    Raises:
        UserError: as `run`, and the directory of a new run is gone.
        Pruned: the report said to stop.
    """
    from certtrain.reporting import terminal

    path = Path(resolved["runs_dir"]) / str(resolved["name"])
    _refuse_fewer_epochs(RunDirectory(path), resolved["epochs"])
    directory, state = RunDirectory.open(path, resolved, overrides, may_differ=MAY_DIFFER, extends=EXTENDS)
    with directory:
        try:
            status = _train(directory, state, resolved, report)
        except Interrupted as interrupted:
            told = f"{interrupted}: the same command goes on from here, {path}"
            terminal.print_line(terminal.console(), told)
            return interrupted.exit_status
        except ProcessDied as died:
            _note(directory, str(died))
            on = "goes on from the last checkpoint" if directory.last.exists() else "begins again"
            print(f"certtrain: {died}; the same command {on} in {path}", file=sys.stderr)
            return FAILED
        except Exception:  # whatever it is, a user's class may raise anything
            _withdraw(directory, state)
            raise
        if status:
            _withdraw(directory, state)
        return status


def device_count(config: dict[str, Any]) -> int:
    """On how many devices a configuration trains; under torchrun as many as it started processes.

    Raises:
        UserError: more than there are, none where GPUs are asked for, or another number than torchrun's.
    """
    from certtrain.training.trainer_settings import TrainerSettings

    settings, started = call_partial(TrainerSettings, "trainer", **config["trainer"]), environment.torchrun()
    if started is None:
        return settings.device_count()
    if settings.devices not in ("auto", 1, started.of):
        raise UserError(
            f"trainer.devices = {settings.devices}, and torchrun started {started.of} processes",
            where="configuration key trainer.devices",
            fix=f"trainer.devices=auto, or {started.of}",
        )
    import torch

    gpus = torch.cuda.device_count() if settings.device_type == "cuda" else None
    if gpus is not None and started.local >= gpus:
        raise UserError(
            f"torchrun started process {started.local + 1} of this machine, where torch sees {gpus} GPU(s)",
            where="torchrun --nproc-per-node",
            fix=f"--nproc-per-node={gpus}, or trainer.accelerator=cpu",
        )
    return started.of


def _train(directory: RunDirectory, state: State, config: dict[str, Any], report: Report | None) -> int:
    alone = state == "complete" or config["trainer"].get("devices", 1) == 1  # then torch is not imported yet
    count = 1 if alone and environment.torchrun() is None else device_count(config)
    if count == 1 or environment.torchrun() is not None:
        from certtrain.sessions.session import Session

        return Session(directory, state, config, report, SHOWN).run()
    order = {"command": "train", "config": config, "directory": str(directory.path), "state": state}
    status = launch({**order, "shown": SHOWN}, count)
    SHOWN[:] = [config]
    return status


def _note(directory: RunDirectory, reason: str) -> None:
    """Record why a run was interrupted, where a rank that died could not."""
    if (result := directory.read_result()) and result["status"] == "interrupted":
        directory.write_result({**result, "reason": reason})


def _withdraw(directory: RunDirectory, state: State) -> None:
    """Take back a new run that failed without weights or a reason on record: the mended command may have its name."""
    if state == "new" and not (directory.last.exists() or directory.best.exists()):
        told = directory.read_result() or {}
        if "reason" not in told:
            directory.withdraw()


def _refuse_fewer_epochs(directory: RunDirectory, epochs: int) -> None:
    if directory.config.exists() and epochs < (before := directory.read_config()["epochs"]):
        raise UserError(
            f"the run {directory.name} is one of {before} epochs and cannot go back to {epochs}",
            where="configuration key epochs",
            fix=f"epochs={before} or more, or another name=",
        )
