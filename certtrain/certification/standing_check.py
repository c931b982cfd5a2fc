"""The standing check of the certify stage: attacks some of the certificates that it issued, and records the outcome."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from certtrain.certificates import Certificates, read_card, write_card
from certtrain.certificates.falsification import Falsification, FalsifyOptions, choose_certified, write_counterexamples
from certtrain.certification.examples import Examples
from certtrain.certifiers.base import Certifier
from certtrain.data.batch import Batch
from certtrain.reporting.bar import Bar
from certtrain.reporting.terminal import print_line
from certtrain.system.files import plain
from certtrain.system.work import watched

FALSIFIED_STATUS = 1  # exit status of a command whose certificates were refuted


def standing_check(
    network: nn.Module,
    certifier: Certifier,
    examples: Examples,
    certificates: Certificates,
    log: Path,
    entry: dict[str, Any],
    options: FalsifyOptions,
    console: Console,
    *,
    device: torch.device,
    stop: Callable[[], None],
) -> dict[str, Any]:
    """Attack up to `options.examples` certified examples; the outcome goes into the log's card and the entry.

    A check that the card holds already, of the same settings, is not repeated. What was falsified once stays so:
    another check that finds nothing does not take it back. Counterexamples: `NAME.counterexamples.*` beside the log.

    Args:
        network: on the device.
        certifier: made the certificates; one that has no attack is not checked.
        examples, certificates: what was certified, and the rows of the log by index.
        log: `NAME.tsv`.
        entry: of `result.json`.
        options: how many, how long.
        console: for the bar and what was found.
        device: where the network is.
        stop: called between batches; raises to end the work there.

    Returns:
        The entry with `falsification`, what was attacked and found (null when nothing was), and with `falsified` true
        when the certificates are refuted.
    """
    card_path = log.with_suffix(".json")
    card = read_card(card_path)
    before = card.get("falsification")
    record = before
    asked = {"examples": options.examples, "steps": options.steps}
    settled = before is not None and (before["failed"] or before["asked"] == asked)
    begun, found = time.perf_counter(), None
    if options.examples and not settled:
        found = _attack(network, certifier, examples, certificates, log, options, console, device, stop)
    if found is not None:
        record = {**found.summary(), "asked": asked}
        if found.attacked:
            seconds, fell = time.perf_counter() - begun, f"{len(found.hits)} fell" if found.hits else "none fell"
            print_line(
                console,
                f"attacked {found.attacked} certificates of {log.stem} for {seconds:.1f} s: {fell}",
            )
        if files := write_counterexamples(log.with_suffix(".counterexamples"), found):
            record["files"] = [path.name for path in files]
    entry = {**entry, "falsification": record}
    if record and record["failed"]:
        entry["falsified"] = True
        _say(console, log, record)
    if plain(entry) != card.get("summary"):
        write_card(card_path, {**card, "falsification": record, "summary": entry})
    return entry


def _attack(
    network: nn.Module,
    certifier: Certifier,
    examples: Examples,
    certificates: Certificates,
    log: Path,
    options: FalsifyOptions,
    console: Console,
    device: torch.device,
    stop: Callable[[], None],
) -> Falsification | None:
    rows = choose_certified(certificates, options.examples)
    chosen = certificates.select(rows)
    index = torch.from_numpy(chosen.index)
    batch = Batch(examples.x[index].to(device), examples.y[index].to(device), index.to(device))
    with Bar(console, f"attack {log.stem}", len(rows)) as bar:

        def progress(attacked: int) -> None:
            bar.update(attacked)
            stop()

        with watched(stop, lambda share, doing: bar.often(share * len(rows), doing)):
            return certifier.falsify(network, batch, chosen, steps=options.steps, progress=progress)


def _say(console: Console, log: Path, record: dict[str, Any]) -> None:
    named = ", ".join(map(str, record["indices"][:10])) + (", ..." if len(record["indices"]) > 10 else "")
    print_line(
        console,
        f"FALSIFIED: {log.stem}: an attack broke {record['hits']} of {record['attacked']} certificates "
        f"(at most {record['allowed']} may fall): examples {named}",
        "bold red",
    )
    print_line(
        console,
        f"The bounds, or the noise, behind them are wrong. Counterexamples: {log.parent / record['files'][0]}",
        "red",
    )
