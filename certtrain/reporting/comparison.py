"""Ours beside the published: one line per row, quantity and setting, with difference, interval and verdict."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from certtrain.certificates import read_card
from certtrain.certificates.card_check import read_whole
from certtrain.claim import claim_of
from certtrain.errors import UserError
from certtrain.radii import parse_radius
from certtrain.reporting.collected import Collection, Group, groups_of
from certtrain.reporting.entries import LABELS, Entry, guessing, smoothed_accuracy
from certtrain.reporting.plots import clopper_pearson
from certtrain.reporting.published import Paper, Published, Row

GUESSED = "! no better than a guess (one class for all, or chance level)"
WITHIN, SHORT, NOT_RUN, NO_TARGET, RECALLED = "within", "short", "not run", "no target", "recalled"
OTHER_IMAGES = "other images"


@dataclass(frozen=True)
class Line:
    """One quantity of one row under one setting. Fractions of images, except `ACR` (in input units).

    Attributes:
        quantity: `clean`, `certified@<radius>`, `PGD@<radius>` (an upper bound) or `ACR`.
        ours: mean over seeds; None when not run.
        sd: sample deviation over seeds; None for one.
        interval: 95 % over images, of the mean over seeds: Clopper-Pearson for fractions, normal for the ACR.
        published: the figure compared with, of the same images; None where there is none.
        figures: those that it is one of.
        allowed: how far below it still counts as reproduced.
        verdict: within, short, not run, no target, other images (published figures are of others: nothing is
            compared), or recalled (shown, not judged).
    """

    row: Row
    quantity: str
    verifier: str
    setting: str = ""
    ours: float | None = None
    sd: float | None = None
    interval: tuple[float, float] | None = None
    published: float | None = None
    figures: Published | None = None
    allowed: float | None = None
    verdict: str = NOT_RUN
    n: int | None = None
    draws: int | None = None
    seeds: int = 0
    hours: float | None = None
    """Of training and certifying, the mean per seed."""
    hardware: str = ""
    path: str = ""
    note: str = ""
    """Why a figure is missing."""
    guesses: int = 0
    """Seeds whose classifier is no better than a guess."""

    @property
    def difference(self) -> float | None:
        return None if self.ours is None or self.published is None else self.ours - self.published


def compare(paper: Paper, collection: Collection, *, every_certifier: bool = False) -> list[Line]:
    """The lines of all rows of a paper, those not run included."""
    lines = []
    for row in paper.rows.values():
        groups = groups_of(row, collection.runs.get(row.experiment, ()), every_certifier=every_certifier)
        lines += [line for group in groups for line in _group_lines(group)] if groups else _missing(row)
    return lines


def notes_of(lines: Sequence[Line]) -> list[str]:
    """What a reader must know of the rows shown: rows' own notes, and protocols that differ from the published."""
    rows_of: dict[str, list[str]] = {}
    for line in lines:
        row, target = line.row, line.figures
        found = [note for note in (row.note, line.note) if note]
        if line.verdict == OTHER_IMAGES:
            found.append(_other_images(line))
        if line.ours is not None and target and target.indices != "all":
            found.append(f"ours and the published figures on the same {target.n:,} images, indices={target.indices}")
        if line.draws and target and target.draws and line.draws != target.draws:
            found.append(f"ours with n = {line.draws:,} draws, published with {target.draws:,}")
        if line.guesses:
            found.append(f"{GUESSED}, of {line.guesses} of {line.seeds} seed(s): certified accuracy says nothing there")
        for note in found:
            names = rows_of.setdefault(note, [])
            names += [row.name] if row.name not in names else []
    return [f"{', '.join(names)}: {note}" for note, names in rows_of.items()]


def _missing(row: Row) -> list[Line]:
    verifier = LABELS.get(row.verifiers[0], row.verifiers[0])
    figures = row.published
    found = [(name, _target(figures, name) if figures else None) for name in _quantities(row)]
    return [Line(row, name, verifier, published=target, figures=figures) for name, target in found]


def _other_images(line: Line) -> str:
    """Why nothing is compared, and on which images it would be."""
    assert line.row.published is not None
    known = [figures for figures in (line.row.published, *line.row.published.on.values()) if figures.n]
    on = " and ".join(f"{figures.n:,} (indices={figures.indices})" for figures in known) or "images that are not known"
    return f"ours on {line.n:,} images, published on {on}: figures of different images are not compared"


def _quantities(row: Row) -> list[str]:
    target = row.published
    if target is None:
        return [f"certified@{row.eps}"] if row.eps else ["ACR"]
    names = ["clean"] if target.clean is not None else []
    names += [f"certified@{radius}" for radius in sorted(target.certified, key=parse_radius) if radius != "0"]
    return names + (["ACR"] if target.acr is not None else [])


