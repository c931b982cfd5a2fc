"""A cascade's statuses and stages, as they are printed."""

import pytest
from claims import LINF
from rich.console import Console

from certtrain.reporting.tables import result_tables

NAMES = ("misclassified", "verified", "falsified", "unknown", "invalid", "error")


def lines(renderable, width=100):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(renderable)
    return [line.rstrip() for line in console.export_text().splitlines()]


@pytest.fixture
def entry():
    counts = {"8/255": (600, 9000, 100, 200, 60, 40), "0.1": (600, 8000, 1100, 200, 60, 40)}
    return {
        **{
            "claim": LINF.to_dict(),
            "clean": 0.94,
            "certified": {"8/255": 0.9, "0.1": 0.8},
            "acr_grid": 0.09,
            "n": 10000,
        },
        **{"abstained": 0, "invalid": 60, "error": 40, "pgd": {"8/255": 0.93, "0.1": 0.83}, "indices_sha256": "a"},
        **{"certifier": "cascade", "settings": {"bisect": "0.001"}, "seconds": 1234.5},
        "statuses": {radius: dict(zip(NAMES, values)) for radius, values in counts.items()},
        "stages": {
            "attack": {"seen": 9400, "decided": 1100, "seconds": 94.0},
            "ibp": {"seen": 8300, "decided": 8000, "seconds": 0.83},
            "alpha_crown": {"seen": 0, "decided": 0, "seconds": 0.0},
        },
        "float32_changed": None,
    }


def test_statuses_add_up_by_radius_and_stages_say_what_they_cost(entry):
    printed = lines(result_tables({"cascade": entry}))
    assert max(map(len, printed)) <= 100
    cells = [line.split() for line in printed]
    assert ["8/255", "600", "9,000", "100", "200", "60", "40", "10,000"] in cells
    assert ["0.1", "600", "8,000", "1,100", "200", "60", "40", "10,000"] in cells
    assert ["radius", *NAMES, "n"] in cells
    assert ["attack", "9,400", "1,100", "94.0", "10.00"] in cells
    assert ["IBP", "8,300", "8,000", "0.8", "0.10"] in cells
    assert ["α-CROWN", "0", "0", "0.0", "–"] in cells
    text = "\n".join(printed)
    assert "float64 changed" not in text
    assert "largest certified eps" not in text


def test_the_screen_and_the_bisection_are_told_when_there_were_any(entry):
    text = "\n".join(lines(result_tables({"cascade": entry | {"float32_changed": 1200, "largest_eps": 0.123456789}})))
    assert "float64 changed 1,200 of the float32 screen's verdicts" in text
    assert "mean largest certified eps, to 0.001: 0.123457 (no ACR)" in text


def test_what_was_falsified_is_marked_and_shows_no_verified(entry):
    broken = {"falsified": True, "falsification": {"hits": 3, "attacked": 100}}
    printed = lines(result_tables({"cascade": entry | broken}))
    text = "\n".join(printed)
    assert "cascade (FALSIFIED): an attack broke 3 of 100 certificates" in text
    assert "9,000" not in text
    assert "90.00" not in text
    [row] = [line.split() for line in printed if line.split()[:2] == ["8/255", "94.00"]]
    assert row[2] == "–"
    assert row[-2:] == ["93.00", "10,000"]
