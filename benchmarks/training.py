"""Cost of a training step, in ordinary steps of the same network, our bound engine beside the field's library.

    python -m benchmarks.training [--quick] [--only small] [--threads N] [--output FILE.json]

small     MNIST conv16-conv32-fc100 (166k parameters), batch 256
resnet    CIFAR-10 residual network of two blocks (483k parameters), batch 64
cnn7      CIFAR-10 CNN7 with BatchNorm (17M parameters), batch 32 on a CPU, 512 on an accelerator
classes10, classes100, classes200, classes1000
          32 x 32 colour images of so many classes, conv16-conv32-fc100, batch 64

A step is objective, backward pass and fused Adam. The ordinary one is the cross-entropy of unperturbed inputs. Bounds
are at half the radius with kappa = beta = 1/2, the middle of a ramp, where CROWN-IBP needs all its passes; "kappa 0" is
the recipe that leaves the clean loss out, as do all that attack. On an accelerator ours are measured compiled, too
(mode reduce-overhead).
Memory is what the process grew by in one step, in a process of its own (on an accelerator: what the allocator held at
most).
"""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.command import clock_name, parse, setting
from benchmarks.measure import Timing, interleaved, ratios
from benchmarks.results import write_result
from certtrain.bounds import NativeEngine
from certtrain.certification.examples import accelerator
from certtrain.data.batch import Batch
from certtrain.errors import UserError
from certtrain.methods import IBP, CrownIBP, Gaussian, Method, Ramp, Standard, Streams, Weight
from certtrain.methods.cc_ibp import CCIBP
from certtrain.methods.compiled import Compiled
from certtrain.methods.exp_ibp import ExpIBP
from certtrain.methods.inner_attack import InnerAttack
from certtrain.methods.mtl_ibp import MTLIBP
from certtrain.methods.pgd import PGD
from certtrain.methods.sabr import SABR
from certtrain.methods.staps import STAPS
from certtrain.methods.taps import TAPS
from certtrain.methods.trades import TRADES
from certtrain.models import cnn7, resnet_small, wong_small

HALF = {"ramp": Ramp(0, 2), "kappa": Weight(0.5, 0.5)}
MIXED = {"ramp": Ramp(0, 2), "kappa": Weight(0.0, 0.0)}  # of attacks and bounds, as published: no clean loss
CORNER = InnerAttack(steps=1, step_size=10.0, keep_best=False)  # of De Palma et al. (2024)
MIDDLE = 1  # the step in the middle of that ramp
BOUNDED = ("ordinary", "ibp", "crown_ibp fused", "crown_ibp")
ATTACKED = ("taps", "staps", "sabr", "mtl_ibp", "cc_ibp", "exp_ibp", "pgd", "trades")
Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A network and the batch it is trained with.

    Attributes:
        classes: of the network.
        takes: whether a contender, by name, is measured on it.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    eps: float
    batch: int
    accelerator_batch: int
    classes: int = 10
    takes: Callable[[str], bool] = lambda name: True


