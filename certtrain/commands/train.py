"""`certtrain train`: which runs a command line means: a new one, one to go on with, several seeds, a study.

What happens within one run is `certtrain.commands.session`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from certtrain import environment
from certtrain.commands.compose import choices_by_name, given_values, is_multirun, quoted
from certtrain.commands.inherited import kept_overrides, typed_trust
from certtrain.commands.naming import run_name
from certtrain.commands.seeds import expand_seeds, refuse_one_name, swept_keys
from certtrain.config import check
from certtrain.errors import UserError, command_line
from certtrain.files import check_name
from certtrain.runs import RunDirectory, find_run
from certtrain.session_keys import EXTENDS, MAY_DIFFER

if TYPE_CHECKING:
    from certtrain.callbacks.pruning import Report

SHOWN: list[dict[str, Any]] = []  # the configuration that this command showed last, of several runs
# Overrides that say how runs are made, not what a run is.
NOT_OF_A_RUN = ("resume=", "name=", "seeds=", "trust=", "sweep=", "sweep.", "sweep/", "hydra/", "hydra.")


def prepare(arguments: list[str]) -> list[str]:
    """With `resume=RUN`, the overrides that the run was made with come first; `seeds=K` becomes one job per seed.

    Raises:
        UserError: there is no such run, or it was trained elsewhere; seeds= beside what it cannot go with; several runs
            under torchrun.
    """
    SHOWN.clear()
    given = given_values(arguments)
    several = given.get("seeds", "null") != "null" or is_multirun(arguments)
    if several and environment.torchrun() is not None:
        raise UserError(
            "torchrun starts the processes of one training, not of several",
            where="the command line",
            fix="without torchrun: trainer=ddp starts its processes for each run by itself",
        )
    if given.get("seeds", "null") != "null":
        return expand_seeds(arguments, given)
    if is_multirun(arguments):
        refuse_one_name(arguments, given)
    name = given.get("resume")
    if not name or name == "null":
        return arguments
    run = find_run(name, given.get("runs_dir", "runs"))
    if source := run.read_config().get("source"):
        raise UserError(
            f"the run {run.name} was trained elsewhere ({source['file']}): there is no recipe to go on with",
            where=f"resume={run.name}",
            fix=command_line("certtrain", "certify", f"run={run.path}"),
        )
    mine = {argument.split("=", 1)[0].lstrip("+~") for argument in arguments}
    if given.get("name", run.name) != run.name:
        raise UserError(
            f"resume={run.name} goes on with that run, and name={given['name']} is another one",
            where="the command line",
            fix="leave name= out",
        )
    kept = kept_overrides(run.read_overrides(), [*mine, "runs_dir"], run.overrides)
    rest = [argument for argument in arguments if not argument.startswith(("resume=", "name=", "runs_dir=", "trust="))]
    rest += typed_trust(arguments)
    return [*kept, *rest, quoted("runs_dir", run.path.parent), quoted("resume", run.name), quoted("name", run.name)]


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


def run_path(config: Any) -> Path:
    """The directory that a configuration's run has, or will have."""
    from hydra.core.hydra_config import HydraConfig

    resolved, _ = resolve(config, HydraConfig.get())
    return Path(resolved["runs_dir"]) / str(resolved["name"])


def run(config: Any) -> int:
    """Train one configuration. Returns the exit status.

    Raises:
        UserError: a mistake in the configuration, the data or the run directory; training that diverged.
    """
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    multirun = hydra.mode is not None and hydra.mode.name == "MULTIRUN"
    seeds = config.get("seeds")
    if config.get("sweep") is not None:
        from certtrain.commands.study import run_study

        return run_study(config, hydra)
    resolved, overrides = resolve(config, hydra)
    if seeds is not None and not multirun:
        raise UserError("seeds= stands in a file", where="configuration key seeds", fix="give it on the command line")
    if multirun and resolved["certify_test"] and seeds is None:
        raise UserError(
            "certify_test=true in a multirun would choose by the test set",
            where="configuration key certify_test",
            fix="certify_test=false; certify the run you chose with certtrain certify run=...; or seeds=5 alone, "
            "where all are reported and none is chosen",
        )
    return run_one(resolved, overrides)


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


def summarise(records: list[dict[str, Any]]) -> None:
    """The table at the end of a multirun, from the run directories of its jobs.

    Args:
        records: of the jobs, as `certtrain.commands.multirun` reads them.
    """
    from certtrain.commands.naming import plain_value
    from certtrain.config import default_monitor
    from certtrain.reporting import terminal
    from certtrain.reporting.sweeps import multirun_tables, seeds_tables
    from certtrain.sweeps.summary import comparisons, read_job

    jobs = []
    for record in records:
        directory = RunDirectory(record["run"]) if record["run"] else None
        monitor = ""
        if directory is not None and directory.config.exists():
            config = directory.read_config()
            monitor = config["checkpoint"]["monitor"] or default_monitor(config)
        overrides = [plain_value(override) for override in record["overrides"]]
        run = None if directory is None else os.path.relpath(directory.path)
        jobs.append(read_job(overrides, run, record["error"], monitor))
    console = terminal.console()
    console.print()
    if all("seeds" in job.overrides for job in jobs):
        console.print(seeds_tables(jobs))
    else:
        console.print(multirun_tables(jobs))
        for comparison in comparisons(jobs):
            best = comparison.jobs[0]
            but = f", but it is no better than a guess: {best.guessing}" if best.guessing else ""
            terminal.print_line(console, f"best by {comparison.metric.name}: {best.run}{but}")
        terminal.print_line(console, "next, for the one you choose, once: certtrain certify run=...")


def _refuse_fewer_epochs(directory: RunDirectory, epochs: int) -> None:
    if directory.config.exists() and epochs < (before := directory.read_config()["epochs"]):
        raise UserError(
            f"the run {directory.name} is one of {before} epochs and cannot go back to {epochs}",
            where="configuration key epochs",
            fix=f"epochs={before} or more, or another name=",
        )
