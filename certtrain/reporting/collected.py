"""Finds the results of a paper's rows among run directories, and groups those that are seeds of one setting."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from certtrain.claim import claim_of
from certtrain.errors import UserError
from certtrain.reporting.entries import Entry
from certtrain.reporting.published import Row
from certtrain.runs.directory import ABSENT, RunDirectory, config_differences

# Of an override: what makes no other setting of an experiment, only another seed, place or report of it.
NO_SETTING = ("experiment", "seed", "name", "resume", "runs_dir", "data_dir", "data.data_dir", "certify_test", "logger")
NO_SETTING += ("trainer.accelerator", "trainer.check_every_n_steps", "checkpoint.every_n_seconds", "validation")
# Of the certify stage: they stand in each of its entries.
NO_SETTING += ("n", "n0", "alpha", "radii", "budget", "falsify")
NO_DIFFERENCE = (*NO_SETTING, "choices", "data.seed", "certifier")
# Of a certificate: which noise was drawn, and how many rows went through the network at a time.
NO_CLAIM = ("seed", "batch_size")


@dataclass(frozen=True)
class Run:
    """One finished run: its result, and what it was made with."""

    path: Path
    result: dict[str, Any]
    overrides: tuple[str, ...]
    """Those that make a setting of their own."""
    config: dict[str, Any]
    hardware: str

    @property
    def seed(self) -> int:
        return int(self.result["seed"])


@dataclass(frozen=True)
class Skipped:
    """A file that could not be used, and why."""

    path: Path
    reason: str
    damaged: bool = True
    """False for results that are whole but not complete, such as an interrupted run's."""


@dataclass
class Group:
    """Results of one row under one setting and one certificate, a run per seed: what may be averaged."""

    row: Row
    overrides: tuple[str, ...]
    marks: tuple[str, ...]
    """What tells it from an earlier group of the same row, overrides and certifier."""
    runs: list[Run] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    seeds: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Collection:
    """The runs found, by experiment, and what was skipped."""

    runs: dict[str, list[Run]]
    skipped: tuple[Skipped, ...]


