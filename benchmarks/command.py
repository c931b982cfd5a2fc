"""The command line that all benchmarks share: options, their checks, the thread count, freed memory kept."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from pathlib import Path
from time import process_time

import torch
from rich.console import Console

from benchmarks.measure import clock
from certtrain.errors import UserError, nearest
from certtrain.system.allocator import keep_freed_memory


def parse(
    name: str,
    doc: str | None,
    argv: Sequence[str] | None,
    *,
    quick: str,
    repetitions: tuple[int, int],
    only: Collection[str] = (),
) -> argparse.Namespace | None:
    """The checked options; torch has its threads, and this process keeps freed memory as every command does.

    Args:
        name: of the benchmark's module.
        doc: its docstring.
        argv: what was written; None for the process' own.
        quick: what `--quick` does.
        repetitions: of each contender by default, and with `--quick`.
        only: what `--only` may name; without any there is no such option.

    Returns:
        `quick, only, repetitions, threads, output` and `kept`, whether freed memory is kept; None when an option was
        wrong, which has been said.
    """
    summary, _, rest = (doc or "").partition("\n")
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(f"python -m benchmarks.{name}", None, summary, rest, formatter_class=form)
    parser.add_argument("--quick", action="store_true", help=f"{quick}; nothing written")
    if only:
        parser.add_argument("--only", action="append", metavar="NAME", help=f"of {', '.join(only)}; may be repeated")
    parser.add_argument("--repetitions", type=int, help=f"of each contender (default: {repetitions[0]})")
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU (default: 1)")
    parser.add_argument("--output", type=Path, help=f"default: benchmarks/results/{name}.json; quick: none")
    arguments = parser.parse_args(argv)
    try:
        for chosen in (arguments.only or ()) if only else ():
            if chosen not in only:
                raise UserError(f"there is no {chosen!r}", where="--only", fix=nearest(chosen, only))
        for option in ("repetitions", "threads"):
            if (value := getattr(arguments, option)) is not None and value < 1:
                raise UserError(f"{value} {option}", where=f"--{option}", fix="at least 1")
    except UserError as error:
        Console(width=100).print(f"benchmarks.{name}: {error}", highlight=False)
        return None
    arguments.repetitions = arguments.repetitions or repetitions[arguments.quick]
    arguments.writes = bool(arguments.output) or not arguments.quick
    torch.set_num_threads(arguments.threads)
    arguments.kept = keep_freed_memory()
    return arguments


def setting(arguments: argparse.Namespace, device: torch.device) -> dict[str, object]:
    """What a result file says about how it was measured."""
    found = {"device": str(device), "threads": arguments.threads, "repetitions": arguments.repetitions}
    return {**found, "clock": f"{clock_name(device)} time", "freed_memory_kept": arguments.kept}


def clock_name(device: torch.device) -> str:
    """`processor` or `wall`: what `measure.clock` reads there."""
    return "processor" if clock(device) is process_time else "wall"
