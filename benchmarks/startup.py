"""Seconds from the shell to the answer of each command, and to the first training step.

    python -m benchmarks.startup [--quick] [--repetitions N] [--output FILE.json]

Each command runs in a process of its own, from a fresh folder; wall time, with the compiled Python files in place. The
first step is that of `experiment=quickstart`: imports, data, network, trace of the bound engine, Trainer.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.command import parse
from benchmarks.results import write_result

ROOT = Path(__file__).resolve().parents[1]
# Seconds that each may take on two cores; None: no goal.
GOALS: dict[str, tuple[tuple[str, ...], float | None]] = {
    "--help": (("--help",), 0.7),
    "train --help": (("train", "--help"), 0.7),
    "train --cfg job": (("train", "experiment=quickstart", "--cfg", "job"), 0.7),
    "certify --help": (("certify", "--help"), 0.7),
    "a typo": (("trian",), 0.7),
    "audit of all committed results": (("audit", *map(str, sorted(ROOT.glob("experiments/*/results/*")))), None),
    "table": (("table", str(ROOT / "experiments" / "zhang2020")), None),
    "first training step": ((), 12.0),
}
# Ends the process when training asks for the first step.
FIRST_STEP = """
import os, sys
from certtrain import cli
from certtrain.training.module import CertifiedTraining
CertifiedTraining.training_step = lambda *arguments: os._exit(0)
sys.exit(cli.main(["train", "experiment=quickstart"]))
"""


def seconds(arguments: Sequence[str], folder: str) -> float:
    """One run."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = ["-m", "certtrain", *arguments] if arguments else ["-c", FIRST_STEP]
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, check=False)
    return time.perf_counter() - start


def measure(repetitions: int) -> list[dict[str, Any]]:
    """Every command in turn, after one round that is not counted."""
    found: dict[str, list[float]] = {name: [] for name in GOALS}
    for repetition in range(repetitions + 1):
        for name, (arguments, _) in GOALS.items():
            with tempfile.TemporaryDirectory() as folder:
                took = seconds(arguments, folder)
            if repetition:
                found[name].append(took)
    return [{"name": name, "seconds": found[name], "goal": goal} for name, (_, goal) in GOALS.items()]


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """All commands, medians and ranges."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column("certtrain ...", no_wrap=True)
    for name in ("seconds", "range", "goal"):
        shown.add_column(name, justify="right")
    for row in rows:
        values = row["seconds"]
        goal = "" if row["goal"] is None else f"{row['goal']:g}"
        spread = f"{min(values):.2f}-{max(values):.2f}"
        shown.add_row(row["name"], f"{statistics.median(values):.2f}", spread, goal)
    return shown


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    arguments = parse("startup", __doc__, argv, quick="each once", repetitions=(5, 1))
    if arguments is None:
        return 2
    repetitions = arguments.repetitions
    console = Console(width=100)
    rows = measure(repetitions)
    console.print(table(rows), highlight=False)
    if arguments.writes:
        path = write_result("startup", {"repetitions": repetitions, "rows": rows}, arguments.output)
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