def _group_lines(group: Group) -> list[Line]:
    row, entries = group.row, group.entries
    first = entries[0]
    judged = first["certifier"] == row.verifiers[0]
    # Of further certifiers, and of the attack, what they say at the row's own eps is enough for a table.
    names = ["clean"] if judged else []
    names += [f"certified@{radius}" for radius in first["certified"] if radius != "0" and (judged or radius == row.eps)]
    names += [f"PGD@{radius}" for radius in first.get("pgd") or {} if judged and radius == row.eps]
    names += ["ACR"] if first.get("acr") is not None else []
    hours = statistics.fmean(run.result.get("seconds", 0) + entry["seconds"] for run, entry in zip(group.runs, entries))
    shared = {
        "verifier": LABELS.get(first["certifier"], first["certifier"]),
        "setting": " ".join([*group.overrides, *group.marks]),
        "n": first["n"],
        "draws": _draws(first),
        "seeds": len(group.runs),
        "hours": hours / 3600,
        "hardware": ", ".join(dict.fromkeys(run.hardware for run in group.runs)),
        "path": ", ".join(str(run.path) for run in group.runs),
        "guesses": sum(guessing(entry) is not None for entry in entries),
    }
    return [_line(group, name, judged, shared) for name in names]


def _draws(entry: Entry) -> int | None:
    """Estimation draws per image: n, or their mean where drawing stopped early."""
    if "mean_draws" in entry:
        return round(entry["mean_draws"])
    return entry["settings"].get("n") if claim_of(entry).probabilistic else None


def _line(group: Group, name: str, judged: bool, shared: dict[str, object]) -> Line:
    values = [_value(entry, name) for entry in group.entries]
    mean = statistics.fmean(values)
    interval, note = clopper_pearson_mean(mean, group.entries[0]["n"]), ""
    if name == "ACR":
        interval, note = _acr_interval(group)
    known = group.row.published
    figures = known.of(group.entries[0]["indices_sha256"]) if known else None
    compared = judged or name == "clean"
    target = _target(figures, name) if figures and compared else None
    allowed, verdict = _judge(group.row, figures, name, mean, target)
    if known and not figures and compared and not name.startswith("PGD"):
        verdict = OTHER_IMAGES
    sd = statistics.stdev(values) if len(values) > 1 else None
    found = {"ours": mean, "sd": sd, "interval": interval, "published": target, "allowed": allowed, "verdict": verdict}
    shared = {**shared, "note": note, "figures": figures}
    return Line(group.row, name, **found, **shared)  # type: ignore[arg-type]


def _value(entry: object, name: str) -> float:
    assert isinstance(entry, dict)
    kind, _, radius = name.partition("@")
    if kind == "ACR":
        return entry["acr"]
    if kind == "clean":
        return smoothed_accuracy(entry) if claim_of(entry).probabilistic else entry["clean"]
    return entry["pgd" if kind == "PGD" else "certified"][radius]


def _target(figures: Published, name: str) -> float | None:
    kind, _, radius = name.partition("@")
    if kind == "PGD":
        return None
    if kind == "certified":
        return figures.certified.get(radius)
    if kind == "clean" and figures.clean is None:
        return figures.certified.get("0")
    return figures.acr if kind == "ACR" else figures.clean


def _judge(
    row: Row, figures: Published | None, name: str, mean: float, target: float | None
) -> tuple[float | None, str]:
    if target is None or figures is None:
        return None, NO_TARGET
    if figures.is_recalled(name):
        return None, RECALLED
    kind = {"ACR": "acr"}.get(name, name.partition("@")[0])
    tolerance = figures.tolerance or row.tolerance
    allowed = getattr(tolerance, kind, None) or 0.0
    return allowed, WITHIN if mean >= target - allowed - 1e-12 else SHORT


def clopper_pearson_mean(share: float, n: int) -> tuple[float, float]:
    """The two-sided Clopper-Pearson interval of a share of n images; of a mean over seeds, as if one had given it."""
    low, high = clopper_pearson(np.array(share * n), n)
    return float(low), float(high)


def _acr_interval(group: Group) -> tuple[tuple[float, float] | None, str]:
    """Normal, from the logs: the deviation over images of each image's mean over seeds; None, and why, where a log is
    not the one that its card is about; None where there are no logs."""
    radii = []
    for run, entry in zip(group.runs, group.entries):
        name = next(name for name, other in run.result["test"].items() if other is entry)
        folder = run.path / "certificates"
        path = next((p for p in (folder / f"{name}.tsv", folder / f"{name}.tsv.gz") if p.exists()), None)
        if path is None:
            return None, ""
        try:
            card = path.with_name(f"{name}.json")
            rows = read_whole(path, read_card(card) if card.exists() else {})
        except UserError as error:
            return None, f"no interval of the ACR: {error.what}"
        radii.append(np.where(rows.correct, rows.radius, 0.0))
    if len({len(column) for column in radii}) != 1 or len(radii[0]) != group.entries[0]["n"] or len(radii[0]) < 2:
        return None, ""
    means = np.mean(radii, axis=0)
    half = 1.959964 * float(np.std(means, ddof=1)) / math.sqrt(len(means))
    return (float(np.mean(means)) - half, float(np.mean(means)) + half), ""