def collect(roots: Iterable[str | Path]) -> Collection:
    """Every complete run below the given folders, by its experiment.

    A damaged or foreign `result.json` is skipped and named, and so is a certificate that was falsified; a run that lies
    in two places counts once.
    """
    runs: dict[str, list[Run]] = {}
    skipped: list[Skipped] = []
    for path in _results(roots):
        try:
            run = _read(path)
        except (UserError, OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            reason = error.what if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            skipped.append(Skipped(path, reason))
            continue
        experiment = run.result.get("experiment")
        if run.result["status"] != "complete" or not experiment:
            if experiment:
                skipped.append(Skipped(path, f"{run.result['status']}, not complete", damaged=False))
            continue
        for name in [name for name, entry in run.result["test"].items() if entry.get("falsified")]:
            del run.result["test"][name]
            skipped.append(Skipped(path, f"its certificate {name} was falsified by an attack"))
        runs.setdefault(experiment, []).append(run)
    return Collection(runs, tuple(skipped))


def _results(roots: Iterable[str | Path]) -> Iterator[Path]:
    seen: set[Path] = set()
    for root in roots:
        for path in sorted(Path(root).glob("**/result.json")):
            if path.resolve() not in seen:
                seen.add(path.resolve())
                yield path


def _read(path: Path) -> Run:
    directory = RunDirectory(path.parent)
    result = directory.read_result()
    if result is None or "seed" not in result or not isinstance(result.get("test"), dict):
        raise UserError("not the result of a training run")
    for name, entry in result["test"].items():
        missing = {"claim", "clean", "certified", "n", "certifier", "settings", "indices_sha256"} - set(entry)
        if missing:
            raise UserError(f"its certificate {name} lacks {', '.join(sorted(missing))}")
    overrides = tuple(sorted(o for o in directory.read_overrides() if _makes_a_setting(o)))
    environment = json.loads(directory.environment.read_text(encoding="utf-8"))
    return Run(path.parent, result, overrides, directory.read_config(), hardware_text(environment.get("hardware", {})))


def _makes_a_setting(override: str) -> bool:
    key = override.lstrip("+~").split("=", 1)[0]
    return key != "trainer" and not any(key == name or key.startswith(f"{name}.") for name in NO_SETTING)


def hardware_text(hardware: dict[str, Any]) -> str:
    """`2 cores AMD EPYC`, or the accelerators."""
    accelerators = [
        a.get("name", "accelerator") if isinstance(a, dict) else str(a) for a in hardware.get("accelerators", [])
    ]
    if accelerators:
        return f"{len(accelerators)} x {accelerators[0]}"
    return f"{hardware.get('usable_cores', hardware.get('cores', '?'))} cores {hardware.get('cpu', 'CPU')}"


def groups_of(row: Row, runs: Sequence[Run], *, every_certifier: bool = False) -> list[Group]:
    """The row's groups: same overrides, same configuration, same certificate settings and examples; one run per seed.

    Results of one seed that disagree are never averaged: the second opens a group of its own. Results over sizes of
    features are those of the rows whose norm names them.

    Args:
        row: of the paper.
        runs: of the row's experiment.
        every_certifier: also certificates that the row does not name.
    """
    found = _Found(row)
    for run in sorted(runs, key=lambda run: (run.overrides, run.seed, str(run.path))):
        for name, entry in run.result["test"].items():
            named = every_certifier or entry["certifier"] in row.verifiers
            if named and _scaled_by(claim_of(entry).threat) == _scaled_by(row.norm):
                found.add(run, name, entry)
    order = {verifier: place for place, verifier in enumerate(row.verifiers)}
    groups = found.groups
    return sorted(groups, key=lambda g: (bool(g.overrides), g.overrides, order.get(g.entries[0]["certifier"], 99)))


class _Found:
    """The groups found so far, each result looked up among those alone that it could belong to."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.groups: list[Group] = []
        self._known: set[str] = set()
        self._alike: dict[tuple[str, tuple[str, ...]], list[Group]] = {}  # of one certificate and overrides
        self._first: dict[tuple[str, tuple[str, ...]], Group] = {}  # of one certifier and overrides

    def add(self, run: Run, name: str, entry: Entry) -> None:
        """Put a result into the group that it is another seed of, or into one of its own."""
        certificate = _certificate_key(entry)
        if (result := _result_key(certificate, run, entry)) in self._known:
            return
        self._known.add(result)
        alike = self._alike.setdefault((certificate, run.overrides), [])
        group = next((group for group in alike if _fits(group, run)), None)
        if group is None:
            first = self._first.get(peers := (entry["certifier"], run.overrides))
            group = Group(self.row, run.overrides, () if first is None else _marks(first, run, name, entry))
            self._first.setdefault(peers, group)
            alike.append(group)
            self.groups.append(group)
        group.runs.append(run)
        group.seeds.add(run.seed)
        group.entries.append(entry)


def _scaled_by(ball: str) -> str:
    """The name of the sizes of features that a ball has; empty for none."""
    return ball.partition(" scaled by ")[2].split(" (")[0]


def _marks(first: Group, run: Run, name: str, entry: Entry) -> tuple[str, ...]:
    """In what a result differs from the first one of the same certifier and overrides; its place when in nothing."""
    marks = [] if first.runs[0].path == run.path else list(_differences(first.runs[0], run))
    old, new = first.entries[0]["settings"], entry["settings"]
    marks += [
        f"{key}={_mark(key, new[key])}" for key in new if key not in ("n", *NO_CLAIM) and old.get(key) != new[key]
    ]
    same_count = first.entries[0]["n"] == entry["n"]
    if same_count and first.entries[0]["indices_sha256"] != entry["indices_sha256"]:
        marks.append(f"certificate {name}")
    if not marks and same_count and old.get("n") == new.get("n"):
        marks.append(f"run {run.path}")
    return tuple(marks)


def _mark(key: str, value: Any) -> Any:
    """A setting as it is told apart by; sizes of features by their name and hash."""
    return f"{value['name']} ({value['sha256'][:8]})" if key == "scales" else value


def _certificate_key(entry: Entry) -> str:
    """What must agree before two entries are seeds of one thing."""
    settings = {key: value for key, value in entry["settings"].items() if key not in NO_CLAIM}
    shown = [
        entry["certifier"],
        entry["claim"],
        entry["n"],
        entry["indices_sha256"],
        sorted(entry["certified"]),
        settings,
    ]
    return json.dumps(shown, sort_keys=True, default=str)


def _result_key(certificate: str, run: Run, entry: Entry) -> str:
    """The same for one run that lies in two places."""
    return json.dumps([certificate, run.seed, *(entry.get(key) for key in ("clean", "certified", "seconds"))])


def _fits(group: Group, run: Run) -> bool:
    return run.seed not in group.seeds and not _differences(group.runs[0], run)


def _differences(one: Run, other: Run) -> tuple[str, ...]:
    """In what two configurations differ, over the keys that both have: a preset may have been edited in between."""
    found = config_differences(one.config, other.config, NO_DIFFERENCE)
    return tuple(f"{key}: {old} / {new}" for key, old, new in found if ABSENT not in (old, new))
