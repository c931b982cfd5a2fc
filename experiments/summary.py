"""The README's result tables from the committed results: `python experiments/summary.py` writes them into it.

`--check` writes nothing and fails when the README differs from what the results give.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
LABELS = {"ibp": "IBP", "crown_ibp": "CROWN-IBP", "crown": "CROWN", "alpha_crown": "α-CROWN"}


def results() -> dict[str, list[dict[str, Any]]]:
    """The committed results by experiment, in the order of their seeds."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in sorted(HERE.glob("*/*/result.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        found[path.parent.parent.name].append(result)
    return dict(sorted(found.items()))


def spread(values: list[float], scale: float = 100.0, digits: int = 1) -> str:
    """Mean, and over several seeds the sample standard deviation."""
    mean = f"{scale * statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {scale * statistics.stdev(values):.{digits}f}"


def bounds_table(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Deterministic certificates: per experiment and radius what each bound proves."""
    lines = [
        "| experiment | l-inf radius | clean | certified: IBP | CROWN-IBP | CROWN | PGD bound | n | seeds | training |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for experiment, runs in found.items():
        tests = [run["test"] for run in runs]
        if not all("crown" in test for test in tests):
            continue
        for radius in tests[0]["crown"]["certified"]:
            cells = [spread([test["crown"]["clean"] for test in tests])]
            cells += [spread([t[name]["certified"][radius] for t in tests]) for name in ("ibp", "crown_ibp", "crown")]
            pgd = [min(test[name]["pgd"][radius] for name in ("ibp", "crown_ibp", "crown")) for test in tests]
            n, minutes = tests[0]["crown"]["n"], statistics.fmean(run["seconds"] for run in runs) / 60
            tail = [f"{n:,}", str(len(runs)), f"{minutes:.1f} min"]
            lines.append("| " + " | ".join([f"`{experiment}`", radius, *cells, spread(pgd), *tail]) + " |")
    return lines


def smoothing_table(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Certificates of randomized smoothing, each with its number of draws."""
    lines = [
        "| experiment | sigma | draws n | smoothed | certified at l2 radius | ACR | abstained | images | seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for experiment, runs in found.items():
        names = [name for name in runs[0]["test"] if name.startswith("smoothing")]
        for name in sorted(names, key=lambda name: runs[0]["test"][name]["settings"]["n"]):
            entries = [run["test"][name] for run in runs if name in run["test"]]
            settings = entries[0]["settings"]
            radii = [f"{r}: {spread([e['certified'][r] for e in entries])}" for r in entries[0]["certified"]]
            cells = [f"`{experiment}`", f"{settings['sigma']:g}", f"{settings['n']:,}"]
            cells += [spread([e["clean"] for e in entries]), "<br>".join(radii)]
            cells += [spread([e["acr"] for e in entries], scale=1, digits=3)]
            cells += [
                spread([e["abstained"] / e["n"] for e in entries]) + " %",
                f"{entries[0]['n']:,}",
                f"{len(entries)}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def block() -> str:
    """What stands between the markers."""
    found = results()
    return "\n".join(
        [
            "Deterministic certificates (%, test set, float64 proofs):",
            "",
            *bounds_table(found),
            "",
            "Randomized smoothing (%, alpha = 0.001 per image):",
            "",
            *smoothing_table(found),
        ]
    )


def main() -> None:
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    new = f"{before}{BEGIN}\n{block()}\n{END}{after}"
    if "--check" in sys.argv:
        sys.exit(0 if new == text else "README.md differs from experiments/: run python experiments/summary.py")
    README.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
