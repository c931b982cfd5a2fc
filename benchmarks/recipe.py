"""A whole recipe, projected from blocks of its steps: CNN7 on CIFAR-10 by fast IBP, 160 epochs (Shi et al. 2021).

    python -m benchmarks.recipe [--quick] [--only VARIANT] [--repetitions BLOCKS] [--output FILE.json]

Steps run as in `certtrain train`: 50,000 random images on the device, keyed order, random crops and flips there,
module, log, guard against NaN, Lightning's Trainer, gradients clipped at 10, batch 512. Each phase of the recipe is
timed for itself, in blocks after which the device is waited for, and counts as often as it comes: 1 epoch of warm-up,
80 of ramp, 79 after it. Beside it the ramp with fused CROWN-IBP. Operations are those of the layers (two for a
multiplication and an addition), counted without running them; the peak is NVIDIA's for dense products of the precision.

Variants: float32, tf32 (NVIDIA GPUs), each as it is and compiled (trainer.compile=reduce-overhead on an accelerator).
"""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.command import parse, setting
from benchmarks.measure import wait
from benchmarks.results import write_result
from certtrain.bounds import NativeEngine
from certtrain.certification.examples import accelerator
from certtrain.data.augment import Augment
from certtrain.data.batch import Batch
from certtrain.data.loader import TensorLoader
from certtrain.data.split import Split
from certtrain.methods import IBP, CrownIBP, Method, Ramp, ShiRegulariser, Streams, Weight
from certtrain.methods.compiled import Compiled, CompileMode
from certtrain.models import cnn7
from certtrain.models.evaluation import float32_products
from certtrain.training.callbacks.guard import FiniteGuard
from certtrain.training.callbacks.training_log import TrainingLog
from certtrain.training.fit import quiet_lightning
from certtrain.training.module import CertifiedTraining

EPS, SHAPE, CLASSES = 8 / 255, (3, 32, 32), 10
EPOCHS = {"ibp warm-up": 1, "ibp ramp": 80, "ibp after the ramp": 79}
FOREVER = 1 << 30
# Dense products, in 10^12 operations a second: NVIDIA's data sheets of the SXM modules.
PEAKS = {
    "H200": {"float32": 67.0, "tf32": 494.5},
    "H100": {"float32": 67.0, "tf32": 494.5},
    "A100": {"float32": 19.5, "tf32": 156.0},
}
Row = dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """How large everything is: the recipe's own on an accelerator, a sketch of it on a CPU."""

    images: int
    batch: int
    width: int
    linear: int
    block: int  # steps that are timed together
    untimed: int  # steps before them: memory, choice of kernels, compilation


WHOLE, SKETCH, QUICK = Scale(50_000, 512, 64, 512, 30, 12), Scale(2_000, 32, 16, 64, 5, 2), Scale(64, 8, 4, 8, 1, 1)


@dataclass(frozen=True)
class Variant:
    """How the steps are computed."""

    precision: str
    compile_mode: CompileMode | None

    @property
    def name(self) -> str:
        return self.precision + (", compiled" if self.compile_mode else "")


def variants(device: torch.device) -> dict[str, Variant]:
    """Those of this device, by name."""
    mode: CompileMode = "default" if device.type == "cpu" else "reduce-overhead"
    found = [
        Variant(p, m) for p in ("float32", "tf32") for m in (None, mode) if p == "float32" or device.type == "cuda"
    ]
    return {variant.name: variant for variant in found}


def phases() -> dict[str, Method]:
    """A method for each phase that is in it from the second step on."""
    options = {"kappa": Weight(0.0, 0.0), "regulariser": ShiRegulariser(0.5), "init": "ibp"}
    ramps = {"ibp warm-up": Ramp(FOREVER, 1), "ibp ramp": Ramp(0, FOREVER), "ibp after the ramp": Ramp(0, 0)}
    found: dict[str, Method] = {name: IBP(EPS, ramp, **options) for name, ramp in ramps.items()}  # type: ignore[arg-type]
    beta = Weight(0.5, 0.5)
    return {**found, "crown_ibp fused ramp": CrownIBP(EPS, ramps["ibp ramp"], beta=beta, loss_fusion=True, **options)}  # type: ignore[arg-type]


def network(scale: Scale) -> nn.Module:
    """The same one every time."""
    torch.manual_seed(0)
    return cnn7(SHAPE, CLASSES, [0.5] * 3, [0.25] * 3, width=scale.width, linear=scale.linear)


def operations(method: Method, scale: Scale) -> int:
    """Of the layers in one step, forward and back, on tensors without data."""
    body = network(scale).to("meta").train()
    x, y = torch.empty(scale.batch, *SHAPE, device="meta"), torch.empty(scale.batch, dtype=torch.int64, device="meta")
    with FlopCounterMode(display=False) as counted:
        method(body, NativeEngine(body), Batch(x, y, y), 1, Streams(0)).loss.backward()
    return counted.get_total_flops()


class Blocks(L.Callback):
    """Times blocks of steps."""

    def __init__(self, scale: Scale, device: torch.device) -> None:
        self.scale, self.device = scale, device
        self.seconds: list[float] = []
        self._start = 0.0

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        done = trainer.global_step - self.scale.untimed
        if done >= 0 and done % self.scale.block == 0:
            wait(self.device)
            if done:
                self.seconds.append((time.perf_counter() - self._start) / self.scale.block)
            self._start = time.perf_counter()


