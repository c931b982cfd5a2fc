"""Cost of certification, each row against a peer or the limit, in one run.

    python -m benchmarks.certification [--quick] [--only throughput] [--output FILE.json]

throughput   votes per second through SmoothedClassifier, as a fraction of the network's bare forward pass on the same
             batch in the same arithmetic: what keyed noise, counting and near-ties leave of it
field_loop   certificates per second, against a loop over single images with noise of torch's generator
latency      one image: a prediction, and certificates of more and more draws

A section is a function of `Options` that gives rows; add one to SECTIONS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.command import clock_name, parse, setting
from benchmarks.field_loop import certify_one
from benchmarks.measure import Timing, interleaved, ratios
from benchmarks.results import write_result
from certtrain.certification.examples import accelerator
from certtrain.models import cifar_resnet20, lenet
from certtrain.models.evaluation import frozen
from certtrain.smoothing.classifier import SmoothedClassifier
from certtrain.smoothing.votes import Precision

SIGMA, ALPHA, N0, CLASSES = 0.5, 0.001, 100, 10
SHAPE, CIFAR_SHAPE = (1, 28, 28), (3, 32, 32)
Row = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """What all sections share.

    Attributes:
        device: where everything runs.
        repetitions: of each contender, after one for warming up.
        scale: 1, or less for a quick look: a factor of the amount of work.
    """

    device: torch.device
    repetitions: int = 9
    scale: float = 1.0

    def of(self, amount: int) -> int:
        return max(1, round(self.scale * amount))


def network(options: Options, *, channels_last: bool = True, shape: tuple[int, ...] = SHAPE) -> nn.Module:
    """The MNIST LeNet, or for CIFAR-10's shape ResNet-20, with random weights, which cost what trained ones cost."""
    torch.manual_seed(0)
    build = lenet if shape == SHAPE else cifar_resnet20
    made = build(shape, CLASSES, [0.0] * shape[0], [1.0] * shape[0]).eval().to(options.device)
    return made.to(memory_format=torch.channels_last) if channels_last else made


def images(options: Options, count: int, shape: tuple[int, ...] = SHAPE) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and their positions."""
    draw = torch.Generator().manual_seed(0)
    return torch.rand(count, *shape, generator=draw).to(options.device), torch.arange(count, device=options.device)


def row(section: str, name: str, timings: dict[str, Timing], work: int, unit: str, ours: str, peer: str) -> Row:
    """One line of the result: rates from medians; the ratio of rates, ours over the peer's, within repetitions."""
    return {
        "section": section,
        "name": name,
        "work": work,
        "unit": unit,
        "ours": {"name": ours, "rate": work / timings[ours].median, "seconds": timings[ours].to_dict()},
        "peer": {"name": peer, "rate": work / timings[peer].median, "seconds": timings[peer].to_dict()},
        "ratio": ratios(timings, peer, ours),
    }


def throughput(options: Options) -> list[Row]:
    """Votes through SmoothedClassifier over bare forward passes of the same rows: goal >= 0.9."""
    rows = []
    cpu = options.device.type == "cpu"
    cases: tuple[tuple[str, tuple[int, ...], int, Precision], ...] = (
        ("LeNet", SHAPE, 512 if cpu else 4096, "float32"),
        ("LeNet", SHAPE, 512 if cpu else 4096, "bfloat16"),
        ("ResNet-20", CIFAR_SHAPE, 64 if cpu else 4096, "float32"),
        ("ResNet-20", CIFAR_SHAPE, 64 if cpu else 4096, "bfloat16"),
    )
    for architecture, shape, batch, precision in cases:
        made = network(options, shape=shape)
        classifier = SmoothedClassifier(made, SIGMA, CLASSES, batch_size=batch, precision=precision)
        x, index = images(options, 16, shape)
        draws = options.of(16 * batch) // 16
        work = 16 * draws
        inputs, _ = images(options, min(batch, work), shape)

        def bare(classifier: SmoothedClassifier = classifier, inputs: torch.Tensor = inputs, work: int = work) -> None:
            cast = torch.autocast(options.device.type, dtype=torch.bfloat16, enabled=classifier.precision != "float32")
            with frozen(classifier.network), torch.no_grad(), cast:
                for start in range(0, work, len(inputs)):
                    classifier.network(inputs[: work - start])

        votes = partial(classifier.votes, x, index, range(draws), seed=0, purpose="estimate", split="test")
        timings = interleaved({"votes": votes, "forward": bare}, options.repetitions, device=options.device)
        name = f"{architecture} {precision}, batch {batch}"
        rows.append(row("throughput", name, timings, work, "rows", "votes", "forward"))
    return rows


