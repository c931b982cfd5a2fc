"""Cost of single pieces, to choose their constants by: keyed noise, the interval ReLU, the optimiser, the allocator.

    python -m benchmarks.pieces [--quick] [--only noise] [--output FILE.json]

noise       512 rows of keyed noise for MNIST images, compiled, and by tensor operations with their counters per pass;
            torch.randn beside them
relu        forward and backward of the interval ReLU on 256 x 16 x 14 x 14, compiled, and by tensor operations with
            their elements per chunk; three plain ReLUs
optimiser   Adam's step with random gradients on each network of `benchmarks.training`, torch's default and fused
allocator   LeNet's forward pass on 512 images, each in a process of its own: freed memory kept, or glibc's default
"""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.command import clock_name, parse, setting
from benchmarks.measure import interleaved
from benchmarks.results import write_result
from benchmarks.training import CASES
from certtrain.kernels import noise, relu
from certtrain.randomness import key

Row = dict[str, Any]
CPU = torch.device("cpu")
ROWS, SHAPE = 512, (1, 28, 28)
FORWARD = """
import sys, time, torch
from certtrain.system.allocator import keep_freed_memory
from certtrain.models import lenet
kept = keep_freed_memory()
torch.set_num_threads(int(sys.argv[1]))
network = lenet((1, 28, 28), 10, [0.0], [1.0]).eval().to(memory_format=torch.channels_last)
x, times = torch.rand(512, 1, 28, 28), []
with torch.no_grad():
    for _ in range(10):
        start = time.process_time()
        network(x)
        times.append(time.process_time() - start)
print(kept, sorted(times[2:])[4])
"""


def noise_rows(repetitions: int, threads: int) -> list[Row]:
    """Microseconds per image."""
    index, draw = torch.arange(ROWS) // 32, torch.arange(ROWS) % 32
    args = (key(0, "noise", "selftest", "test"), index, draw, math.prod(SHAPE) // 4, 0.5)

    def ours(chunk: int) -> Callable[[], object]:
        def run() -> None:
            before, noise.CPU_CHUNK = noise.CPU_CHUNK, 1 << chunk
            noise.rows_by_tensors(*args)
            noise.CPU_CHUNK = before

        return run

    runs = {f"keyed noise, 2^{chunk} counters a pass": ours(chunk) for chunk in range(13, 19)}
    if (compiled := noise.LOOPS.get()) is not None:
        runs["keyed noise, compiled"] = lambda: compiled.rows(*args)
    runs["torch.randn"] = lambda: torch.randn(ROWS, *SHAPE)
    return _rows("noise", runs, repetitions, 1e6 / ROWS, "us per image")


def relu_rows(repetitions: int, threads: int) -> list[Row]:
    """Milliseconds forward and backward."""
    draw = torch.Generator().manual_seed(0)
    shape = (256, 16, 14, 14)
    boxes = [torch.rand(shape, generator=draw).sub_(0.5).requires_grad_() for _ in range(3)]
    grads = [torch.randn(shape, generator=draw) for _ in boxes]

    def interval() -> None:
        torch.autograd.grad(relu.IntervalRelu.apply(*boxes)[:3], boxes, grads)

    def tensors(chunk: int) -> Callable[[], object]:
        def run() -> None:
            before, relu._CACHED = relu._CACHED, 1 << chunk
            with relu.LOOPS.instead(None):
                interval()
            relu._CACHED = before

        return run

    def plain() -> None:
        torch.autograd.grad([part.relu() for part in boxes], boxes, grads)

    runs: dict[str, Callable[[], object]] = {
        f"interval ReLU, 2^{chunk} elements a chunk": tensors(chunk) for chunk in (13, 14, 15, 16, 17, 18, 19, 22)
    }
    if relu.LOOPS.get() is not None:
        runs["interval ReLU, compiled"] = interval
    return _rows("relu", {**runs, "three plain ReLUs": plain}, repetitions, 1e3, "ms")


def optimiser_rows(repetitions: int, threads: int) -> list[Row]:
    """Milliseconds a step."""
    runs: dict[str, Callable[[], object]] = {}
    for name, case in CASES.items():
        for how in (None, True):
            weights = list(case.build().parameters())
            for weight in weights:
                weight.grad = torch.randn_like(weight)
            runs[f"Adam on {name}{', fused' if how else ''}"] = torch.optim.Adam(weights, fused=how).step
    return _rows("optimiser", runs, repetitions, 1e3, "ms")


def allocator_rows(repetitions: int, threads: int) -> list[Row]:
    """Images per second, of processes in turn."""
    found: dict[str, list[float]] = {"freed memory kept": [], "glibc's default": []}
    for _ in range(max(1, repetitions // 3)):
        for name, more in zip(found, ({}, {"MALLOC_ARENA_MAX": "64"})):  # a setting of the user's own is left alone
            environment = {**os.environ, **more, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
            command = [sys.executable, "-c", FORWARD, str(threads)]
            text = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
            kept, seconds = text.split()
            if (kept == "True") != (not more):
                return []  # another C library: there is nothing to compare
            found[name].append(512 / float(seconds))
    return [
        {
            "section": "allocator",
            "name": f"LeNet forward, {name}",
            "value": statistics.median(values),
            "unit": "images/s",
        }
        for name, values in found.items()
    ]


SECTIONS: dict[str, Callable[[int, int], list[Row]]] = {
    "noise": noise_rows,
    "relu": relu_rows,
    "optimiser": optimiser_rows,
    "allocator": allocator_rows,
}


def _rows(section: str, runs: dict[str, Callable[[], object]], repetitions: int, scale: float, unit: str) -> list[Row]:
    timings = interleaved(runs, repetitions, device=CPU)
    return [{"section": section, "name": n, "value": scale * t.median, "unit": unit} for n, t in timings.items()]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    arguments = parse("pieces", __doc__, argv, quick="does it run?", repetitions=(15, 2), only=SECTIONS)
    if arguments is None:
        return 2
    rows: list[Row] = []
    for name in arguments.only or SECTIONS:
        rows += SECTIONS[name](arguments.repetitions, arguments.threads)
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column("piece", no_wrap=True)
    shown.add_column("median", justify="right")
    shown.add_column("unit")
    for row in rows:
        shown.add_row(
            row["name"], f"{row['value']:,.4g}" if row["value"] < 1000 else f"{row['value']:,.0f}", row["unit"]
        )
    console = Console(width=100)
    console.print(shown, highlight=False)
    console.print(f"cpu, threads: {arguments.threads}, {clock_name(CPU)} time, medians", highlight=False)
    if arguments.writes:
        path = write_result("pieces", {**setting(arguments, CPU), "rows": rows}, arguments.output)
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
