"""What a run directory holds, read without trust: a file that is missing or damaged is named, and the rest is shown."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml
from numpy.typing import NDArray

from certtrain.certificates import CertificateLog, Certificates, read_card
from certtrain.certificates.card_check import about_other_data, disagreement, result_entry
from certtrain.certificates.summary import summarise
from certtrain.claim import Claim, claim_of
from certtrain.errors import UserError
from certtrain.radii import parse_radii
from certtrain.reporting import entries
from certtrain.reporting.entries import Entry
from certtrain.reporting.page.counterexamples import Counterexample, read_counterexamples
from certtrain.runs.directory import RunDirectory

T = TypeVar("T")
# Figures that must follow from the rows: without them nothing of a certificate is shown as certified.
FIGURES = ("claim", "clean", "certified", "acr", "acr_grid", "abstained", "invalid", "error", "n")


@dataclass(frozen=True)
class Certified:
    """One certificate of a run: its card, rows, figures and counterexamples, whichever there are.

    Attributes:
        name: of its files and in `result.json`.
        card: `{}` where there is none.
        rows: of the log, by index; None where it is missing or unreadable.
        entry: the figures, of `result.json` or else of the card's summary.
        counterexamples: inputs that broke certificates, as an attack kept them.
        problems: what could not be read.
        disagreement: in what the log is not the one that the card is about; None where in nothing.
    """

    name: str
    card: Mapping[str, Any]
    rows: Certificates | None
    entry: Entry | None
    counterexamples: tuple[Counterexample, ...] = ()
    problems: tuple[str, ...] = ()
    disagreement: str | None = None

    @property
    def falsified(self) -> bool:
        """Whether an attack refuted it; every place that says so counts."""
        records = [self.card, self.card.get("summary") or {}, self.entry or {}]
        failed = any(isinstance(r.get("falsification"), dict) and r["falsification"].get("failed") for r in records)
        return failed or any(entries.falsified(record) for record in records)

    @property
    def complete(self) -> bool:
        """Whether all of its examples were certified."""
        if not self.card:
            return self.entry is not None
        return self.card.get("status") == "complete" and self.entry is not None

    @cached_property
    def mismatch(self) -> str | None:
        """What the rows say otherwise than the figures; None when they agree or there are no rows to ask."""
        if self.rows is None or self.entry is None or not self.complete:
            return None
        if self.disagreement is not None:
            return f"its log {self.disagreement}"
        try:
            found = summarise(self.rows, parse_radii(self.entry["certified"]), claim_of(self.entry))
        except (KeyError, TypeError, ValueError, UserError) as error:
            return f"no figures follow from the log: {type(error).__name__}: {error}"
        for key in FIGURES:
            if self.entry.get(key) != found.get(key):
                stated, counted = self.entry.get(key), found.get(key)
                if isinstance(stated, dict) and isinstance(counted, dict):  # by radius: name the first that differs
                    radius = next(text for text in stated if stated[text] != counted.get(text))
                    key, stated, counted = f"{key} at {radius}", stated[radius], counted.get(radius)
                return f"{key}: {stated!r} stated, {counted!r} from the log's rows"
        return None

    @property
    def shown(self) -> bool:
        """Whether its figures may be shown as certified: complete, not refuted, and those of its rows."""
        return self.complete and not self.falsified and self.mismatch is None

    @cached_property
    def claim(self) -> Claim | None:
        """What it claims, as its figures or its card say; None where neither can be read."""
        for stated in (self.entry, self.card):
            try:
                return Claim.from_dict((stated or {}).get("claim"))
            except ValueError:
                continue
        return None

    @property
    def probabilistic(self) -> bool:
        """Whether it holds with a confidence rather than being deterministic."""
        return self.claim is not None and self.claim.probabilistic

    @property
    def targets(self) -> bool:
        """Whether radii are targets, so that there is no mean radius."""
        return self.claim is not None and self.claim.radii == "targets"

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.card.get("settings") or (self.entry or {}).get("settings") or {}

    @property
    def split(self) -> str:
        return str(self.card.get("split", "test"))

    @property
    def about(self) -> str:
        """Which examples it is about, where they are not the run's own test set: `val split`, `mnist_c_fog`."""
        other = str(self.card.get("dataset")) if about_other_data(self.card) else ""
        return " ".join(filter(None, (other, f"{self.split} split" if self.split != "test" else "")))

    @property
    def title(self) -> str:
        """The certifier's published name."""
        return entries.label({"certifier": (self.entry or self.card).get("certifier", self.name)})


