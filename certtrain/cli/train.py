"""`certtrain train`: which runs a command line means: a new one, one to go on with, several seeds, a study.

What happens within one run is `certtrain.sessions.session`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from certtrain.cli.compose import given_values, is_multirun
from certtrain.cli.inherited import kept_overrides, typed_trust
from certtrain.cli.one_run import SHOWN, resolve, run_one
from certtrain.cli.seeds import expand_seeds, refuse_one_name
from certtrain.config.overrides import quoted
from certtrain.errors import UserError, command_line
from certtrain.runs import environment
from certtrain.runs.directory import RunDirectory, find_run


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
        from certtrain.cli.study import run_study

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


def summarise(records: list[dict[str, Any]]) -> None:
    """The table at the end of a multirun, from the run directories of its jobs.

    Args:
        records: of the jobs, as `certtrain.cli.multirun` reads them.
    """
    from certtrain.cli.naming import plain_value
    from certtrain.config.checks import default_monitor
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
