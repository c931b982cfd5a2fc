"""Result tables and the configuration tree, as rich renderables that fit a terminal of 100 columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from certtrain.certificates.summary import ATTACK
from certtrain.claim import claim_of
from certtrain.reporting.entries import (
    Entry,
    acr_text,
    falsified,
    grid,
    groups,
    guess_note,
    label,
    percent,
    smoothed_accuracy,
    upper_bound,
)
from certtrain.reporting.plots import clopper_pearson, interval_text
from certtrain.reporting.statuses import status_tables
from certtrain.system import escape

INTERVAL = "95 % interval\nover images"


def result_tables(test: Mapping[str, Entry]) -> Group:
    """Every table of a test result: one per threat model and example list of what is deterministic, one
    per probabilistic certificate.

    Below the bounds the statuses and stages of each cascade of several.

    Args:
        test: the mapping of `result.json`.
    """
    tables = []
    for group in groups(test):
        tables.append(votes_table(group[0]) if claim_of(group[0]).probabilistic else bounds_table(group))
        tables += [status_tables(entry) for entry in group if len(set(entry.get("stages", ())) - {ATTACK}) > 1]
    return Group(*tables)


def bounds_table(entries: list[Entry]) -> RenderableType:
    """Per radius: clean accuracy, the accuracy that each certifier proves, what PGD leaves standing, n; seconds below.

    All in percent of the same n examples; one certifier alone has its 95 % interval over images. A
    certifier above PGD would be unsound: the table says so.
    """
    table = Table(box=box.SIMPLE_HEAD, show_footer=True, pad_edge=False)
    title = f"certified accuracy (%), deterministic, {escape.one_line(claim_of(entries[0]).symbol)}"
    attacked = upper_bound(entries)
    table.add_column("radius", footer="seconds", justify="right", no_wrap=True)
    table.add_column("clean", justify="right", no_wrap=True)
    for entry in entries:
        table.add_column(
            f"certified by\n{escape.one_line(label(entry))}",
            footer=f"{entry['seconds']:,.1f}",
            justify="right",
            overflow="fold",
        )
    if len(entries) == 1:
        table.add_column(INTERVAL, justify="right", no_wrap=True)
    if attacked:
        table.add_column("PGD\nupper bound", justify="right")
    table.add_column("n", justify="right", no_wrap=True)
    notes = [
        f"{label(entry)}: mean certified radius {acr_text(entry['acr'])}"
        for entry in entries
        if entry.get("acr") is not None and not falsified(entry)
    ]
    for _, radius in grid(entries):
        proved = [None if falsified(entry) else entry["certified"].get(radius) for entry in entries]
        bound = [_interval(proved[0], entries[0]["n"])] * (len(entries) == 1)
        bound += [percent(attacked.get(radius))] if attacked else []
        row = [percent(entries[0]["clean"]), *map(percent, proved), *bound, f"{entries[0]['n']:,}"]
        table.add_row(radius, *row)
        for entry, value in zip(entries, proved):
            if value is not None and value > attacked.get(radius, 1.0) + 1e-12:
                notes.append(f"UNSOUND: {label(entry)} certifies more at {radius} than PGD leaves standing")
    notes += [note for entry in entries for note in _failures(entry)]
    return _assemble(title, [table], notes)


def votes_table(entry: Entry) -> RenderableType:
    """Certified accuracy of a classifier by votes per radius and its interval; below it ACR, draws, n."""
    settings, claim = entry["settings"], claim_of(entry)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    title = f"certified accuracy (%), {escape.one_line(claim.brief)}, {escape.one_line(claim.symbol)}"
    table.add_column("radius", justify="right", no_wrap=True)
    table.add_column("certified accuracy (smoothed)", justify="right")
    table.add_column(INTERVAL, justify="right", no_wrap=True)
    for _, radius in grid([entry]):
        proved = None if falsified(entry) else entry["certified"][radius]
        table.add_row(radius, percent(proved), _interval(proved, entry["n"]))
    n, abstained = entry["n"], entry["abstained"]
    facts = Table.grid(padding=(0, 2))
    facts.add_column(justify="left", style="bold", no_wrap=True)
    facts.add_column()
    facts.add_row("ACR", _acr(entry))
    facts.add_row("smoothed accuracy", f"{percent(smoothed_accuracy(entry))} %  (certified accuracy at radius 0)")
    facts.add_row("abstained", f"{abstained:,} of {n:,}  ({percent(abstained / n)} %)")
    if "n" in settings:
        facts.add_row("draws", _draws(entry))
    of = {"dataset": "any", "example": "each"}.get(str(claim.budget))
    if of is not None:
        facts.add_row("alpha", f"{claim.alpha:g}  ({of} certificate is wrong with at most this probability)")
    if "near_ties" in entry:
        votes = round(n * entry.get("mean_draws", settings["n"]))
        facts.add_row("near-ties", f"{entry['near_ties']:,} of {votes:,} votes, which rounding could turn")
    facts.add_row("images", f"{n:,}")
    if "sigma" in settings:
        facts.add_row("sigma", f"{settings['sigma']:g}")
    facts.add_row("seconds", f"{entry['seconds']:,.1f}")
    return _assemble(title, [table, facts], _failures(entry))


def _interval(share: float | None, n: int) -> str:
    """The Clopper-Pearson interval over images, in percent: what another draw of n images could have shown."""
    if share is None:
        return "–"
    low, high = clopper_pearson(np.array(share * n).round(), n)
    return interval_text(float(low), float(high))


def _acr(entry: Entry) -> str:
    if falsified(entry):
        return "–"
    acr = entry.get(str(claim_of(entry).mean_radius))
    return "none: a radius here is a target that was reached" if acr is None else acr_text(acr)


def _draws(entry: Entry) -> str:
    settings = entry["settings"]
    n, selection = settings["n"], f"after n0 = {settings['n0']:,} to select the class"
    if "mean_draws" not in entry:
        return f"n = {n:,} per image, {selection}"
    mean = entry["mean_draws"]
    return f"{mean:,.0f} per image on average, {n / mean:.1f} times fewer than the last look's {n:,}; {selection}"


def config_tree(config: Mapping[str, Any]) -> Tree:
    """The composed configuration, one line per group; what is null or empty is left out.

    Args:
        config: the resolved configuration; `_target_` is shown as the last part of its name.
    """
    tree = Tree(Text("configuration", style="bold"), guide_style="dim")
    scalars = {key: value for key, value in config.items() if not isinstance(value, Mapping)}
    tree.add(_line("", scalars))
    for key, value in _shown(config).items():
        if not isinstance(value, Mapping) or not value:
            continue
        parts = {name: part for name, part in value.items() if isinstance(part, Mapping) and "_target_" in part}
        line = _line(key, {name: part for name, part in value.items() if name not in parts})
        if line.plain == key and not parts:
            continue
        branch = tree.add(line)
        for name, part in parts.items():
            branch.add(_line(name, part))
    return tree


def config_difference(before: Mapping[str, Any], config: Mapping[str, Any]) -> Text:
    """What a composed configuration has that another one, shown before, has not: in a line."""
    old, new = dict(_flat(_shown(before))), dict(_flat(_shown(config)))
    changed = {key: value for key, value in new.items() if key not in old or old[key] != value}
    changed |= {key: None for key, value in old.items() if key not in new and value is not None}
    text = Text("configuration", style="bold")
    text.append(" as before, but  " if changed else " as before", style="default not bold")
    return text.append_text(_line("", {key: "null" if value is None else value for key, value in changed.items()}))


def _shown(config: Mapping[str, Any]) -> dict[str, Any]:
    """Without what says nothing: the recipe's own length beside epochs, unless lengths are stretched from it."""
    schedule = config.get("schedule")
    if not isinstance(schedule, Mapping) or "epochs" not in schedule:
        return dict(config)
    lengths = {key: value for key, value in schedule.items() if key not in ("epochs", "scale")}
    recipe = {"lengths": f"of a recipe of {schedule['epochs']} epochs, for {config['epochs']}"}
    return {**config, "schedule": {**(recipe if schedule.get("scale") else {}), **lengths}}


