"""What was run, and where: what the page says of the configuration and the environment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml

from certtrain.reporting.page.evidence import Evidence

RESULT = (
    "experiment",
    "method",
    "data",
    "model",
    "parameters",
    "seed",
    "epochs",
    "steps",
    "checkpoint",
    "checkpoint_chosen",
)
CONFIG = ("norm", "scales", "eps", "train_eps", "sigma", "radii", "alpha", "n0", "n", "val_size")
# Without meaning for the other family.
BOUNDS, VOTES = ("norm", "scales", "eps", "train_eps"), ("sigma", "alpha", "n0", "n")


def configuration_view(evidence: Evidence) -> dict[str, Any]:
    """The scalars that decide, what the user wrote, and the whole configuration."""
    result = evidence.result or {}
    pairs = [(key.replace("_", " "), _text(result.get(key))) for key in RESULT]
    method = evidence.config.get("method")
    noisy = isinstance(method, Mapping) and "sigma" in method
    noisy |= bool(evidence.certificates) and all(c.probabilistic for c in evidence.certificates)
    others = BOUNDS if noisy else VOTES
    pairs += [(key, _text(evidence.config.get(key))) for key in CONFIG if key not in others]
    if isinstance(result.get("seconds"), (int, float)):
        pairs.append(("training", f"{result['seconds']:,.1f} s"))
    if isinstance(source := result.get("source"), Mapping):
        pairs += [(f"source: {key}", _text(value)) for key, value in source.items()]
    dumped = yaml.safe_dump(dict(evidence.config), sort_keys=False, width=100, allow_unicode=True)
    return {"facts": _said(pairs), "written": " ".join(evidence.overrides), "whole": dumped if evidence.config else ""}


def environment_view(evidence: Evidence) -> dict[str, Any]:
    """The commit, the packages, the machine, and every session that resumed the run."""
    described = evidence.environment
    rest = {key: value for key, value in described.items() if key not in ("resumed", "packages", "diff")}
    resumed = described.get("resumed") or []
    packages = described.get("packages") or {}
    dirty = (described.get("git") or {}).get("dirty") if isinstance(described.get("git"), Mapping) else None
    notes = [f"Resumed {len(resumed)} times."] * bool(resumed)
    notes += ["The code had changes that were not committed: diff.patch in the run."] * bool(dirty)
    versions = _said((key, _text(value)) for key, value in packages.items())
    return {"known": bool(described), "facts": _said(_flat(rest)), "notes": " ".join(notes), "packages": versions}


def _said(pairs: Iterable[tuple[str, str | None]]) -> list[tuple[str, str]]:
    return [(key, value) for key, value in pairs if value]


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str | None]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{prefix}{key}: ")
        else:
            yield f"{prefix}{key}", _text(inner)


def _text(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if value >= 10_000 else str(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item) for item in value) or "none"
    return str(value)
