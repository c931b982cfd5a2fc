"""Tables of many runs: a multirun sorted by a validation metric, and the spread over seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from certtrain.errors import in_one_line
from certtrain.reporting.entries import falsified, floored, guess_note, label, percent, rank
from certtrain.sweeps.metric import Metric
from certtrain.sweeps.summary import Comparison, Job, Spread, by_setting, comparisons, differing, spreads
from certtrain.system import escape

MARK = " !"  # beside the clean accuracy of what is no better than a guess
GUESS_LINE = "! no better than a guess (one class for all, or chance level): its certified accuracy says nothing"
ROOM = 55  # characters for settings beside the scores, of 100
LINE, VALUE = 12, 24  # characters of a line of a heading, and of a value


def number(value: float | None, is_share: bool) -> str:
    """A share in percent with two digits, a radius with four, never rounded up; a dash for nothing."""
    if value is None:
        return "–"
    return percent(value) if is_share else floored(value, 4)


def multirun_tables(jobs: Sequence[Job]) -> Group:
    """The summary of a multirun: comparable runs best first, means over seeds where there are several, then failures.

    Args:
        jobs: all of them.
    """
    keys = differing(jobs)
    parts: list[RenderableType] = []
    for comparison in comparisons(jobs):
        parts.append(runs_table(comparison, keys))
        if "seed" in keys and len(keys) > 1:
            parts.append(settings_table(comparison, [key for key in keys if key != "seed"]))
    unvalidated = [job for job in jobs if job.state == "complete" and not job.validation]
    if unvalidated:
        parts.append(Text(f"{len(unvalidated)} runs held out no validation examples and cannot be compared"))
    parts += _failures([job for job in jobs if job.state != "complete"], keys)
    return Group(*parts)


def runs_table(comparison: Comparison, keys: Sequence[str]) -> RenderableType:
    """One row per run, best first by the named validation metric."""
    metric, jobs = comparison.metric, comparison.jobs
    entry = jobs[0].result["validation"]
    title = f"{len(jobs)} runs, best first by the validation metric {metric.name} (n = {entry['n']:,})"
    headings, settings = setting_cells(keys, [job.overrides for job in jobs], ROOM)
    table = _scores(headings, metric, "seconds")
    for job, values in zip(jobs, settings):
        validation = job.result["validation"]
        clean = percent(validation["clean"]) + (MARK if job.guessing else "")
        scores = [clean, number(metric.of(validation), metric.is_share)]
        table.add_row(*values, *scores, f"{job.result.get('seconds', 0.0):,.1f}")
    return Group(Text(title, style="bold"), table, *_guesses(jobs))


def _guesses(jobs: Sequence[Job]) -> list[RenderableType]:
    return [Text(GUESS_LINE, style="bold red")] if any(job.guessing for job in jobs) else []


def _scores(headings: Sequence[str], metric: Metric, last: str) -> Table:
    """An empty table: the settings, clean accuracy, the metric that it is sorted by, and one more column."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    table.add_column("clean (%)", justify="right", no_wrap=True)
    table.add_column(f"{_two_lines(metric)} ▾", justify="right", no_wrap=True)
    table.add_column(last, justify="right", no_wrap=True)
    return table


