"""What a run will cost, before it starts: steps, epochs, and hours from a few timed steps of each phase."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from certtrain.certification.examples import accelerator, choose_indices
from certtrain.certifiers.base import Certifier
from certtrain.config import build
from certtrain.config.instantiate import call_partial
from certtrain.data import Batch, DataModule
from certtrain.methods.base import Context, Method, Streams
from certtrain.methods.compiled import Compiled
from certtrain.methods.in_parts import InParts
from certtrain.models.contract import InputContract
from certtrain.models.evaluation import float32_products, frozen
from certtrain.reporting.collected import hardware_text
from certtrain.runs.environment import hardware
from certtrain.sessions.teacher import Teachers
from certtrain.threat.scales import Scales
from certtrain.training.fit import TrainerSettings

TIMED_STEPS, UNTIMED_STEPS = 20, 2
PATIENCE = 30.0  # seconds for one phase; slower ones are timed by fewer steps


@dataclass(frozen=True)
class Phase:
    """A stretch of training whose steps cost the same, or one certifier of the certify stage.

    Attributes:
        name: `warm-up`, `ramp`, `after the ramp`, `training`, or `certify by <certifier>`.
        count: optimiser steps, or examples.
        seconds: of one of them, the median of those timed.
        timed: how many that were.
    """

    name: str
    count: int
    seconds: float
    timed: int

    @property
    def hours(self) -> float:
        return self.count * self.seconds / 3600


@dataclass(frozen=True)
class Budget:
    """What training and certifying one configuration will take on this machine."""

    epochs: int
    steps_per_epoch: int
    batch: int
    parameters: int
    phases: tuple[Phase, ...]

    @property
    def hours(self) -> float:
        return sum(phase.hours for phase in self.phases)


def estimate(config: dict[str, Any], certify: dict[str, Any], done: int = 0) -> Budget:
    """Time a few steps of each phase of training, and a few certificates of the untrained network.

    The network and everything else that is built here is thrown away: the run itself starts from its own.

    Args:
        config: resolved, of `certtrain train`.
        certify: resolved, of `certtrain certify`.
        done: optimiser steps that the run has behind it.

    Raises:
        UserError: what is configured cannot be built.
    """
    settings = call_partial(TrainerSettings, "trainer", **config["trainer"])
    data = build.build_data(config)
    device = accelerator(settings.accelerator)
    contract = InputContract.of(data)
    network = contract.classifier(build.build_network(config["model"], contract, config["seed"])).to(device)
    if settings.channels_last:
        network = network.to(memory_format=torch.channels_last)
    per_epoch = data.steps_per_epoch()
    scales = build.build_scales(config, contract, f"data={data.name}")
    method = build.build_method(config, per_epoch, scales, Teachers(config, contract, f"data={data.name}"))
    with torch.random.fork_rng():
        torch.manual_seed(config["seed"])
        method.initialise(network)
    engine = build.build_engine(config)(network) if method.needs_engine else None
    optimizer = build.build_optimizer(config)(network.parameters())
    batches = _batches(data, device)
    streams = Streams(config["seed"])
    objective: Method | Compiled | InParts = InParts(method, settings.accumulate_grad_batches)
    if settings.compile_mode:
        objective = Compiled(method, data.batch_size, settings.compile_mode)
    phases = []
    for name, count, step in _phases(method, per_epoch * config["epochs"], done):

        def work(step: int = step) -> None:
            batch = next(batches)
            method.before_step(Context(network, engine, optimizer, (), step, 0, streams), batch)
            objective(network, engine, batch, step, streams).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        with float32_products(settings.products):
            if settings.compile_mode:
                work()  # compiles, which may take longer than all of the timing may
            phases.append(Phase(name, count, *_timed(work, device)))
    certified = _certify_phases(network, data, certify, device, scales)
    parameters = sum(p.numel() for p in network.parameters())
    return Budget(config["epochs"], per_epoch, data.batch_size, parameters, (*phases, *certified))


def _batches(data: DataModule, device: torch.device) -> Iterator[Batch]:
    while True:
        for batch in data.train_dataloader():
            yield Batch(batch.x.to(device), batch.y.to(device), batch.index.to(device))


def _phases(method: Method, total: int, done: int) -> list[tuple[str, int, int]]:
    """Name, remaining steps, and a step that stands for them."""
    ramp = method.ramp
    if not ramp.end:
        spans = [("training", 0, total)]
    else:
        spans = [("warm-up", 0, ramp.start), ("ramp", ramp.start, ramp.end), ("after the ramp", ramp.end, total)]
    found = [(name, max(start, done), min(end, total)) for name, start, end in spans]
    return [(name, end - start, (start + end) // 2) for name, start, end in found if end > start]


def _timed(work: Any, device: torch.device) -> tuple[float, int]:
    """Median seconds of a call after a few untimed ones, and how many were timed."""
    seconds: list[float] = []
    begun = time.perf_counter()
    for number in range(UNTIMED_STEPS + TIMED_STEPS):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= UNTIMED_STEPS or time.perf_counter() - begun > PATIENCE:
            seconds.append(time.perf_counter() - start)
        if seconds and time.perf_counter() - begun > PATIENCE:
            break
    return statistics.median(seconds), len(seconds)


def _certify_phases(
    network: torch.nn.Module, data: DataModule, config: dict[str, Any], device: torch.device, scales: Scales | None
) -> list[Phase]:
    count = len(choose_indices(str(config["indices"]), len(data.test)))
    phases = []
    for name, certifier in build.build_certifiers(config, scales).items():
        trial = certifier.trial()
        rows = min(trial.rows, count)
        x = data.test.x[:rows].to(device)
        with frozen(network):  # by its own predictions: bounds are not asked about what is misclassified
            y = network(x).argmax(1)
        batch = Batch(x, y, torch.arange(rows, device=device))
        seconds = _certified(trial.certifier, network, batch)
        words = ", ".join(filter(None, (f"certify by {name}", trial.words)))
        phases.append(Phase(words, count, seconds * trial.times / rows, rows))
    return phases


def _certified(certifier: Certifier, network: torch.nn.Module, batch: Batch) -> float:
    certifier.certify(network, Batch(batch.x[:1], batch.y[:1], batch.index[:1]))
    start = time.perf_counter()
    certifier.certify(network, batch)
    return time.perf_counter() - start


def budget_table(budget: Budget) -> Group:
    """The budget for the terminal: a line per phase, the sum, and what it rests on."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_footer=True)
    table.add_column("phase", footer="total")
    table.add_column("steps or images", justify="right", footer="")
    table.add_column("ms each", justify="right", footer="")
    table.add_column("hours", justify="right", footer=f"{budget.hours:,.2f}")
    for phase in budget.phases:
        table.add_row(phase.name, f"{phase.count:,}", f"{1000 * phase.seconds:,.1f}", f"{phase.hours:,.2f}")
    timed = sorted({phase.timed for phase in budget.phases})
    facts = (
        f"{budget.epochs:,} epochs of {budget.steps_per_epoch:,} steps at batch {budget.batch}, "
        f"{budget.parameters:,} parameters; medians of {timed[0]} to {timed[-1]} timed steps or certificates of the "
        f"untrained network, on {hardware_text(hardware())}; what else runs here now counts, too"
    )
    return Group(Text("budget", style="bold cyan"), table, Text(facts, style="dim"), Text())
