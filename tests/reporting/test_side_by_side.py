"""Of each data set and radius one table: ours, the methods' own papers, benchmarks, best certified first."""

from pathlib import Path

import pytest
from printing import printed

from certtrain.reporting.cells import Cell, figures_of
from certtrain.reporting.comparison import Line
from certtrain.reporting.published import Paper, Point, Published, Row
from certtrain.reporting.side_by_side import comparisons, markdown_comparisons, rich_comparisons

LONG = "2-layer CNN, width 4, BatchNorm (211k parameters)"


def figures(clean, certified, provenance="paper", eps="2/255", **more):
    shared = {"verifier": "MN-BaB", "n": 10000}
    return Published("table 1", provenance, clean=clean, certified={eps: certified}, **shared | more)


def row(paper, method, published=None, data="CIFAR-10", network="CNN7", eps="2/255"):
    name = f"{data}_{method}_{eps}"
    return Row(
        paper, name, "bounds", data, network, "linf", ("cascade",), method, eps, published=published, experiment=name
    )


def paper(name, *rows, **more):
    return Paper(Path(name), name, {one.name: one for one in rows}, **more)


OWN = paper("mueller2023", row("mueller2023", "SABR", figures(0.79, 0.62)), row("mueller2023", "IBP"))
WEAKER = paper(
    "gowal2018",
    row("gowal2018", "IBP", figures(None, 0.5)),
    row("gowal2018", "IBP", figures(0.7, 0.44, eps="0.3"), eps="0.3"),
)
RECALLED = paper("mao2023", row("mao2023", "TAPS", figures(0.75, 0.63, "recalled", time_limit=1000)))
POINTS = [
    Point("CIFAR10", "linf", "2/255", "SABR", figures(c, r, tuned=t))
    for c, r, t in [(0.8, 0.6, "test"), (0.7, 0.65, "validation")]
]
BENCH = paper("bench", row("bench", "SABR", figures(0.77, 0.61, tuned="test")), benchmark="Bench", points=tuple(POINTS))


def ran(one, clean, certified):
    shared = {"verifier": "CROWN", "n": 1000, "seeds": 2}
    return [
        Line(one, quantity, ours=value, **shared)
        for quantity, value in (("clean", clean), ("certified@2/255", certified))
    ]


MINE = paper("mine", row("mine", "IBP", network=LONG))
TABLES = [(OWN, []), (WEAKER, []), (RECALLED, []), (BENCH, []), (MINE, ran(next(iter(MINE.rows.values())), 0.81, 0.7))]


def test_a_line_for_each_method_with_all_that_is_known():
    table, other = comparisons(TABLES)
    assert (table.title, other.title) == ("CIFAR-10, l-inf eps 2/255", "CIFAR-10, l-inf eps 0.3")
    assert table.header == ("method", "ours", "its paper", "Bench", "verifier")
    assert table.rows == (
        ("IBP", "81.00/70.00 (a)", "–/50.00", "–", "ours CROWN; gowal2018 MN-BaB"),
        ("TAPS", "–", "~75.00/63.00", "–", "mao2023 MN-BaB 1000 s"),
        ("SABR", "–", "79.00/62.00", "77.00/61.00", "mueller2023 MN-BaB"),
    )
    assert table.notes == (
        f"ours (a): IBP by CIFAR-10_IBP_2/255: {LONG}, n = 1,000, seeds 2",
        "Bench: MN-BaB, chosen on the test images",
        "tuned on validation images: Bench SABR 70.00/65.00",
        "~ recalled from memory, not read again",
    )


def test_it_fits_100_columns_and_markdown():
    text = printed(rich_comparisons(TABLES))
    assert max(map(len, text.splitlines())) <= 100
    assert "81.00/70.00 (a)" in text
    found = markdown_comparisons(TABLES)
    assert "| SABR | – | 79.00/62.00 | 77.00/61.00 | mueller2023 MN-BaB |" in found


def test_a_cell_is_one_however_a_data_set_is_written():
    assert Cell.of("CIFAR-10", "linf", "2/255") == Cell.of("cifar10", "linf", "2/255")
    assert len(figures_of([OWN, BENCH])[Cell.of("cifar_10", "linf", "2/255")]) == 4


@pytest.mark.parametrize("tables", [[], [(paper("mine", row("mine", "IBP")), [])]])
def test_nothing_known_is_no_table(tables):
    assert comparisons(tables) == []