def setting_cells(
    keys: Sequence[str], rows: Sequence[Mapping[str, str]], room: int
) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of settings: a column for each key where all fit, else one that names each key.

    Headings break after a dot or an underscore, so that a terminal of 100 columns breaks no word.

    Args:
        keys: of the settings.
        rows: their values by key; one that a row lacks is empty.
        room: characters that all columns may take together.
    """
    headings = [_heading(escape.one_line(key)) for key in keys]
    cells = [[escape.one_line(row.get(key, "")) for key in keys] for row in rows]
    columns = [[*heading.split("\n"), *column] for heading, column in zip(headings, zip(*cells))]
    widths = [max(map(len, column)) for column in columns]
    if sum(widths) + 2 * len(widths) <= room and max(widths, default=0) <= VALUE:
        return headings, cells
    named = (zip(map(escape.one_line, keys), row) for row in cells)
    return ["settings"], [[" ".join(f"{key}={value}" for key, value in row if value)] for row in named]


def _heading(key: str) -> str:
    """A key in lines of about LINE characters."""
    lines = [""]
    for part in re.findall(r"[^._]*[._]|[^._]+", key):
        if lines[-1] and len(lines[-1] + part) > LINE:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def settings_table(comparison: Comparison, keys: Sequence[str]) -> RenderableType:
    """One row per setting, mean ± sd over its seeds, best mean first."""
    metric = comparison.metric
    rows = []
    for jobs in by_setting(comparison.jobs).values():
        clean = Spread("clean", tuple(job.result["validation"]["clean"] for job in jobs))
        values = tuple(metric.of(job.validation) or 0.0 for job in jobs)
        rows.append((Spread(metric.name, values, metric.is_share), clean, jobs))
    rows.sort(key=lambda row: (any(job.guessing for job in row[2]), -row[0].mean))
    headings, settings = setting_cells(keys, [jobs[0].overrides for _, _, jobs in rows], ROOM)
    table = _scores(headings, metric, "seeds")
    for (score, clean, jobs), values in zip(rows, settings):
        mark = MARK if any(job.guessing for job in jobs) else ""
        table.add_row(*values, plus_minus(clean) + mark, plus_minus(score), str(len(jobs)))
    return Group(Text(f"mean ± sd over seeds, best first by {metric.name}", style="bold"), table)


def seeds_tables(jobs: Sequence[Job]) -> Group:
    """Mean ± sd over the seeds of one setting: of the validation entry, and of each test certificate that all have."""
    complete = [job for job in jobs if job.state == "complete"]
    parts: list[RenderableType] = []
    failed = [job for job in jobs if job.state != "complete"]
    if not complete:
        return Group(*_failures(failed, ["seed"]))
    of = f"{len(complete)} seeds" if not failed else f"{len(complete)} of {len(jobs)} seeds: the others have no result"
    entries = [job.result["validation"] for job in complete if job.result.get("validation")]
    parts += _guesses_of_seeds(complete)
    if len(entries) == len(complete):
        parts.append(spread_table(f"validation, n = {entries[0]['n']:,}; mean ± sd over {of}", entries))
    shared = set.intersection(*(set(job.result.get("test") or {}) for job in complete))
    for name in sorted(shared, key=lambda name: rank(complete[0].result["test"][name])):
        entries = [job.result["test"][name] for job in complete]
        if broken := [job for job in complete if falsified(job.result["test"][name])]:
            which = ", ".join(f"seed={job.overrides.get('seed', '?')}" for job in broken)
            text = f"test, {label(entries[0])}: no mean, an attack broke certificates of {which}"
            parts.append(Text(text, style="bold red"))
            continue
        title = f"test, certified by {label(entries[0])}, n = {entries[0]['n']:,}; mean ± sd over {of}"
        parts.append(spread_table(title, entries))
    if not parts:
        parts.append(Text("neither validation nor test results to take a mean of", style="bold"))
    return Group(*parts, *_failures(failed, ["seed"]))


def _guesses_of_seeds(jobs: Sequence[Job]) -> list[RenderableType]:
    notes = [(job, guess_note(entry)) for job in jobs for entry in _entries(job)]
    lines = dict.fromkeys(f"seed={job.overrides.get('seed', '?')} is {note}" for job, note in notes if note)
    return [Text(line, style="bold red") for line in lines]


def _entries(job: Job) -> list[Mapping[str, Any]]:
    return [entry for entry in (job.validation, *(job.result.get("test") or {}).values()) if entry]


def spread_table(title: str, entries: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Each quantity: mean ± sd over the entries, least and largest value."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for head in ("mean ± sd", "min", "max"):
        table.add_column(head, justify="right", no_wrap=True)
    for spread in spreads(entries):
        ends = [number(end(spread.values), spread.is_share) for end in (min, max)]
        table.add_row(spread.name, plus_minus(spread), *ends)
    return Group(Text(title, style="bold"), table)


def plus_minus(spread: Spread) -> str:
    """`86.94 ± 0.52`; without the sd for one value."""
    mean = number(spread.mean, spread.is_share)
    if spread.sd is None:
        return mean
    return f"{mean} ± {100 * spread.sd:.2f}" if spread.is_share else f"{mean} ± {spread.sd:.4f}"


def _two_lines(metric: Metric) -> str:
    return metric.text.replace("certified at ", "certified at\n")


def _failures(jobs: Sequence[Job], keys: Sequence[str]) -> list[RenderableType]:
    """One line per job without a result: which, and why."""
    lines: list[RenderableType] = []
    for job in jobs:
        which = " ".join(f"{key}={job.overrides[key]}" for key in keys if key in job.overrides)
        why = in_one_line(job.error or job.result.get("reason") or "not finished")
        lines.append(Text(escape.one_line(f"{job.state}: {which}  ({why})"), style="bold red"))
    return [*lines, Text()] if lines else []
