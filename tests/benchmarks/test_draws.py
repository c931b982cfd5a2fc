"""The comparison of draws: right sums, and nothing compared that is not alike."""

import json

import numpy as np
import pytest
from claims import SMOOTHED, STAGED

from benchmarks.draws import main
from certtrain.certificates import CertificateLog, Certificates, write_card

SETTINGS = {"sigma": 0.5, "alpha": 0.001, "budget": "alpha for each example", "n0": 100, "seed": 0}


def write(folder, name, radius, draws, *, staged, **card):
    n, predict = len(radius), np.where(np.array(radius) < 0, -1, 1)
    columns = {"n": np.array(draws), "count_top": np.array(draws)}
    columns |= {"stage": np.ones(n, int)} if staged else {}
    held = np.maximum(radius, 0)
    CertificateLog(folder / f"{name}.tsv").append(
        Certificates(np.arange(n), np.ones(n), predict, held, predict == 1, np.full(n, 0.5), columns)
    )
    common = {
        "claim": (STAGED if staged else SMOOTHED).to_dict(),
        "checkpoint_sha256": "c",
        "indices_sha256": "i",
        "dataset": "mnist",
        "split": "test",
        "radii": ["0.5", "1"],
    }
    write_card(folder / f"{name}.json", {**common, "settings": {**SETTINGS, "n": 1000}, **card})
    return str(folder / f"{name}.tsv")


def test_figures_by_hand(tmp_path, capsys):
    fixed = write(tmp_path, "fixed", [1.2, 0.9, 0.2, -1], [1000] * 4, staged=False)
    anytime = write(tmp_path, "anytime", [1.0, 0.5, 0.5, -1], [40, 60, 1000, 100], staged=True)
    assert main([fixed, anytime, "--output", str(tmp_path / "found.json")]) == 0
    [found] = json.loads((tmp_path / "found.json").read_text())
    assert found["mean_draws"] == 300
    assert found["fewer"] == pytest.approx(1000 / 300)
    assert found["undecided"] == 1
    half = found["by_target"][1]
    assert (half["fixed"], half["anytime"], half["only_fixed"], half["only_anytime"]) == (0.5, 0.75, 0, 1)
    assert (half["reached"], half["mean_draws"]) == (2, 530)
    assert found["by_target"][2]["median_draws"] == 40
    printed = capsys.readouterr().out
    assert "3.3 times fewer than n = 1,000" in " ".join(printed.split())
    assert max(map(len, printed.splitlines())) <= 100


@pytest.mark.parametrize(
    "card", [{"checkpoint_sha256": "other"}, {"settings": {**SETTINGS, "n": 1000, "alpha": 0.01}}, {"split": "val"}]
)
def test_other_things_are_not_compared(tmp_path, capsys, card):
    fixed = write(tmp_path, "fixed", [1.2], [1000], staged=False)
    anytime = write(tmp_path, "anytime", [1.0], [40], staged=True, **card)
    assert main([fixed, anytime]) == 2
    assert "the logs differ in" in capsys.readouterr().out


def test_the_fixed_one_comes_first(tmp_path, capsys):
    fixed = write(tmp_path, "fixed", [1.2], [1000], staged=False)
    anytime = write(tmp_path, "anytime", [1.0], [40], staged=True)
    assert main([anytime, fixed]) == 2
    assert "first a log of a fixed n" in capsys.readouterr().out
