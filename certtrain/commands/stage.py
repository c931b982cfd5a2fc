"""The certify stage: run certifiers over a split, write logs, cards and the result, show table and plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from certtrain.callbacks.signals import SignalFlag
from certtrain.certificates import CertificateLog, Certificates, read_card
from certtrain.certification import Examples, accelerator, certify_examples, choose_indices
from certtrain.certifiers.base import Certifier
from certtrain.commands.bar import Bar
from certtrain.commands.build import build_certifiers
from certtrain.commands.card import claim, engine, stages, trained_with_warnings, training_recipe, where_and_how
from certtrain.commands.checks import before_certifying, chance_level
from certtrain.commands.loading import LoadedRun
from certtrain.commands.standing_check import standing_check
from certtrain.data import DataModule
from certtrain.errors import UserError, nearest
from certtrain.falsification import FalsifyOptions
from certtrain.models.contract import InputContract
from certtrain.reporting.plots import certified_accuracy_plot
from certtrain.reporting.tables import result_tables
from certtrain.runs import RunDirectory, config_hash, sha256_file
from certtrain.smoothing.selftest import check_noise

SPLITS = ("test", "val", "train")
# Rows between two writes of a log: small enough that little is lost, large enough that bounds fill a batch, and draws
# for the few examples that are still open in a late stage.
LOG_ROWS = {"deterministic": 256, "probabilistic": 16, "anytime": 64}


def certify_stage(
    loaded: LoadedRun, data: DataModule, config: dict[str, Any], console: Console, flag: SignalFlag
) -> dict[str, Any]:
    """Certify with every configured certifier, and record each as `result.json`'s `test[<name>]` when it is done.

    What a certifier issued is attacked as `falsify` says; entries that fell have `falsified` true.

    Raises:
        UserError: the data does not fit the network's contract; an unknown split; `falsify` makes no sense.
        Interrupted: at a signal, between two batches; the logs keep what was done.
    """
    options = FalsifyOptions.parse(config["falsify"])
    loaded.contract.check_same(InputContract.of(data), that=f"data={data.name}")
    examples = chosen_examples(data, config)
    split_name, indices, rule = examples.split, examples.indices, str(config.get("indices", "all"))
    device = accelerator(loaded.config["trainer"]["accelerator"])
    network = loaded.network.to(device)
    certifiers = build_certifiers(config)
    warnings = trained_with_warnings(loaded.config, config)
    warnings += before_certifying(network, examples, certifiers, loaded.config, config, device)
    if "source" in loaded.config:
        warnings += chance_level(network, examples, loaded.contract.num_classes, device)
    for warning in warnings:
        console.print(f"[yellow]warning: {warning}", highlight=False, soft_wrap=True)
    card = {
        "run": loaded.run.name,
        "warnings": warnings,
        "checkpoint": loaded.checkpoint.name,
        "checkpoint_sha256": sha256_file(loaded.checkpoint),
        "config_sha256": config_hash(loaded.config),
        "indices": rule,
        "input_contract": loaded.contract.to_dict(),
        "training": training_recipe(loaded.config),
        **where_and_how(),
        "device": str(device),
    }
    found: dict[str, Any] = {}
    radii: dict[str, np.ndarray] = {}
    for name, certifier in certifiers.items():
        noise = {}
        if certifier.certificate == "probabilistic":
            certifier.split = split_name  # examples of another split get other noise
            certifier.spread_over(len(indices))
            noise = {"noise_selftest": check_noise(device, seed=certifier.seed, precision=certifier.precision)}
            network = network.to(memory_format=torch.channels_last)  # two to three times the forward passes on a CPU
        log = loaded.run.certificates / f"{log_name(name, config, rule, split_name, certifier)}.tsv"
        with Bar(console, f"certify {name}", len(indices)) as bar:
            counts = {"certified": 0, "rows": 0}

            def advance(done: int, new: Certificates | None, bar: Bar = bar, c: dict[str, int] = counts) -> None:
                if new is not None:
                    c["certified"] += int((new.correct & (new.radius > 0)).sum())
                    c["rows"] += len(new.radius)
                bar.update(done, f"certified {c['certified'] / c['rows']:.1%}" if c["rows"] else "")

            entry, certificates = certify_examples(
                network,
                certifier,
                examples,
                log,
                {**card, **noise, "claim": claim(certifier), "stages": stages(certifier), "engine": engine(certifier)},
                batch_size=log_rows(certifier),
                device=device,
                progress=advance,
                stop=flag.raise_if_set,
            )
        entry = standing_check(
            network,
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
        radii[log.stem] = held_radii(certificates)
        if split_name == "test":
            result = loaded.run.read_result() or {"status": "interrupted", "test": {}}
            result["test"] = {**result.get("test", {}), log.stem: entry}
            loaded.run.write_result(result)
    console.print(result_tables(found))
    # The figure of the run shows all that is known of the whole test set; other splits and subsets get their own.
    figure = loaded.run.path / f"certified_accuracy_{split_name}_{Path(rule).stem}.png"
    shown = found
    if split_name == "test" and rule == "all":
        figure, shown = loaded.run.figure, {**_earlier(loaded.run, card, examples.sha256, radii), **found}
    certified_accuracy_plot(shown, figure, radii=radii)
    console.print(f"figure: {figure}", highlight=False, soft_wrap=True)
    console.print(f"run directory: [bold]{loaded.run.path}", highlight=False, soft_wrap=True)
    return found


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
        raise UserError(f"the run held out no {name} examples", where="configuration key split", fix="split=test")
    indices = choose_indices(str(config.get("indices", "all")), len(split))
    return Examples(split.x, split.y, indices, name, data.name)


def log_rows(certifier: Certifier) -> int:
    """Rows between two writes of a certifier's log."""
    return LOG_ROWS.get(certifier.name) or LOG_ROWS[certifier.certificate]


def held_radii(certificates: Certificates) -> np.ndarray:
    """(n,) the certified radius, -1 where the example is misclassified or abstained."""
    return np.where(certificates.correct, certificates.radius, -1.0)


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
        if read_card(path).get("checkpoint_sha256") == card["checkpoint_sha256"]:
            entries[name], radii[name] = entry, held_radii(CertificateLog(log).read())
    return entries


def log_name(name: str, config: dict[str, Any], rule: str, split: str, certifier: Certifier) -> str:
    """`crown`, `smoothing_n10000`, `crown_first_500`, `val_ibp`; the user's own name, with the certifier's after it."""
    parts = [config["name"]] if "run" in config and config.get("name") else []
    parts += [] if split == "test" else [split]
    parts.append(name)
    if certifier.certificate == "probabilistic":
        parts.append(f"n{certifier.settings()['n']}")
    parts += [] if rule == "all" else [Path(rule).stem]
    return "_".join(parts)
