"""The projection is of the phases it names; operations are those of three passes; the table fits."""

import io
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from torch import nn

from benchmarks import recipe
from certtrain.methods import Standard


def test_each_phase_is_the_one_it_is_called():
    phases = {name: method.phase(5) for name, method in recipe.phases().items()}
    assert (phases["ibp warm-up"].robust, phases["ibp warm-up"].regularised) == (False, True)
    assert (phases["ibp ramp"].robust, phases["ibp ramp"].regularised) == (True, True)
    assert (phases["ibp after the ramp"].robust, phases["ibp after the ramp"].regularised) == (True, False)
    assert phases["crown_ibp fused ramp"].methods == ("ibp", "crown_ibp")
    assert not any(phase.natural for name, phase in phases.items() if name != "ibp warm-up")
    assert sum(recipe.EPOCHS.values()) == 160


def test_operations_are_counted_without_running_them(monkeypatch):
    scale = replace(recipe.QUICK, batch=2)
    monkeypatch.setattr(recipe, "network", lambda scale: nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)))
    # Forward, and the gradient of the weight: inputs need none. Two operations for each weight and example.
    assert recipe.operations(Standard(), scale) == 2 * 2 * 2 * 3 * 32 * 32 * 10


def test_bounds_take_three_times_an_ordinary_steps_operations():
    ibp = recipe.operations(recipe.phases()["ibp after the ramp"], recipe.QUICK)
    assert ibp / recipe.operations(Standard(), recipe.QUICK) == pytest.approx(3, rel=0.05)


def test_the_projection_adds_up_and_the_table_fits():
    rows = [
        {"variant": "tf32, compiled", "phase": phase, "seconds": 0.5, "range": [0.25, 1.0], "peak_mib": 123456.0}
        | {"tera_per_second": 123.456, "of_peak": 0.25, "operations": 1}
        for phase in recipe.phases()
    ]
    assert recipe.minutes(rows, "tf32, compiled", 98) == pytest.approx(160 * 98 * 0.5 / 60)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(recipe.table(rows, 512))
    assert max(map(len, console.export_text().splitlines())) <= 100


def test_it_runs_and_says_that_it_is_a_sketch(capsys):
    threads = torch.get_num_threads()
    try:
        assert recipe.main(["--quick"]) == 0
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    assert "ibp after the ramp" in printed
    assert "not the recipe's own size" in printed


def test_bad_arguments(capsys):
    assert recipe.main(["--only", "float16"]) == 2
    assert "there is no 'float16'" in capsys.readouterr().out