@dataclass(frozen=True)
class Evidence:
    """All that a page says of a run.

    Attributes:
        name: of the run.
        config, environment: `{}` where they cannot be read.
        overrides: what the user wrote.
        result: `result.json`; None before there is one.
        metrics: by column name its (steps, values), both float64.
        certificates: by name.
        problems: what could not be read, in words.
    """

    name: str
    config: Mapping[str, Any]
    overrides: tuple[str, ...]
    environment: Mapping[str, Any]
    result: Mapping[str, Any] | None
    metrics: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
    certificates: tuple[Certified, ...]
    problems: tuple[str, ...] = field(default=())

    @property
    def status(self) -> str:
        """`complete`, `interrupted` or `failed`, or that there is no result."""
        return str(self.result["status"]) if self.result else "no result"


def read_evidence(run: RunDirectory) -> Evidence:
    """Read a run directory; nothing in it is changed."""
    problems: list[str] = []
    config = _attempt(problems, run.read_config, {})
    overrides = _attempt(problems, run.read_overrides, [])
    result = _attempt(problems, run.read_result, None)
    environment = _attempt(problems, lambda: _json(run.environment), {})
    metrics = _attempt(problems, lambda: read_metrics(run.metrics), {})
    test = (result or {}).get("test")
    test = test if isinstance(test, dict) else {}
    cards = [p for p in run.certificates.glob("*.json") if ".counterexamples" not in p.name]
    named = list(test)  # in the order in which they were made; those that result.json does not know follow
    cards.sort(key=lambda card: (named.index(card.stem) if card.stem in test else len(named), card.stem))
    found = [_certificate(card, result) for card in cards]
    found += [_without_card(name, entry) for name, entry in test.items() if name not in {card.stem for card in cards}]
    return Evidence(
        run.name, config, tuple(map(str, overrides)), environment, result, metrics, tuple(found), tuple(problems)
    )


def read_metrics(path: Path) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """The columns of `metrics.csv` with the steps at which they have a value; rows that are torn are left out.

    Of a step that was repeated after a resumption the last value counts.
    """
    if not path.exists():
        return {}
    columns: dict[str, dict[float, float]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            step = _number(row.pop("step", None))
            for name, text in row.items():
                value = _number(text)
                if step is not None and value is not None and name and name != "epoch":
                    columns.setdefault(name, {})[step] = value
    return {
        name: (np.array(sorted(values)), np.array([values[step] for step in sorted(values)]))
        for name, values in columns.items()
    }


def _certificate(path: Path, result: Mapping[str, Any] | None) -> Certified:
    problems: list[str] = []
    card = _attempt(problems, lambda: read_card(path), {})
    entry = result_entry(result, card, path.stem)
    logs = [log for log in (path.with_suffix(".tsv"), path.with_suffix(".tsv.gz")) if log.exists()]
    rows, why = None, None
    if logs:
        rows = _attempt(problems, lambda: CertificateLog(logs[0], read_only=True).read().sorted(), None)
        if rows is not None:
            found = rows
            why = _attempt(problems, lambda: disagreement(found, card, CertificateLog(logs[0], read_only=True)), None)
    else:
        problems.append(f"there is no log beside the card {path.name}: only its summary is shown")
    broken = _attempt(problems, lambda: read_counterexamples(path), ())
    figures = _figures(problems, entry if entry is not None else card.get("summary"))
    return Certified(path.stem, card, rows, figures, broken, tuple(problems), why)


def _without_card(name: str, entry: object) -> Certified:
    problems = ["the run has no card and no log of it: only the figures of result.json are shown"]
    return Certified(name, {}, None, _figures(problems, entry), (), tuple(problems))


def _figures(problems: list[str], entry: object) -> Entry | None:
    if entry is None:
        return None
    wanted = {"claim": dict, "clean": float | int, "certified": dict, "n": int, "certifier": str}
    if isinstance(entry, dict) and all(isinstance(entry.get(key), kind) for key, kind in wanted.items()):
        try:
            claim_of(entry)
            return entry
        except UserError as error:
            problems.append(error.what)
    problems.append("its figures are not those of a certificate: they are left out")
    return None


def _attempt(problems: list[str], read: Callable[[], T], otherwise: T) -> T:
    try:
        return read()
    except UserError as error:
        problems.append(error.what)
    except (OSError, ValueError, KeyError, TypeError, csv.Error, yaml.YAMLError) as error:
        problems.append(f"{type(error).__name__}: {error}")
    return otherwise


def _json(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if not isinstance(value, dict):
        raise ValueError(f"{path} does not hold an object")
    return value


def _number(text: object) -> float | None:
    try:
        value = float(text) if isinstance(text, str) and text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None
