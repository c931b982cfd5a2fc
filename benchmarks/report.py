"""The results as Markdown, between the markers of `benchmarks/README.md`: `python -m benchmarks.report [--check]`."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import RESULTS
from certtrain.system.files import write_text_atomic

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- begin: python -m benchmarks.report -->\n", "<!-- end: python -m benchmarks.report -->"
NETWORKS = {
    "small": "`small`: MNIST conv16-conv32-fc100, batch 256",
    "resnet": "`resnet`: CIFAR-10, two residual blocks, batch 64",
    "cnn7": "`cnn7`: CIFAR-10, CNN7 with BatchNorm, batch 32",
}
STEPS = {
    "gaussian": "Gaussian",
    "ibp": "IBP",
    "ibp kappa 0": "IBP, kappa 0",
    "crown_ibp fused": "CROWN-IBP, fused",
    "crown_ibp": "CROWN-IBP",
}
ATTACKED = {
    "sabr 8 steps": "SABR, 8 PGD steps",
    "taps": "TAPS, split before fc100, 10 latent steps",
    "staps": "STAPS, 8 PGD steps beside",
    "mtl_ibp 1 step": "MTL-IBP, 1 PGD step",
    "cc_ibp 1 step": "CC-IBP, 1 PGD step",
    "exp_ibp 1 step": "Exp-IBP, 1 PGD step",
    "pgd 8 steps": "PGD, 8 steps",
    "trades 8 steps": "TRADES, 8 PGD steps",
}
CLASSES = ("10", "100", "200", "1000")
BOUNDED = {"ibp": "IBP", "crown_ibp fused": "CROWN-IBP, fused", "crown_ibp": "CROWN-IBP"}


def read(name: str) -> Any:
    """A result file."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def training() -> str:
    """Ordinary steps per step, and how many times as long auto_LiRPA takes."""
    rows = _rows("training")

    def cell(network: str, step: str) -> str:
        row = rows[network, step]
        peer = row.get("faster_than_auto_lirpa")
        return f"{row['ordinary_steps']['median']:.2f}" + (f" ({peer['median']:.2f}x)" if peer else "")

    found = [[title, *(cell(network, step) for step in STEPS)] for network, title in NETWORKS.items()]
    fused, unfused = (rows["small", name]["seconds"]["median"] for name in ("crown_ibp fused", "crown_ibp, auto_LiRPA"))
    return (
        "**A training step**, in ordinary steps of the same network (in brackets: how many times as long auto_LiRPA "
        f"takes)\n\n{table(['network', *STEPS.values()], found)}\n"
        f"With loss fusion a step of `small` takes {unfused / fused:.1f} times less than auto_LiRPA's without.\n"
    )


def attacks_and_classes() -> str:
    """Ordinary steps of what attacks, and of bounds where there are many classes."""
    rows = _rows("attacks_and_classes")
    attacked = [_steps(rows["small", name], title) for name, title in ATTACKED.items()]
    classes = [
        [number, *(f"{rows[f'classes{number}', step]['ordinary_steps']['median']:.2f}" for step in BOUNDED)]
        for number in CLASSES
    ]
    return (
        "**Attacks and bounds** on `small`, in ordinary steps\n\n"
        + table(["step", "ordinary steps", "range"], attacked)
        + "\n**Many classes**, in ordinary steps: 32 x 32 colour images, conv16-conv32-fc100, batch 64\n\n"
        + table(["classes", *BOUNDED.values()], classes)
    )


def _rows(name: str) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["network"], row["name"]): row for row in read(name)["rows"]}


def _steps(row: dict[str, Any], title: str) -> list[str]:
    ratio = row["ordinary_steps"]
    return [title, f"{ratio['median']:.2f}", _spread(ratio)]


def epoch() -> str:
    """An epoch against a plain loop."""
    found = read("epoch")
    ratio = found["ratio"]
    return (
        f"**An epoch** of ordinary training ({found['images']:,} images) takes {ratio['median']:.2f} times as long as "
        f"a plain loop over a DataLoader ({ratio['min']:.2f}-{ratio['max']:.2f}).\n"
    )


def certification() -> str:
    """Votes against forward passes, certificates against the loop of the field, one image."""
    rows = read("certification")["rows"]
    throughput = [
        [row["name"], f"{row['ours']['rate']:,.0f}", f"{row['ratio']['median']:.2f}", _spread(row["ratio"])]
        for row in rows
        if row["section"] == "throughput"
    ]
    loops = [f"{r['ratio']['median']:.2f} ({r['name']})" for r in rows if r["section"] == "field_loop"]
    latency = [row for row in rows if row["section"] == "latency"]
    times = [f"{row['name'].removeprefix('certify ')} {_ms(row['ours'])}" for row in latency]
    return (
        "**Smoothing**: votes per second, and as a fraction of the network's bare forward pass on as many rows\n\n"
        f"{table(['network', 'votes/s', 'fraction', 'range'], throughput)}\n"
        "Certificates per second, against a loop over single images with torch's own noise (LeNet, equal n0, n "
        f"and alpha): {', '.join(loops)} times as many. One image (LeNet), certified with {', '.join(times)}; "
        f"{latency[0]['peer']['name']}: {_ms(latency[0]['peer'])}.\n"
    )


def pieces() -> str:
    """What the constants of noise, interval ReLU and allocator were chosen by."""
    cells = [[row["name"], f"{row['value']:,.2f}", row["unit"]] for row in read("pieces")["rows"]]
    return f"**Pieces**\n\n{table(['piece', 'median', 'unit'], cells)}"


def draws() -> str:
    """Anytime certificates beside those of a fixed n."""

    def line(one: dict[str, Any]) -> list[str]:
        targets = [row for row in one["by_target"] if row["target"] != "0"]
        fixed, anytime = (", ".join(f"{100 * row[key]:.2f}" for row in targets) for key in ("fixed", "anytime"))
        names = ", ".join(row["target"] for row in targets)
        return [names, f"{one['mean_draws']:,.0f}", f"{one['fewer']:.1f}x", fixed, anytime]

    found = read("draws")
    header = ["targets", "draws per image", "fewer", "certified, fixed n (%)", "certified, anytime (%)"]
    return (
        f"**Draws** of anytime certificates against n = {found[0]['n']:,} (MNIST LeNet, sigma 0.5, alpha 0.001, "
        f"{found[0]['examples']} test images)\n\n{table(header, map(line, found))}"
    )


def startup() -> str:
    """Seconds of each command."""
    rows = read("startup")["rows"]
    cells = [[row["name"], f"{statistics.median(row['seconds']):.2f}", f"{row['goal'] or '':}"] for row in rows]
    return f"**Start-up**\n\n{table(['certtrain ...', 'seconds', 'goal'], cells)}"


def block() -> str:
    """All of it."""
    return "\n".join((training(), attacks_and_classes(), epoch(), certification(), draws(), startup(), pieces()))


def _spread(ratio: dict[str, float]) -> str:
    return f"{ratio['min']:.2f}-{ratio['max']:.2f}"


def _ms(side: dict[str, Any]) -> str:
    return f"{1000 * side['seconds']['median']:,.0f} ms"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the block, or say whether it is that of the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 when the README differs")
    arguments = parser.parse_args(argv)
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    new = f"{before}{BEGIN}\n{block()}\n{END}{rest.partition(END)[2]}"
    if arguments.check:
        print("benchmarks/README.md is up to date" if new == text else "benchmarks/README.md differs from the results")
        return int(new != text)
    write_text_atomic(README, new)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
