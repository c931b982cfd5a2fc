"""The numbers of a test result under the names that every logger gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NUMBERS = ("clean", "acr", "acr_grid", "abstained", "invalid")


def test_scalars(test: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """`test/NAME/certified@RADIUS` and `test/NAME/clean` ... of each certificate, those that it has.

    Args:
        test: the mapping of `result.json`.
    """
    found = {}
    for name, entry in test.items():
        for radius, fraction in entry["certified"].items():
            found[f"test/{name}/certified@{radius.replace('/', '_')}"] = fraction
        found |= {f"test/{name}/{key}": entry[key] for key in NUMBERS if entry.get(key) is not None}
    return found