def field_loop(options: Options) -> list[Row]:
    """Certificates of several images at once against the loop over images, at equal n0, n and alpha."""
    rows = []
    count, n = 2, options.of(10_000)
    x, index = images(options, count)
    classifier = SmoothedClassifier(network(options), SIGMA, CLASSES)
    plain = network(options, channels_last=False)
    for batch in (400, 1000):

        def theirs(batch: int = batch) -> None:
            for one in x:
                certify_one(plain, one, SIGMA, CLASSES, n0=N0, n=n, alpha=ALPHA, batch=batch)

        contenders = {"ours": lambda: classifier.certify(x, index, N0, n, ALPHA), "loop": theirs}
        timings = interleaved(contenders, options.repetitions, device=options.device)
        name = f"n {n:,}, loop's batch {batch}"
        rows.append(row("field_loop", name, timings, count, "images", "ours", "loop"))
    return rows


def latency(options: Options) -> list[Row]:
    """One image: certificates against the prediction of n = 1,000 draws."""
    x, index = images(options, 1)
    classifier = SmoothedClassifier(network(options), SIGMA, CLASSES)
    contenders: dict[str, Callable[[], object]] = {
        "predict": lambda: classifier.predict(x, index, n=options.of(1000), alpha=ALPHA)
    }
    for n in (1000, 10_000, 100_000):
        draws = options.of(n)
        contenders[f"certify {draws:,}"] = lambda draws=draws: classifier.certify(x, index, N0, draws, ALPHA)
    timings = interleaved(contenders, options.repetitions, device=options.device)
    peer = f"predict, n = {options.of(1000):,}"
    timings[peer] = timings.pop("predict")
    return [row("latency", f"{name} draws", timings, 1, "images", name, peer) for name in timings if name != peer]


SECTIONS: dict[str, Callable[[Options], list[Row]]] = {
    "throughput": throughput,
    "field_loop": field_loop,
    "latency": latency,
}


def table(rows: Sequence[Row]) -> Table:
    """All rows, within 100 columns: rates of the medians, and the ratio of rates with its range."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("section", "what"):
        shown.add_column(name, no_wrap=True)
    for name in ("ours", "peer", "ours, ms", "ratio", "range"):
        shown.add_column(name, justify="right")
    for one in rows:
        ours, peer, ratio = one["ours"], one["peer"], one["ratio"]
        rates = [f"{side['rate']:,.0f}/s" if side["rate"] >= 10 else f"{side['rate']:.2f}/s" for side in (ours, peer)]
        milliseconds = f"{1000 * ours['seconds']['median']:,.1f}"
        spread = f"{ratio['min']:.2g}-{ratio['max']:.2g}"
        shown.add_row(one["section"], one["name"], *rates, milliseconds, f"{ratio['median']:.3g}", spread)
    return shown


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    quick = "a fiftieth of the work: does it run?"
    arguments = parse("certification", __doc__, argv, quick=quick, repetitions=(9, 2), only=SECTIONS)
    if arguments is None:
        return 2
    console, repetitions = Console(width=100), arguments.repetitions
    options = Options(accelerator(), repetitions, 0.02 if arguments.quick else 1.0)
    rows = [one for name in arguments.only or SECTIONS for one in SECTIONS[name](options)]
    console.print(table(rows), highlight=False)
    console.print(
        f"sigma {SIGMA}, n0 {N0}, alpha {ALPHA}; {options.device}, threads: {arguments.threads}, "
        f"{clock_name(options.device)} time; medians of\n{repetitions} interleaved repetitions, ratios of rates within "
        "repetitions",
        highlight=False,
    )
    if arguments.writes:
        found = {**setting(arguments, options.device), "networks": "random weights", "rows": rows}
        path = write_result("certification", found, arguments.output)
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
