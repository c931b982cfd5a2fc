"""`certtrain reproduce PAPER/ROW [key=value ...]`: train, certify and compare one published row.

The budget is stated before anything starts. Every stage can be interrupted; the same command goes on from there.
Rows of your own: --papers DIR holds DIR/PAPER/published.yaml, --config-dir CONF its CONF/experiment/PAPER/ROW.yaml.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from certtrain.cli import certify, train
from certtrain.cli.compose import INTERRUPTED, call_hydra, given_values
from certtrain.cli.launch import run_hydra
from certtrain.cli.table import Parser, every_paper, experiments_dir
from certtrain.config.instantiate import plain
from certtrain.config.overrides import names_below, options, quoted
from certtrain.errors import UserError, command_line, nearest
from certtrain.reporting.published import FILE, Paper, Row, read_paper
from certtrain.runs.directory import RunDirectory

# What the certify stage alone is given: a trained run may be certified again with other draws or images.
CERTIFY_ONLY = ("indices", "n", "n0", "alpha", "certifier", "trust")


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    made = Parser(prog="certtrain reproduce", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("row", nargs="?", help="PAPER/ROW, such as zhang2020/mnist_small_eps0.3; none: list all")
    made.add_argument("overrides", nargs="*", help="key=value, for training or (indices, n, ...) for certifying")
    made.add_argument("--dry-run", action="store_true", help="state the budget and stop")
    made.add_argument("--no-timing", action="store_true", help="start at once, without a budget")
    made.add_argument("--papers", metavar="DIR", help="a folder of papers of your own, besides certtrain's")
    made.add_argument(
        "--config-dir", "-cd", metavar="CONF", help="a folder of configuration of your own, as everywhere"
    )
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the command. Returns 0 when every stage ended, also where a row falls short; 130 or 143 when interrupted."""
    given = parser().parse_intermixed_args(list(arguments))
    for override in given.overrides:
        if "=" not in override:
            raise UserError(f"{override!r} is no override", where="the command line", fix="key=value")
    places = Places(given.papers, given.config_dir)
    if given.row is None:
        return list_rows(places)
    paper, row = find_row(given.row, places)
    seeds, overrides = _seeds(given.overrides)
    for number, seed in enumerate(seeds):
        mine = [*overrides, f"seed={seed}"] if seed is not None else overrides
        timed = not given.no_timing and not number
        status = _one(row, mine, places, dry=given.dry_run, timed=timed, runs=len(seeds))
        if status or given.dry_run:
            return status
    return _compare(paper, row, overrides)


@dataclass(frozen=True)
class Places:
    """Where rows and their recipes lie besides certtrain's own.

    Attributes:
        papers: a folder of folders with a `published.yaml` each.
        config_dir: a folder of configuration, whose `experiment/` holds the recipes.
    """

    papers: str | None = None
    config_dir: str | None = None

    @property
    def arguments(self) -> list[str]:
        """As train and certify take them."""
        return ["--config-dir", self.config_dir] if self.config_dir else []

    @property
    def experiments(self) -> list[str]:
        """What `experiment=` takes."""
        own = names_below(Path(self.config_dir) / "experiment") if self.config_dir else []
        return sorted({*own, *options("experiment")})

    @property
    def folders(self) -> list[Path]:
        """Of the papers, the user's own first; an installed wheel has no others.

        Raises:
            UserError: there are none.
        """
        own = every_paper(Path(self.papers)) if self.papers else []
        ours = experiments_dir()
        return [*own, *(every_paper(ours) if not own or any(ours.glob(f"*/{FILE}")) else [])]


OURS = Places()


