"""The table of a README's first screen: one line a row, each with its own claim."""

from paper_files import ENTRY, ROWS, SMOOTHED, make_paper, make_run

from certtrain.reporting.collected import collect
from certtrain.reporting.comparison import compare
from certtrain.reporting.front import front
from certtrain.reporting.published import read_paper


def bodies(paper, runs):
    text = front([(read_paper(paper), compare(read_paper(paper), collect([runs])))])
    return [line for line in text.splitlines() if line.startswith("| `")], text


def test_each_line_says_what_it_claims(tmp_path):
    target = {"acr": 1.0, "certified": {"0.5": 0.85}, "n": 4, "source": "logs", "provenance": "log"}
    noise = {"family": "smoothing", "data": "d", "network": "n", "norm": "l2", "sigma": 0.5, "verifier": "smoothing"}
    paper = make_paper(tmp_path / "p", {**ROWS, "noise": {**noise, "published": target}})
    make_run(tmp_path / "runs", "p/small", 0)
    make_run(tmp_path / "runs", "p/small", 0, overrides=["epochs=3"])  # not the preset's own setting
    more = {**SMOOTHED, "acr": 0.95, "settings": {**SMOOTHED["settings"], "n": 10000}}
    make_run(tmp_path / "runs", "p/noise", 0, {"few": SMOOTHED, "many": more})
    lines, text = bodies(paper, tmp_path / "runs")
    assert lines == [
        "| `p/small` | MNIST, two layers | l-inf, eps 0.3: proved | 98.00 (98.00) % | 90.00 (91.00) % by IBP | 10,000 "
        "| 1 | 1.01 |",
        "| `p/noise` | d, n | l2, sigma 0.5: with probability 1 - alpha | 90.00 % | ACR 0.950 (1.000)<br>80.00 (85.00) "
        "% at 0.5 | 4 | 1 | 1.02 |",
    ]
    assert text.endswith("hours: training and certifying, mean per seed, on 2 cores a CPU.\n")


def test_other_images_stand_without_a_published_figure(tmp_path):
    make_run(tmp_path / "runs", "p/small", 0, {"ibp": {**ENTRY, "indices_sha256": "others"}})
    [line], _ = bodies(make_paper(tmp_path / "p"), tmp_path / "runs")
    assert "| 98.00 % | 90.00 % by IBP |" in line
