"""All benchmarks one after the other: `python -m benchmarks [--quick]`.

`--quick` takes under two minutes, writes nothing and says whether everything runs; without it each benchmark writes its
file to `benchmarks/results/`. `python -m benchmarks.NAME --help` says what one measures.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.console import Console

from benchmarks import certification, epoch, pieces, startup, training


def main(argv: Sequence[str] | None = None) -> int:
    """Run them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="does everything run? under two minutes")
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU (default: 1)")
    arguments = parser.parse_args(argv)
    common = [*(["--quick"] if arguments.quick else []), "--threads", str(arguments.threads)]
    console, status = Console(width=100), 0
    for module in (training, epoch, certification, pieces):
        console.rule(module.__name__)
        status = max(status, module.main(common))
    console.rule(startup.__name__)
    return max(status, startup.main(["--quick"] if arguments.quick else []))


if __name__ == "__main__":
    raise SystemExit(main())
