"""The certify stage: run certifiers over a split, write logs, cards and the result, show table and plot."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import nn

from certtrain.certificates import CertificateLog, Certificates, read_card
from certtrain.certificates.card_check import OTHER, disagreement
from certtrain.certificates.falsification import FalsifyOptions
from certtrain.certificates.parts import Place
from certtrain.certificates.summary import held_radii
from certtrain.certification.card import engine, trained_with_warnings, training_recipe, where_and_how
from certtrain.certification.checks import before_certifying, chance_level
from certtrain.certification.examples import Examples, accelerator, begin, certify_examples, choose_indices
from certtrain.certification.other_data import other_data, without_places
from certtrain.certification.standing_check import standing_check
from certtrain.certifiers.base import Certifier
from certtrain.config.build import build_certifiers, build_scales
from certtrain.config.checks import check_units
from certtrain.config.loading import LoadedRun
from certtrain.config.network import normalisation_note
from certtrain.data import DataModule
from certtrain.errors import UserError, command_line, nearest
from certtrain.models.contract import InputContract
from certtrain.models.two_logits import READ_AS, reads_one_logit
from certtrain.reporting.bar import Bar
from certtrain.reporting.plots import certified_accuracy_plot
from certtrain.reporting.tables import result_tables
from certtrain.reporting.terminal import print_line
from certtrain.runs.directory import RunDirectory, config_hash, sha256_file
from certtrain.system.signals import SignalFlag
from certtrain.threat.scale_request import read_request

SPLITS = ("test", "val", "train")


@dataclass(frozen=True)
class Job:
    """What to certify, and whom to tell.

    Attributes:
        loaded: the network and its run.
        data: of the run, or those that the configuration names beside it.
        config: of the certify command, or of a run with `certify_test=true`.
        console: for what happens.
        flag: set by signals.
    """

    loaded: LoadedRun
    data: DataModule
    config: dict[str, Any]
    console: Console
    flag: SignalFlag


@dataclass
class Stage:
    """What certifying comes down to, after the checks: a network on its device, examples, certifiers.

    Attributes:
        rule: that chose the examples.
        card: what the cards of all certifiers share.
        other: the configuration of the data where they are not the run's own, as the card holds it.
    """

    loaded: LoadedRun
    config: dict[str, Any]
    examples: Examples
    rule: str
    network: nn.Module
    device: torch.device
    certifiers: dict[str, Certifier]
    card: dict[str, Any]
    other: dict[str, Any] | None = None
    _bound: dict[str, dict[str, Any]] = field(default_factory=dict)

    def of(self, name: str) -> tuple[Certifier, Path, dict[str, Any]]:
        """A certifier that is ready for its first batch, its log, and what is known for its card beforehand."""
        certifier, examples = self.certifiers[name], self.examples
        if name not in self._bound:
            if certifier.many_evaluations:  # contiguous takes two to three times the time on a CPU
                self.network = self.network.to(memory_format=torch.channels_last)
            self._bound[name] = certifier.bind(
                self.network, split=examples.split, examples=len(examples.indices), device=self.device
            )
        log = log_name(name, self.config, self.rule, examples, certifier, other=self.other is not None)
        said = {**self._bound[name], "engine": engine(certifier)}
        return certifier, self.loaded.run.certificates / f"{log}.tsv", {**self.card, **said}


def prepare_stage(loaded: LoadedRun, data: DataModule, config: dict[str, Any], number: int = 0) -> Stage:
    """All checks, before anything is certified.

    Args:
        loaded: the network and its run.
        data: of the run, or those that the configuration names beside it.
        config: of the certify command, or of a run with `certify_test=true`.
        number: of this process among those of this machine, from 0: which accelerator is its own.

    Raises:
        UserError: the data does not fit the network's contract; an unknown split; settings that certify nothing.
    """
    loaded.contract.check_same(InputContract.of(data), that=f"data={data.name}")
    check_units(config, math.prod(loaded.contract.shape))
    examples = chosen_examples(data, config)
    device = accelerator(loaded.config["trainer"]["accelerator"], number)
    network = loaded.network.to(device)
    contract = loaded.contract if loaded.contract.features else InputContract.of(data)
    scales = build_scales(config, contract, f"data={data.name}")
    certifiers = build_certifiers(config, scales)
    trained_for = build_scales(loaded.config, contract, f"the run {loaded.run.name}")
    warnings = trained_with_warnings(loaded.config, config, (trained_for, scales), certifiers.values())
    other = other_data(loaded, config)
    if other is not None:
        other = without_places(other)
        warnings.append(f"trained on {loaded.config['choices']['data']}, certified on {data.name}")
    warnings += before_certifying(network, examples, certifiers, loaded.config, config, device)
    if "source" in loaded.config:
        warnings += chance_level(network, examples, loaded.contract.num_classes, device)
    rule = str(config.get("indices", "all"))
    normalisation = normalisation_note(network, loaded.config["model"])
    card = {
        "run": loaded.run.name,
        "warnings": warnings,
        "checkpoint": loaded.checkpoint.name,
        "checkpoint_sha256": sha256_file(loaded.checkpoint),
        "config_sha256": config_hash(loaded.config),
        "indices": rule,
        "input_contract": loaded.contract.to_dict(),
        **({} if other is None else {"data": other}),
        **({"logits": READ_AS} if reads_one_logit(network) else {}),
        **({} if normalisation is None else {"normalisation": normalisation}),
        "training": {**training_recipe(loaded.config), **loaded.given},
        **({} if scales is None else {"scales_asked": read_request(config["scales"])}),
        **where_and_how(),
        "device": str(device),
    }
    return Stage(loaded, config, examples, rule, network, device, certifiers, card, other)


def certify_stage(job: Job, helpers: Callable[[Stage, int], None] | None = None) -> dict[str, Any]:
    """Certify with every configured certifier, and record each as `result.json`'s `test[<name>]` when it is done.

    Of other data than the run's own it is `other_data[<data set>][<name>]`, which nothing that compares test sets
    reads. What a certifier issued is attacked as `falsify` says; entries that fell have `falsified` true.

    Args:
        job: what to certify.
        helpers: called once all logs are begun, with the stage and the most blocks of one log that remain, so that
            other processes certify into parts of the logs. What they leave is certified here.

    Raises:
        UserError: the data does not fit the network's contract; an unknown split; `falsify` makes no sense.
        Interrupted: at a signal, between two batches; the logs keep what was done.
    """
    loaded, console, flag = job.loaded, job.console, job.flag
    options = FalsifyOptions.parse(job.config["falsify"])
    stage = prepare_stage(loaded, job.data, job.config)
    examples, device, rule = stage.examples, stage.device, stage.rule
    for warning in stage.card["warnings"]:
        print_line(console, f"warning: {warning}", "yellow")
    asked = loaded.config["trainer"]["accelerator"]
    if device.type == "cpu" and asked not in ("auto", "cpu"):
        console.print(f"trained with trainer.accelerator={asked}; there is none here: certifying on the processor")
    if helpers is not None:
        helpers(stage, max(_remaining(stage, name) for name in stage.certifiers))
    found: dict[str, Any] = {}
    radii: dict[str, np.ndarray] = {}
    for name in stage.certifiers:
        certifier, log, card = stage.of(name)
        with Bar(console, f"certify {name}", len(examples.indices)) as bar:
            shown = _Shown(bar)
            entry, certificates = certify_examples(
                stage.network,
                certifier,
                examples,
                log,
                card,
                batch_size=certifier.rows_per_write,
                device=device,
                progress=shown.rows,
                told=shown.within,
                stop=flag.raise_if_set,
            )
        entry = standing_check(
            stage.network,
            certifier,
            examples,
            certificates,
            log,
            entry,
            options,
            console,
            device=device,
            stop=flag.raise_if_set,
        )
        found[log.stem] = entry
        radii[log.stem] = held_radii(certificates.correct, certificates.radius)
        if examples.split == "test":
            result = loaded.run.read_result() or {"status": "interrupted", "test": {}}
            entries = result if stage.other is None else result.setdefault(OTHER, {})
            place = "test" if stage.other is None else examples.dataset
            entries[place] = {**entries.get(place, {}), log.stem: entry}
            loaded.run.write_result(result)
    console.print(result_tables(found))
    # The figure of the run shows all that is known of the whole test set; other splits and subsets get their own.
    of = examples.split if stage.other is None else f"{examples.dataset}_{examples.split}"
    figure = loaded.run.path / f"certified_accuracy_{of}_{Path(rule).stem}.png"
    drawn = found
    if examples.split == "test" and rule == "all" and stage.other is None:
        figure, drawn = loaded.run.figure, {**_earlier(loaded.run, stage.card, examples.sha256, radii), **found}
    certified_accuracy_plot(drawn, figure, radii=radii)
    print_line(console, f"figure: {figure}")
    print_line(console, f"run directory: {loaded.run.path}")
    print_line(console, "next: " + command_line("certtrain", "report", loaded.run.path))
    return found


class _Shown:
    """What a bar shows of certifying: rows, the share of the batch that is at work, and how much is certified."""

    def __init__(self, bar: Bar) -> None:
        self.bar, self.certified, self.count, self.doing = bar, 0, 0, ""

    def rows(self, done: int, new: Certificates | None) -> None:
        """Rows that are in the log."""
        if new is not None:
            self.certified += int((new.correct & (new.radius > 0)).sum())
            self.count += len(new.radius)
        self.bar.update(done, self._so_far())

    def within(self, done: float, doing: str) -> None:
        """How far the batch is that is at work, in rows of all."""
        self.doing = doing or self.doing
        self.bar.often(done, "; ".join(filter(None, (self.doing, self._so_far()))))

    def _so_far(self) -> str:
        return f"certified {self.certified / self.count:.1%} so far" if self.count else ""


def _remaining(stage: Stage, name: str) -> int:
    """The blocks of a log that are not certified yet, after its card is written and its parts are collected."""
    certifier, path, card = stage.of(name)
    _, _, log = begin(certifier, stage.examples, path, card)
    return len(Place().blocks(stage.examples.indices.tolist(), certifier.rows_per_write, log.done_indices()))


def chosen_examples(data: DataModule, config: dict[str, Any]) -> Examples:
    """The examples that `split` and `indices` name.

    Raises:
        UserError: an unknown or empty split, an unknown rule, positions outside the split.
    """
    name = config.get("split", "test")
    if name not in SPLITS:
        raise UserError(f"unknown split {name!r}", where="configuration key split", fix=nearest(str(name), SPLITS))
    split = getattr(data, name)
    if not len(split):
        raise UserError(f"{data.name} held out no {name} examples", where="configuration key split", fix="split=test")
    indices = choose_indices(str(config.get("indices", "all")), len(split))
    return Examples(split.x, split.y, indices, name, data.name)


def _earlier(
    run: RunDirectory, card: dict[str, Any], indices_sha256: str, radii: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Entries of earlier certificates of the same checkpoint and examples; adds their radii."""
    entries = {}
    for name, entry in (run.read_result() or {}).get("test", {}).items():
        log = run.certificates / f"{name}.tsv"
        path = log.with_suffix(".json")
        if name in radii or entry["indices_sha256"] != indices_sha256 or not (log.exists() and path.exists()):
            continue
        other = read_card(path)
        if other.get("checkpoint_sha256") == card["checkpoint_sha256"]:
            rows = CertificateLog(log, read_only=True).read()
            if disagreement(rows, other, CertificateLog(log, read_only=True)):  # an audit says what; it is not drawn
                continue
            entries[name], radii[name] = entry, held_radii(rows.correct, rows.radius)
    return entries


def log_name(
    name: str, config: dict[str, Any], rule: str, examples: Examples, certifier: Certifier, *, other: bool = False
) -> str:
    """`crown`, `smoothing_n10000`, `crown_first_500`, `val_ibp`, and of other data than the run's own
    `mnist_c_fog_crown`; the user's own name, with these after it."""
    parts = [config["name"]] if "run" in config and config.get("name") else []
    parts += [examples.dataset] if other else []
    parts += [] if examples.split == "test" else [examples.split]
    parts.append(name)
    parts += [certifier.suffix] if certifier.suffix else []
    parts += [] if rule == "all" else [Path(rule).stem]
    return "_".join(parts)
