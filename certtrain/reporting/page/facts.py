"""What was run, and where: the parts of the page about the configuration and the environment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from certtrain.reporting.page.evidence import Evidence
from certtrain.reporting.page.markup import Markup, definitions, details, section, tag

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


def configuration_section(evidence: Evidence) -> Markup:
    """The scalars that decide, what the user wrote, and the whole configuration behind a click."""
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
    written = " ".join(evidence.overrides)
    dumped = yaml.safe_dump(dict(evidence.config), sort_keys=False, width=100, allow_unicode=True)
    return section(
        "configuration",
        "Configuration",
        definitions(pairs),
        tag("p", "Overrides: ", tag("code", written)) if written else None,
        details("The whole configuration (config.yaml)", tag("pre", dumped)) if evidence.config else None,
    )


def environment_section(evidence: Evidence) -> Markup:
    """The commit, the packages, the machine, and every session that resumed the run."""
    described = evidence.environment
    if not described:
        return section("environment", "Environment", tag("p", "There is no environment.json in the run."))
    rest = {key: value for key, value in described.items() if key not in ("resumed", "packages", "diff")}
    resumed = described.get("resumed") or []
    packages = described.get("packages") or {}
    dirty = (described.get("git") or {}).get("dirty") if isinstance(described.get("git"), Mapping) else None
    notes = [f"Resumed {len(resumed)} times."] * bool(resumed)
    notes += ["The code had changes that were not committed: diff.patch in the run."] * bool(dirty)
    return section(
        "environment",
        "Environment",
        definitions((key, value) for key, value in _flat(rest)),
        tag("p", " ".join(notes)) if notes else None,
        details("Package versions", definitions((key, _text(v)) for key, v in packages.items())) if packages else None,
    )


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
