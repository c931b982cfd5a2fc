"""The validation metric that runs are compared by, read from the `validation` entry of `result.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from certtrain.claim import claim_of

CLEAN = "val/certified_clean"


@dataclass(frozen=True)
class Metric:
    """A number in a validation entry, by the name that training logs it under; larger is better.

    Args:
        name: `val/certified@2_255`, `val/acr`, `val/acr_grid` or `val/certified_clean`.
        symbol: of the threat model, for the text.
    """

    name: str
    symbol: str = ""

    @classmethod
    def certified(cls, radius: str, symbol: str = "") -> Metric:
        """Certified accuracy at a radius, given by its text."""
        return cls(f"val/certified@{radius.replace('/', '_')}", symbol)

    @property
    def radius(self) -> str | None:
        """The text of the radius that certified accuracy is asked at."""
        prefix = "val/certified@"
        return self.name.removeprefix(prefix).replace("_", "/") if self.name.startswith(prefix) else None

    @property
    def is_share(self) -> bool:
        """Whether it is a share of the examples, shown in percent; else it is a radius."""
        return self.radius is not None or self.name == CLEAN

    @property
    def text(self) -> str:
        """`certified at l-inf 2/255 (%)`, `ACR`, `clean (%)`."""
        if self.radius is not None:
            return f"certified at {self.symbol} {self.radius} (%)".replace("  ", " ")
        return {CLEAN: "clean (%)", "val/acr": "ACR", "val/acr_grid": "ACR on the grid"}.get(self.name, self.name)

    def of(self, entry: Mapping[str, Any] | None) -> float | None:
        """The value, None where the entry does not hold it."""
        if not entry:
            return None
        if self.radius is not None:
            return entry["certified"].get(self.radius)
        return entry.get({CLEAN: "clean"}.get(self.name, self.name.removeprefix("val/")))


def common_metric(monitors: list[str], entries: list[Mapping[str, Any]]) -> Metric:
    """What entries of one norm and one kind are sorted by: the metric that all their runs watch, else one they share.

    Runs that train for different eps watch different radii; certified accuracy at the largest radius that all of them
    report is then the same question for all. Without a common radius it is clean accuracy.

    Args:
        monitors: name of the metric that each run watched.
        entries: their validation entries.
    """
    from certtrain.radii import parse_radius

    symbol = claim_of(entries[0]).symbol
    if len(set(monitors)) == 1 and all(Metric(monitors[0]).of(entry) is not None for entry in entries):
        return Metric(monitors[0], symbol)
    if all("acr" in entry for entry in entries):
        return Metric("val/acr", symbol)
    shared = set.intersection(*(set(entry["certified"]) for entry in entries))
    return Metric.certified(max(shared, key=parse_radius), symbol) if shared else Metric(CLEAN, symbol)
