"""The costs in ordinary steps stay within bounds that only a doubling breaks; the table says what was refused."""

import pytest
import torch

from benchmarks import training
from benchmarks.measure import Timing, interleaved, ratios

# Twice what `benchmarks/results/training.json` holds for the small network: ratios, for machines decide the times.
BOUNDS = {"gaussian": 2.4, "ibp": 6.6, "ibp kappa 0": 4.8, "crown_ibp fused": 11.0, "crown_ibp": 32.0}


def test_no_step_costs_twice_what_it_did():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        case = training.CASES["small"]
        made = training.methods(case.eps)
        names = ("ordinary", *BOUNDS)
        steps = {name: training.stepper(case, *made[name], torch.device("cpu")) for name in names}
        timings = interleaved(steps, 5, device=torch.device("cpu"))
    finally:
        torch.set_num_threads(threads)
    found = {name: ratios(timings, name, "ordinary")["median"] for name in BOUNDS}
    assert all(found[name] < limit for name, limit in BOUNDS.items()), found


def test_every_contender_takes_steps_with_a_finite_loss():
    small = training.Case(lambda: training._network(training.wong_small, training.MNIST), training.MNIST, 0.1, 4, 4)
    for name, (method, engine) in training.methods(0.1).items():
        step = training.stepper(small, method, engine, torch.device("cpu"))
        first, second = step(), step()
        assert torch.isfinite(first), name
        assert torch.isfinite(second), name


def test_the_table_fits_and_names_what_was_refused():
    timings = {"ordinary": Timing((1.0, 2.0)), "ibp": Timing((3.0, 8.0)), "ibp, auto_LiRPA": Timing((6.0, 8.0))}
    rows = [training.row("small", name, timings, 12.5) for name in timings]
    assert rows[1]["ordinary_steps"] == {"median": 3.5, "min": 3.0, "max": 4.0}
    assert rows[1]["faster_than_auto_lirpa"]["median"] == 1.5
    from rich.console import Console

    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(training.table([*rows, {"network": "small", "name": "crown_ibp", "refused": "no rule"}]))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 100
    assert "refused" in text
    assert "1.50x" in text


@pytest.mark.parametrize("arguments", [["--only", "huge"], ["--repetitions", "0"]])
def test_bad_arguments(arguments, capsys):
    assert training.main(arguments) == 2
    assert "benchmarks.training:" in capsys.readouterr().out
