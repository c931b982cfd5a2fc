"""What became of many runs, read from their run directories; and what seeds of one setting have in common."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from certtrain.certificates.summary import GUESSING
from certtrain.claim import claim_of
from certtrain.errors import UserError
from certtrain.radii import parse_radius
from certtrain.runs.directory import RunDirectory
from certtrain.sweeps.metric import Metric, common_metric

NOT_A_SETTING = ("seed", "seeds", "name", "runs_dir", "data_dir", "resume")


@dataclass(frozen=True)
class Job:
    """One run of several: what was asked for, what came of it."""

    overrides: Mapping[str, str]
    """By key, as written on the command line."""
    run: Path | None = None
    state: str = "failed"
    """complete, interrupted or failed."""
    error: str | None = None
    result: Mapping[str, Any] = field(default_factory=dict)
    monitor: str = ""
    """The validation metric that the run watched."""

    @property
    def validation(self) -> Mapping[str, Any] | None:
        """The validation entry of a complete run; None when there is none."""
        return self.result.get("validation") if self.state == "complete" else None

    @property
    def guessing(self) -> str | None:
        """Why the run's classifier is no better than a guess; None when it is, or was not validated."""
        return (self.validation or {}).get(GUESSING)

    @property
    def setting(self) -> tuple[tuple[str, str], ...]:
        """The overrides but for the seed, and but for what makes no difference."""
        return tuple((k, v) for k, v in self.overrides.items() if k not in NOT_A_SETTING and not k.startswith("hydra"))


def read_job(overrides: Iterable[str], run: str | Path | None, error: str | None, monitor: str = "") -> Job:
    """A job from the overrides of its run and its run directory.

    Args:
        overrides: `key=value`, of a key given twice the last.
        run: the run directory; None when it never had one.
        error: why it failed.
        monitor: the validation metric that it watched.
    """
    pairs = dict(text.lstrip("+~").split("=", 1) for text in overrides if "=" in text)
    result: Mapping[str, Any] = {}
    if run is not None:
        try:
            result = RunDirectory(run).read_result() or {}
        except UserError as broken:
            error = error or broken.what
    state = "failed" if error else str(result.get("status", "interrupted"))
    path = Path(run) if run is not None and Path(run).exists() else None
    return Job(pairs, path, state, error, result, monitor)


@dataclass(frozen=True)
class Comparison:
    """Jobs that may stand in one table: the same kind of certificate of the same threat model on the same examples."""

    metric: Metric
    jobs: tuple[Job, ...]
    """Best first."""


def comparisons(jobs: Sequence[Job]) -> list[Comparison]:
    """The complete jobs with a validation entry, in tables of what may be compared, each sorted by its metric.

    What is no better than a guess comes last: a constant classifier has the certified accuracy of its class.
    """
    groups: dict[tuple[Any, ...], list[Job]] = {}
    for job in jobs:
        if entry := job.validation:
            groups.setdefault(
                ((claim := claim_of(entry)).kind, claim.radii, claim.threat, entry["indices_sha256"]), []
            ).append(job)
    found = []
    for group in groups.values():
        metric = common_metric([job.monitor for job in group], [job.result["validation"] for job in group])
        value = {id(job): (job.guessing is not None, -(metric.of(job.validation) or 0.0)) for job in group}
        found.append(Comparison(metric, tuple(sorted(group, key=lambda job: value[id(job)]))))
    return found


def differing(jobs: Sequence[Job]) -> list[str]:
    """The keys in which the jobs differ, in the order they were written."""
    keys = dict.fromkeys(key for job in jobs for key in job.overrides if not key.startswith("hydra"))
    return [key for key in keys if len({job.overrides.get(key) for job in jobs}) > 1]


def by_setting(jobs: Sequence[Job]) -> dict[tuple[tuple[str, str], ...], list[Job]]:
    """The jobs of each setting, whatever their seed, in the order of their first one."""
    found: dict[tuple[tuple[str, str], ...], list[Job]] = {}
    for job in jobs:
        found.setdefault(job.setting, []).append(job)
    return found


@dataclass(frozen=True)
class Spread:
    """Values of one quantity over seeds."""

    name: str
    values: tuple[float, ...]
    is_share: bool = True

    @property
    def mean(self) -> float:
        return math.fsum(self.values) / len(self.values)

    @property
    def sd(self) -> float | None:
        """The sample standard deviation (n - 1 in the denominator); None for one value."""
        if len(self.values) < 2:
            return None
        mean = self.mean
        return math.sqrt(math.fsum((value - mean) ** 2 for value in self.values) / (len(self.values) - 1))


def spreads(entries: Sequence[Mapping[str, Any]]) -> list[Spread]:
    """Every quantity that all entries (of validation, or of one test certificate) hold: clean, per radius, ACR."""
    found = [Spread("clean (%)", tuple(entry["clean"] for entry in entries))]
    shared = set.intersection(*(set(entry["certified"]) for entry in entries))
    for radius in sorted(shared, key=parse_radius):
        metric = Metric.certified(radius, claim_of(entries[0]).symbol)
        found.append(Spread(metric.text, tuple(entry["certified"][radius] for entry in entries)))
    for key, text in (("acr", "ACR"), ("acr_grid", "ACR on the grid")):
        if all(entry.get(key) is not None for entry in entries):
            found.append(Spread(text, tuple(entry[key] for entry in entries), is_share=False))
    return found
