"""Where benchmark results go, and what stands in them about the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from certtrain.runs import environment
from certtrain.system.files import write_json_atomic

RESULTS = Path(__file__).parent / "results"
ABOUT = ("started", "git", "python", "packages", "platform", "hardware")


def write_result(name: str, found: dict[str, Any], path: Path | None = None) -> Path:
    """`benchmarks/results/NAME.json`, or the given file: date, commit, versions and hardware before the figures."""
    described = environment.describe()
    return write_json_atomic(path or RESULTS / f"{name}.json", {**{key: described[key] for key in ABOUT}, **found})