def time_phase(method: Method, variant: Variant, scale: Scale, blocks: int, split: Split, device: torch.device) -> Row:
    """Seconds of one step, median and range over blocks; peak memory where the device tells."""
    body = network(scale)
    method.initialise(body)

    def adam(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=5e-4, fused=True)

    compiled = Compiled(method, scale.batch, variant.compile_mode) if variant.compile_mode else None
    module = CertifiedTraining(body, method, NativeEngine(body), adam, lambda step: 1.0, compiled=compiled)
    timed = Blocks(scale, device)
    augment = Augment(crop_padding=2, fill="edge", flip=True)
    loader = TensorLoader(split, scale.batch, augment=augment, drop_last=True, device=device)
    trainer = L.Trainer(
        accelerator="cpu" if device.type == "cpu" else "auto",
        devices=1,
        max_steps=scale.untimed + blocks * scale.block,
        gradient_clip_val=10,
        logger=False,
        callbacks=[FiniteGuard(50), TrainingLog(50), timed],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with float32_products("tf32" if variant.precision == "tf32" else "ieee"):
        trainer.fit(module, loader)
    torch.compiler.reset()
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    return {
        "seconds": statistics.median(timed.seconds),
        "range": [min(timed.seconds), max(timed.seconds)],
        "blocks": len(timed.seconds),
        "peak_mib": peak,
    }


def measure(chosen: Sequence[Variant], scale: Scale, blocks: int, device: torch.device, console: Console) -> list[Row]:
    """Every phase by every variant, and what the recipe takes by it."""
    quiet_lightning()
    warnings.filterwarnings("ignore", message=".*no `val_dataloader`.*")
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(scale.images, *SHAPE, generator=draw)
    split = Split(x, torch.randint(0, CLASSES, (scale.images,), generator=draw), "train")
    found, rows = phases(), []
    counts = {name: operations(method, scale) for name, method in found.items()}
    name_of_device = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    peaks = next((peaks for name, peaks in PEAKS.items() if name in name_of_device), {})
    for variant in chosen:
        for name, method in found.items():
            begun = time.perf_counter()
            row = time_phase(method, variant, scale, blocks, split, device)
            rate = counts[name] / row["seconds"] / 1e12
            row |= {"variant": variant.name, "phase": name, "operations": counts[name], "tera_per_second": rate}
            row["of_peak"] = rate / peaks[variant.precision] if variant.precision in peaks else None
            row["whole_seconds"] = time.perf_counter() - begun
            rows.append(row)
            console.print(f"{variant.name}, {name}: {1000 * row['seconds']:.1f} ms a step", highlight=False)
    return rows


def minutes(rows: Sequence[Row], variant: str, steps_per_epoch: int) -> float:
    """What the recipe takes, from its phases."""
    seconds = {row["phase"]: row["seconds"] for row in rows if row["variant"] == variant}
    return sum(EPOCHS[phase] * steps_per_epoch * seconds[phase] for phase in EPOCHS) / 60


def table(rows: Sequence[Row], batch: int) -> Table:
    """All rows, within 100 columns."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("variant", "phase"):
        shown.add_column(name, no_wrap=True)
    for name in ("ms", "range", "images/s", "TFLOP/s", "of peak", "MiB"):
        shown.add_column(name, justify="right")
    for row in rows:
        low, high = (1000 * value for value in row["range"])
        shown.add_row(
            *(row["variant"], row["phase"], f"{1000 * row['seconds']:,.2f}", f"{low:,.2f}-{high:,.2f}"),
            *(f"{batch / row['seconds']:,.0f}", f"{row['tera_per_second']:.3g}"),
            "" if row["of_peak"] is None else f"{100 * row['of_peak']:.0f} %",
            "" if row["peak_mib"] is None else f"{row['peak_mib']:,.0f}",
        )
    return shown


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    device = accelerator()
    available = variants(device)
    quick = "a few steps of a tiny CNN7"
    arguments = parse("recipe", __doc__, argv, quick=quick, repetitions=(5, 1), only=available)
    if arguments is None:
        return 2
    scale = QUICK if arguments.quick else SKETCH if device.type == "cpu" else WHOLE
    names = arguments.only or [name for name in available if not (arguments.quick and available[name].compile_mode)]
    console = Console(width=100)
    rows = measure([available[name] for name in names], scale, arguments.repetitions, device, console)
    console.print(table(rows, scale.batch), highlight=False)
    per_epoch, projected = math.ceil(scale.images / scale.batch), {}
    for name in names:
        projected[name] = minutes(rows, name, per_epoch)
        console.print(f"{name}: 160 epochs of {per_epoch} steps in {projected[name]:.1f} min", highlight=False)
    if scale is not WHOLE:
        console.print(f"not the recipe's own size: {scale}", highlight=False)
    if arguments.writes:
        found = {
            **setting(arguments, device),
            "clock": "wall time",
            "scale": vars(scale),
            "minutes": projected,
            "rows": rows,
        }
        path = write_result("recipe", found, arguments.output)
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
