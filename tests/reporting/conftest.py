"""A test result as result.json holds it: three bounds on the same examples, and a smoothing certificate."""

import numpy as np
import pytest
from claims import LINF, SMOOTHED

PGD = {"2/255": 0.95, "0.1": 0.925, "0.3": 0.5}
PROVED = {"crown": (0.9361, 0.86, 0.3), "ibp": (0.925, 0.8472, 0.1), "crown_ibp": (0.93, 0.85, 0.2)}


@pytest.fixture
def bounds():
    common = {"claim": LINF.to_dict(), "clean": 0.9625, "acr_grid": 0.1, "abstained": 0, "invalid": 0, "n": 10_000}
    return {
        f"test_{name}": {
            **common,
            "certified": dict(zip(PGD, proved)),
            "indices_sha256": "a" * 64,
            "certifier": name,
            "settings": {"stages": [{"bound": name}], "precision": "float64"},
            "seconds": 1234.56,
            "pgd": PGD,
        }
        for name, proved in PROVED.items()
    }


@pytest.fixture
def radii():
    """Per-example radii with 5 wrong or abstained, of 40."""
    values = np.linspace(0.0, 0.9, 40)
    values[::8] = -1
    return values


@pytest.fixture
def smoothing(radii):
    grid = ("0", "0.25", "0.5")
    return {
        "test_smoothing": {
            "claim": SMOOTHED.to_dict(),
            "clean": float((radii >= 0).mean()),
            "certified": {text: float((radii >= float(text)).mean()) for text in grid},
            "acr": 0.41239,
            "abstained": 3,
            "invalid": 0,
            "n": 40,
            "indices_sha256": "b" * 64,
            "certifier": "smoothing",
            "settings": {"sigma": 0.25, "n0": 100, "n": 10_000, "alpha": 0.001},
            "seconds": 33.25,
        }
    }
