"""The benchmark of certification runs, and what it prints and writes are the same figures; the peer is a fair one."""

import json

import pytest
import torch
from torch import nn

from benchmarks.certification import SECTIONS, main
from benchmarks.field_loop import certify_one
from benchmarks.measure import Timing, clock, interleaved, ratios
from certtrain.smoothing.classifier import SmoothedClassifier

CPU = torch.device("cpu")


def test_contenders_run_in_turn_and_the_warm_up_is_not_counted():
    order = []
    contenders = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    timings = interleaved(contenders, 3, device=CPU, warmup=2)
    assert order == ["a", "b"] * 5
    assert [len(timing.seconds) for timing in timings.values()] == [3, 3]


def test_ratios_are_within_repetitions():
    timings = {"ours": Timing((1.0, 10.0, 2.0)), "peer": Timing((2.0, 20.0, 2.0))}
    assert ratios(timings, "peer", "ours") == {"median": 2.0, "min": 1.0, "max": 2.0}
    assert timings["ours"].to_dict() == {"median": 2.0, "min": 1.0, "max": 10.0, "all": [1.0, 10.0, 2.0]}


def test_one_thread_is_timed_by_the_processor(monkeypatch):
    import time

    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert clock(CPU) is time.process_time
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert clock(CPU) is time.perf_counter


def test_the_loop_over_images_certifies_what_ours_does():
    """A threshold on one input: both classes and radii agree up to the draws."""
    network = nn.Linear(1, 2)
    network.weight.data, network.bias.data = torch.tensor([[1.0], [-1.0]]), torch.tensor([-0.5, 0.5])
    torch.manual_seed(0)
    options = {"n0": 50, "n": 2000, "alpha": 0.001}
    for value, label in ((0.9, 0), (0.2, 1)):
        x = torch.tensor([value])
        predict, radius = certify_one(network, x, 0.5, 2, batch=300, **options)
        ours = SmoothedClassifier(network, 0.5, 2).certify(x[None], torch.zeros(1, dtype=torch.int64), **options)
        assert predict == label == ours.predict[0]
        assert radius == pytest.approx(float(ours.radius[0]), abs=0.06)
        assert radius < abs(value - 0.5)
    assert certify_one(network, torch.tensor([0.5]), 0.5, 2, batch=300, **options) == (-1, 0.0)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_runs_and_writes_its_rows(tmp_path, capsys, section):
    threads = torch.get_num_threads()
    try:
        assert main(["--quick", "--only", section, "--repetitions", "1", "--output", str(tmp_path / "one.json")]) == 0
    finally:
        torch.set_num_threads(threads)
    found = json.loads((tmp_path / "one.json").read_text())
    assert found["hardware"]["cores"]
    assert found["packages"]["torch"]
    assert found["clock"] == "processor time"
    assert found["rows"]
    shown = capsys.readouterr().out
    assert max(len(line) for line in shown.splitlines()[:-1]) <= 100
    for row in found["rows"]:
        assert row["section"] == section
        assert row["ratio"]["median"] == pytest.approx(row["ours"]["rate"] / row["peer"]["rate"])
        assert row["name"] in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--only", "througput"], "did you mean throughput"), (["--repetitions", "0"], "at least 1")],
)
def test_mistakes_are_explained(capsys, arguments, words):
    assert main(arguments) == 2
    assert words in capsys.readouterr().out
