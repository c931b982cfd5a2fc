"""The short table: one line per row, ours with the published figure in brackets."""

from claims import STAGED
from paper_files import ENTRY, SMOOTHED, make_paper, make_run

from certtrain.reporting.brief import brief
from certtrain.reporting.collected import collect
from certtrain.reporting.comparison import compare
from certtrain.reporting.published import read_paper


def test_one_line_per_row_that_ran(tmp_path):
    paper = read_paper(make_paper(tmp_path / "p"))
    crown = {**ENTRY, "certifier": "crown", "certified": {"0.3": 0.5}}
    for seed in (0, 1):
        make_run(tmp_path / "runs", "p/small", seed, {"ibp": ENTRY, "crown": crown})
    text = brief([(paper, compare(paper, collect([tmp_path / "runs"]), every_certifier=True))])
    [line] = [line for line in text.splitlines() if "p/small" in line]
    cells = "| `p/small` | MNIST, two layers | 0.3 | 98.00 ± 0.00 (98.00) | 90.00 ± 0.00 (91.00) | IBP |"
    assert line == f"{cells} 10,000 | 2 | 1.01 |"
    assert "large" not in text
    assert "on 2 cores a CPU" in text


def test_smoothing_shows_the_published_radii_and_the_draws(tmp_path):
    target = {"clean": 0.9, "certified": {"1": 0.6}, "acr": 1.0, "n": 4, "source": "logs", "provenance": "log"}
    row = {"data": "d", "network": "n", "norm": "l2", "sigma": 0.5, "verifier": "smoothing", "published": target}
    paper = read_paper(make_paper(tmp_path / "p", {"s": row}, family="smoothing"))
    make_run(tmp_path / "runs", "p/s", 0, {"smoothing": SMOOTHED})
    text = brief([(paper, compare(paper, collect([tmp_path / "runs"])))])
    assert "| `p/s` | d, n | 0.5 | 90.00 (90.00) | 1: 50.00 (60.00) | 0.900 (1.000) | 1,000 | 4 | 1 | 1.02 |" in text
    assert "probability 1 - alpha" in text


def test_staged_draws_have_no_average_radius(tmp_path):
    row = {"data": "d", "network": "n", "norm": "l2", "sigma": 0.5, "verifier": "anytime"}
    paper = read_paper(make_paper(tmp_path / "p", {"s": row}, family="smoothing"))
    staged = {**SMOOTHED, "certifier": "anytime", "claim": STAGED.to_dict(), "acr": None, "mean_draws": 212.4}
    make_run(tmp_path / "runs", "p/s", 0, {"anytime": staged})
    text = brief([(paper, compare(paper, collect([tmp_path / "runs"])))])
    assert "1: 50.00 | – | 212 | 4 | 1 |" in text


def test_without_a_published_figure_the_best_certifier_counts(tmp_path):
    row = {"data": "d", "network": "n", "norm": "linf", "eps": "0.3", "verifier": ["ibp", "crown"]}
    paper = read_paper(make_paper(tmp_path / "p", {"s": row}))
    crown = {**ENTRY, "certifier": "crown", "certified": {"0.1": 0.95, "0.3": 0.92}}
    make_run(tmp_path / "runs", "p/s", 0, {"ibp": ENTRY, "crown": crown})
    text = brief([(paper, compare(paper, collect([tmp_path / "runs"])))])
    assert "| 98.00 | 92.00 | CROWN |" in text
