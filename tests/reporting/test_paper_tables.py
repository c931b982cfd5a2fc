"""The four forms of a table say the same; the terminal's fits 100 columns; claims and norms never mix."""

import copy
import csv
import io

import pytest
from paper_files import ENTRY, ROWS, SMOOTHED, make_paper, make_run
from printing import printed

from certtrain.reporting.collected import collect
from certtrain.reporting.comparison import compare
from certtrain.reporting.paper_tables import csv_text, latex, markdown, rich_tables, sections
from certtrain.reporting.published import read_paper


@pytest.fixture
def tables(tmp_path):
    rows = copy.deepcopy(ROWS)
    rows["smoothed"] = {"family": "smoothing", "data": "d", "network": "n", "norm": "l2", "verifier": "smoothing"}
    paper = read_paper(make_paper(tmp_path / "p", rows))
    for seed in (0, 1):
        make_run(tmp_path / "runs", "p/small", seed)
    make_run(tmp_path / "runs", "p/small", 0, {"ibp": {**ENTRY, "clean": 0.5}}, overrides=["epochs=3"])
    make_run(tmp_path / "runs", "p/smoothed", 0, {"smoothing": SMOOTHED})
    return [(paper, compare(paper, collect([tmp_path / "runs"])))]


def test_claims_and_norms_stand_in_tables_of_their_own(tables):
    found = sections(tables)
    assert [{(line.row.family, line.row.norm) for line in lines} for _, lines in found] == [
        {("bounds", "linf")},
        {("smoothing", "l2")},
    ]
    assert "deterministic" in found[0][0]
    assert "probability 1 - alpha" in found[1][0]
    assert all(line.quantity != "ACR" for line in found[0][1])


def test_the_terminals_table_fits_and_says_everything(tables):
    text = printed(rich_tables(tables))
    assert "…" not in text
    line = next(line for line in text.splitlines() if "certified@0.3 IBP" in line)
    assert line.split() == ["certified@0.3", "IBP", "90.00", "±", "0.00", "89.4–90.6", "91.00", "-1.00", "within",
                            "10,000", "2", "1.01"]  # fmt: skip
    assert "small (a)" in text
    assert "(a) with epochs=3" in text
    assert "on 2 cores a CPU" in text
    assert "not run" in text
    assert "smoothed n=1,000" in text


def test_markdown_has_a_row_per_line_of_the_table(tables):
    text = markdown(tables)
    bodies = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(bodies) == sum(len(lines) for _, lines in tables)
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert widths == {11, 9}  # no published figure among the smoothing rows: three columns fewer, draws more
    assert (
        "| `small` | certified@0.3 IBP | 90.00 ± 0.00 | 89.4–90.6 | 91.00 | -1.00 | within | 10,000 | 2 | 1.01 |"
        in text
    )


def test_latex_is_balanced_and_escaped(tables):
    text = latex(tables)
    for environment in ("table", "tabular"):
        assert text.count(rf"\begin{{{environment}}}") == text.count(rf"\end{{{environment}}}") == 2
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 2
    body = [line for line in text.splitlines() if line.endswith(r"\\") and "small" in line]
    assert {line.count("&") for line in body} == {9}
    assert r"90.00 $\pm$ 0.00" in text
    assert "±" not in "\n".join(line for line in text.splitlines() if not line.startswith("%"))


def test_csv_keeps_full_precision(tables):
    rows = list(csv.DictReader(io.StringIO(csv_text(tables))))
    assert len(rows) == sum(len(lines) for _, lines in tables)
    [row] = [r for r in rows if r["row"] == "small" and r["quantity"] == "certified@0.3" and not r["setting"]]
    assert float(row["difference"]) == 0.9 - 0.91
    assert row["provenance"] == "paper"
    assert next(r for r in rows if r["row"] == "large")["verdict"] == "not run"


def test_less_than_all_is_never_a_hundred_percent(tmp_path):
    paper = read_paper(make_paper(tmp_path / "p"))
    make_run(tmp_path / "runs", "p/small", 0, {"ibp": {**ENTRY, "clean": 0.99999, "n": 100_000}})
    text = printed(rich_tables([(paper, compare(paper, collect([tmp_path / "runs"])))]))
    assert "100.00" not in text