def _line(name: str, values: Mapping[str, Any]) -> Text:
    """`name Target  key=value  key=value`, each pair as it would be written on the command line."""
    text = Text(name, style="bold cyan")
    if "_target_" in values:
        text.append(f" {_target(values)}", style="green")
    for key, value in _flat(values):
        if value is not None and value != []:
            text.append(f"{'  ' if text else ''}{escape.one_line(key)}=", style="default not bold dim")
            text.append(_short(value), style="default not bold")
    return text


def _target(values: Mapping[str, Any]) -> str:
    return str(values["_target_"]).rsplit(".", 1)[-1]


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            target = [(f"{prefix}{key}", _target(value))] if "_target_" in value else []
            found += target + _flat(value, f"{prefix}{key}.")
        elif not key.startswith("_"):
            found.append((f"{prefix}{key}", value))
    return found


def _short(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        items = [_short(item) for item in value]
        return f"[{','.join(items if len(items) <= 12 else [*items[:10], f'...{len(items)}'])}]"
    return str(value).lower() if isinstance(value, bool) else escape.one_line(value)


def _failures(entry: Entry) -> list[str]:
    """What must not be hidden: certificates that fell, bounds that were no numbers, certifiers that crashed."""
    names = {"invalid": "invalid (NaN or infinite)", "error": "error (the certifier failed)"}
    broken = entry.get("falsification") or {}
    notes = [f"{label(entry)}: an attack broke {broken.get('hits')} of {broken.get('attacked')} certificates"]
    notes = notes if falsified(entry) else []
    notes += [f"{label(entry)}: {said}"] if (said := guess_note(entry)) else []
    return notes + [
        f"{label(entry)}: {entry[k]:,} of {entry['n']:,} {text}" for k, text in names.items() if entry.get(k)
    ]


def _assemble(title: str, body: list[RenderableType], notes: list[str]) -> Group:
    return Group(Text(title, style="bold"), *body, *(Text(note, style="bold red") for note in notes), Text())