def _network(build: Callable[..., nn.Module], shape: tuple[int, ...], classes: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return build(shape, classes, [0.5] * shape[0], [0.25] * shape[0])


def _attacks_nothing(name: str) -> bool:
    return not name.startswith(ATTACKED)


def _many_classes(classes: int) -> Case:
    build = partial(_network, wong_small, CIFAR, classes)
    return Case(build, CIFAR, 8 / 255, 64, 256, classes, BOUNDED.__contains__)


MNIST, CIFAR = (1, 28, 28), (3, 32, 32)
CASES = {
    "small": Case(partial(_network, wong_small, MNIST), MNIST, 0.3, 256, 256),
    "resnet": Case(partial(_network, resnet_small, CIFAR), CIFAR, 8 / 255, 64, 256, takes=_attacks_nothing),
    "cnn7": Case(partial(_network, cnn7, CIFAR), CIFAR, 8 / 255, 32, 512, takes=_attacks_nothing),
    **{f"classes{classes}": _many_classes(classes) for classes in (10, 100, 200, 1000)},
}


def methods(eps: float) -> dict[str, tuple[Method, str | None]]:
    """The contenders: a method and the engine it takes its bounds from."""
    ibp, robust = IBP(eps, **HALF), IBP(eps, HALF["ramp"], kappa=Weight(0.0, 0.0))  # type: ignore[arg-type]
    unfused, fused = (CrownIBP(eps, **HALF, beta=Weight(0.5, 0.5), loss_fusion=f) for f in (False, True))  # type: ignore[arg-type]
    return {
        "ordinary": (Standard(), None),
        "gaussian": (Gaussian(0.25), None),
        "ibp": (ibp, "native"),
        "ibp, auto_LiRPA": (ibp, "auto_lirpa"),
        "ibp kappa 0": (robust, "native"),
        "taps": (TAPS(eps, **HALF, ibp_ramp=False), "native"),  # type: ignore[arg-type]
        "staps": (STAPS(eps, **HALF, ibp_ramp=False), "native"),  # type: ignore[arg-type]
        "crown_ibp fused": (fused, "native"),
        "crown_ibp fused, auto_LiRPA": (fused, "auto_lirpa"),
        "crown_ibp": (unfused, "native"),
        "sabr 8 steps": (SABR(eps, **MIXED), "native"),  # type: ignore[arg-type]
        "mtl_ibp 1 step": (MTLIBP(eps, **MIXED, attack=CORNER), "native"),  # type: ignore[arg-type]
        "cc_ibp 1 step": (CCIBP(eps, **MIXED, attack=CORNER), "native"),  # type: ignore[arg-type]
        "exp_ibp 1 step": (ExpIBP(eps, **MIXED, attack=CORNER), "native"),  # type: ignore[arg-type]
        "pgd 8 steps": (PGD(eps, **MIXED), None),  # type: ignore[arg-type]
        "trades 8 steps": (TRADES(eps, **MIXED), None),  # type: ignore[arg-type]
        "crown_ibp, auto_LiRPA": (unfused, "auto_lirpa"),
    }


def contenders(case: Case, device: torch.device) -> dict[str, tuple[Method | Compiled, str | None]]:
    """`methods`, and on an accelerator those of our own compiled, too."""
    plain = {name: one for name, one in methods(case.eps).items() if case.takes(name)}
    found: dict[str, tuple[Method | Compiled, str | None]] = {**plain}
    if device.type != "cpu":
        for name, (method, engine) in plain.items():
            if engine != "auto_lirpa":
                found[f"{name}, compiled"] = Compiled(method, case.accelerator_batch, "reduce-overhead"), engine
    return found


def stepper(case: Case, method: Method | Compiled, engine: str | None, device: torch.device) -> Callable[[], Tensor]:
    """A function that takes one training step and gives its loss.

    Raises:
        UserError: the engine cannot bound the network.
    """
    network = case.build().to(device).train()
    size = case.batch if device.type == "cpu" else case.accelerator_batch
    draw = torch.Generator().manual_seed(1)
    x, y = torch.rand(size, *case.shape, generator=draw), torch.randint(0, case.classes, (size,), generator=draw)
    batch = Batch(x.to(device), y.to(device), torch.arange(size, device=device))
    made = None
    if engine == "native":
        made = NativeEngine(network)
    elif engine:
        from certtrain.bounds.auto_lirpa import AutoLirpaEngine

        made = AutoLirpaEngine(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = method(network, made, batch, MIDDLE, Streams(0)).loss
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def peak_memory(case: Case, name: str, device: torch.device) -> float | None:
    """MiB that two steps add to the process; None where that cannot be told."""
    if device.type == "cuda":
        step = stepper(case, *methods(case.eps)[name], device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return torch.cuda.max_memory_allocated(device) / 2**20
    if device.type != "cpu" or "fork" not in multiprocessing.get_all_start_methods():
        return None
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=_grown, args=(case, name, device, send))
    child.start()
    child.join()
    return receive.recv() if receive.poll() else None


def _grown(case: Case, name: str, device: torch.device, send: Any) -> None:
    step = stepper(case, *methods(case.eps)[name], device)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    step()
    send.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def measure(name: str, repetitions: int, device: torch.device, memory: bool) -> list[Row]:
    """All contenders on one network, in turn."""
    case = CASES[name]
    steps, refused, peaks = {}, {}, {}
    for contender, (method, engine) in contenders(case, device).items():
        try:
            steps[contender] = stepper(case, method, engine, device)
            steps[contender]()
        except UserError as error:
            refused[contender] = str(error)
            steps.pop(contender, None)
        else:
            # To compile once more would take as long as all the rest.
            told = memory and not contender.endswith(", compiled")
            peaks[contender] = peak_memory(case, contender, device) if told else None
    timings = interleaved(steps, repetitions, device=device)
    rows = [row(name, contender, timings, peaks[contender]) for contender in steps]
    return rows + [{"network": name, "name": contender, "refused": text} for contender, text in refused.items()]


def row(network: str, contender: str, timings: dict[str, Timing], peak: float | None) -> Row:
    """Seconds, and the ratio to the ordinary step and to auto_LiRPA within repetitions."""
    found: Row = {"network": network, "name": contender, "seconds": timings[contender].to_dict(), "peak_mib": peak}
    found["ordinary_steps"] = ratios(timings, contender, "ordinary")
    peer = f"{contender}, auto_LiRPA"
    if peer in timings:
        found["faster_than_auto_lirpa"] = ratios(timings, peer, contender)
    return found


def table(rows: Sequence[Row]) -> Table:
    """All rows, within 100 columns."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("network", "step"):
        shown.add_column(name, no_wrap=True)
    for name in ("ms", "ordinary steps", "range", "auto_LiRPA takes", "memory, MiB"):
        shown.add_column(name, justify="right")
    for one in rows:
        if "refused" in one:
            shown.add_row(one["network"], one["name"], "refused", "", "", "", "")
            continue
        ratio, peer = one["ordinary_steps"], one.get("faster_than_auto_lirpa")
        shown.add_row(
            *(one["network"], one["name"], f"{1000 * one['seconds']['median']:,.1f}", f"{ratio['median']:.2f}"),
            *(f"{ratio['min']:.2f}-{ratio['max']:.2f}", f"{peer['median']:.2f}x" if peer else ""),
            "" if one["peak_mib"] is None else f"{one['peak_mib']:,.0f}",
        )
    return shown


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    quick = "the small network alone, no memory"
    arguments = parse("training", __doc__, argv, quick=quick, repetitions=(11, 3), only=CASES)
    if arguments is None:
        return 2
    console = Console(width=100)
    device, repetitions = accelerator(), arguments.repetitions
    rows = []
    for name in arguments.only or (["small"] if arguments.quick else CASES):
        rows += measure(name, repetitions, device, memory=not arguments.quick)
    console.print(table(rows), highlight=False)
    console.print(
        f"{device}, threads: {arguments.threads}, {clock_name(device)} time; medians of {repetitions} interleaved "
        "repetitions, ratios within repetitions",
        highlight=False,
    )
    if arguments.writes:
        path = write_result("training", {**setting(arguments, device), "rows": rows}, arguments.output)
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