def list_rows(places: Places = OURS) -> int:
    """Print the rows that can be reproduced, by paper. Returns 0."""
    from rich import box
    from rich.table import Table

    from certtrain.reporting import terminal

    console = terminal.console()
    for paper in map(read_paper, places.folders):
        table = Table(title=paper.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for name in ("experiment", "data, network", "radius or noise"):
            table.add_column(name, no_wrap=name == "experiment", overflow="fold")
        for row in paper.rows.values():
            level = f"eps {row.eps}" if row.eps else f"sigma {row.sigma:g}" if row.sigma else ""
            table.add_row(row.experiment, f"{row.data}, {row.network}", level)
        console.print(table)
    terminal.print_line(console, "next: certtrain reproduce EXPERIMENT [--dry-run]")
    return 0


def find_row(name: str, places: Places = OURS) -> tuple[Paper, Row]:
    """The published row that an experiment's name belongs to.

    Raises:
        UserError: no experiment of this name, or nothing published beside it; with the nearest names.
    """
    if name not in (known := places.experiments):
        raise UserError(f"there is no experiment {name!r}", where="the command line", fix=nearest(name, known))
    for folder in sorted(places.folders, key=lambda folder: folder.name != name.split("/")[0]):  # most often the first
        paper = read_paper(folder)
        for row in paper.rows.values():
            if row.experiment == name:
                return paper, row
    raise UserError(
        f"experiment {name} has no row in any {FILE}",
        where=" and ".join(str(folder) for folder in (places.papers, experiments_dir()) if folder),
        fix=f"{command_line('certtrain', 'train', f'experiment={name}')}, then certtrain certify",
    )


def _seeds(overrides: Sequence[str]) -> tuple[list[int | None], list[str]]:
    """`seeds=K` as the seeds 0 to K-1; None for the one that the configuration says."""
    rest = [override for override in overrides if not override.startswith("seeds=")]
    if len(rest) == len(overrides):
        return [None], rest
    text = next(override for override in reversed(overrides) if override.startswith("seeds=")).split("=", 1)[1]
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"seeds={text} is not a whole number >= 1", where="the command line", fix="seeds=5")
    if any(override.startswith("seed=") for override in rest):
        raise UserError("seed= and seeds= at once", where="the command line", fix="one of the two")
    return list(range(int(text))), rest


def _one(row: Row, overrides: Sequence[str], places: Places, *, dry: bool, timed: bool, runs: int) -> int:
    """One seed: budget, training, certificates."""
    from certtrain.reporting import terminal

    training, certifying = split_overrides([f"experiment={row.experiment}", *overrides])
    training, certifying = [*places.arguments, *training], [*places.arguments, *certifying]
    config, _ = compose_train(training)
    run = RunDirectory(Path(config["runs_dir"]) / config["name"])
    console = terminal.console()
    result = (run.read_result() if run.result.exists() else None) or {}
    trained = bool(result.get("trained"))
    if dry or (timed and not (trained and _certified(result, row))):
        from certtrain.sessions.budget import budget_table, estimate

        console.print(f"{row.experiment}: {row.data}, {row.network}; run directory {run.path}", highlight=False)
        done = result.get("steps", 0) if trained else _steps_done(run)
        budget = estimate(config, compose_certify(config, certifying), done)
        console.print(budget_table(budget))
        if runs > 1:
            console.print(f"{runs} seeds: {runs * budget.hours:,.2f} hours in all", highlight=False)
    if dry:
        return 0
    if not trained:
        status = run_hydra("train", train.prepare(training), train.run)
        if status:
            return status
    status = run_hydra("certify", certify.prepare([quoted("run", run.path), *certifying]), certify.run)
    if status >= INTERRUPTED:
        console.print("the same command goes on from here")
    return status


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those for training, and those for the certify stage; `data_dir` and `runs_dir` are for both."""
    training, certifying = [], []
    for override in overrides:
        key = override.lstrip("+~").split("=", 1)[0]
        (certifying if key.split(".")[0] in CERTIFY_ONLY else training).append(override)
        if key == "runs_dir":
            certifying.append(override)
    return training, certifying


def compose_train(overrides: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The resolved configuration of a run, and its overrides, without running it."""
    from hydra.core.hydra_config import HydraConfig

    found: list[tuple[dict[str, Any], list[str]]] = []
    call_hydra("train", overrides, lambda config: found.append(train.resolve(config, HydraConfig.get())))
    return found[0]


def compose_certify(config: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The resolved configuration of the certify stage of a run that need not exist yet."""
    given = {override.split("=", 1)[0] for override in overrides}
    found: list[dict[str, Any]] = []
    taken = certify.taken_over(config, given)
    call_hydra("certify", ["run=later", *taken, *overrides], lambda node: found.append(plain(node)))
    return found[0]


def _certified(result: dict[str, Any], row: Row) -> bool:
    return any(entry["certifier"] == row.verifiers[0] for entry in result.get("test", {}).values())


def _steps_done(run: RunDirectory) -> int:
    if not run.last.exists():
        return 0
    from certtrain.training.checkpoints import read_checkpoint

    return int(read_checkpoint(run.last)["global_step"])


def _compare(paper: Paper, row: Row, overrides: Sequence[str]) -> int:
    from certtrain.cli.table import report
    from certtrain.reporting import terminal
    from certtrain.reporting.collected import collect
    from certtrain.reporting.comparison import compare
    from certtrain.reporting.paper_tables import rich_tables

    given = given_values(overrides)
    collection = collect([given.get("runs_dir", "runs")])
    lines = [line for line in compare(paper, collection) if line.row.name == row.name]
    terminal.console().print(rich_tables([(paper, lines)]))
    return report(collection)
