"""The metric that runs are compared by: its value in a validation entry, its text, and what several runs share."""

import pytest
from claims import LINF, SMOOTHED

from certtrain.sweeps.metric import Metric, common_metric

BOUNDS = {"claim": LINF.to_dict(), "clean": 0.9, "certified": {"2/255": 0.5, "0.1": 0.25}, "acr_grid": 0.03}
NOISE = {"claim": SMOOTHED.to_dict(), "clean": 0.8, "certified": {"0.25": 0.6}, "acr": 0.4}


@pytest.mark.parametrize(
    ("name", "entry", "value", "text"),
    [
        ("val/certified@2_255", BOUNDS, 0.5, "certified at l-inf 2/255 (%)"),
        ("val/certified@0.1", BOUNDS, 0.25, "certified at l-inf 0.1 (%)"),
        ("val/certified@0.3", BOUNDS, None, "certified at l-inf 0.3 (%)"),
        ("val/certified_clean", BOUNDS, 0.9, "clean (%)"),
        ("val/acr_grid", BOUNDS, 0.03, "ACR on the grid"),
        ("val/acr", NOISE, 0.4, "ACR"),
        ("val/acr", BOUNDS, None, "ACR"),
        ("val/acr", None, None, "ACR"),
    ],
)
def test_value_and_text(name, entry, value, text):
    metric = Metric(name, "l-inf")
    assert metric.of(entry) == value
    assert metric.text == text
    assert metric.is_share == ("acr" not in name)


def test_runs_that_watch_the_same_are_compared_by_it():
    assert common_metric(["val/certified@2_255"] * 2, [BOUNDS, BOUNDS]) == Metric("val/certified@2_255", "l-inf")
    assert common_metric(["val/acr"], [NOISE]).name == "val/acr"


def test_runs_that_watch_different_radii_are_compared_at_the_largest_they_share():
    other = {**BOUNDS, "certified": {"2/255": 0.4, "0.05": 0.3, "0.3": 0.1}}
    assert common_metric(["val/certified@0.1", "val/certified@0.3"], [BOUNDS, other]).radius == "2/255"
    nothing = {**BOUNDS, "certified": {"0.7": 0.1}}
    assert common_metric(["val/certified@0.1", "val/certified@0.7"], [BOUNDS, nothing]).name == "val/certified_clean"
