"""`certtrain table`: from folders to tables, renewing marked blocks, and saying what was left out."""

import pytest
from paper_files import make_paper, make_run

from certtrain.cli.main import main


@pytest.fixture
def papers(in_tmp):
    for name in ("one", "two"):
        make_paper(in_tmp / "experiments" / name)
    make_run(in_tmp / "experiments" / "one" / "results", "one/small", 0)
    make_run(in_tmp / "runs", "one/small", 1)
    return in_tmp


def test_all_papers_of_the_checkout(papers, capsys):
    assert main(["table"]) == 0
    text = capsys.readouterr().out
    assert "one, l-inf" in text
    assert "two, l-inf" in text


def test_one_paper_with_runs_beside_the_committed(papers, capsys):
    assert main(["table", "experiments/one", "--ran", "--format", "csv"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert all(",one/" not in row and row.startswith(("paper", "one,small")) for row in rows)
    assert main(["table", "experiments/one", "--committed", "--format", "markdown", "--row", "small"]) == 0
    text = capsys.readouterr().out
    assert "| 10,000 | 1 |" in text
    assert "large" not in text


def test_output_goes_to_a_file(papers, capsys):
    assert main(["table", "experiments/one", "--format", "latex", "--output", "table.tex"]) == 0
    assert r"\toprule" in (papers / "table.tex").read_text()
    assert main(["table", "experiments/one", "--output", "table.txt"]) == 0
    assert "certified@0.3 IBP" in (papers / "table.txt").read_text()


@pytest.mark.parametrize("form", ["rich", "markdown", "latex", "csv", "brief"])
def test_output_replaces_an_earlier_table_and_no_other_file(papers, capsys, form):
    words = ["table", "experiments/one", "--format", form, "--output", "table.txt"]
    assert main(words) == 0
    first = (papers / "table.txt").read_text()
    make_run(papers / "runs", "one/small", 2)
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "wrote table.txt in place of the earlier table"
    assert (papers / "table.txt").read_text() != first
    others = ("my notes\n", f"X{first}", "\udcff")
    for other in others:
        content = other.encode("utf-8", "surrogateescape")
        (papers / "table.txt").write_bytes(content)
        assert main(words) == 2
        shown = capsys.readouterr().err
        assert "table.txt exists and is not this table" in shown
        assert "another name, or move the file away" in shown
        assert (papers / "table.txt").read_bytes() == content


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["experiments/on"], "experiments/one"),
        (["experiments/one", "--row", "smal"], "did you mean small"),
        (["experiments/one", "--format", "word"], "word"),
        (["--colour"], "--colour"),
        (["--write", "README.md"], "has no block"),
        (["--check", "missing.md"], "missing.md"),
    ],
)
def test_mistakes_get_one_message(papers, capsys, arguments, message):
    (papers / "README.md").write_text("nothing\n")
    assert main(["table", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_no_papers_here(in_tmp, capsys):
    assert main(["table"]) == 2
    assert "run it in a checkout" in capsys.readouterr().err


def test_a_damaged_result_is_named_and_the_exit_status_says_so(papers, capsys):
    (papers / "runs" / "one_small-seed1" / "result.json").write_text("{")
    assert main(["table", "experiments/one"]) == 1
    captured = capsys.readouterr()
    assert "certified@0.3 IBP" in captured.out
    assert "skipped" in captured.err
    assert "one_small-seed1" in captured.err


def test_blocks_are_renewed_from_committed_results_alone(papers, capsys):
    readme = papers / "README.md"
    block = "<!-- begin: certtrain table experiments/one --ran -->\nold\n<!-- end: certtrain table -->"
    readme.write_text(f"before\n{block}\nbetween\n{block}\nafter\n")
    assert main(["table", "--check", "README.md"]) == 1
    assert main(["table", "--write", "README.md"]) == 0
    text = readme.read_text()
    assert text.startswith("before\n<!-- begin: certtrain table experiments/one --ran -->\n**one")
    assert text.count("| `small` | certified@0.3 IBP |") == 2
    assert "| 10,000 | 1 |" in text
    assert "old" not in text
    assert "\nbetween\n" in text
    assert text.endswith("after\n")
    assert main(["table", "--check", "README.md"]) == 0
    make_run(papers / "experiments" / "one" / "results", "one/small", 5)
    assert main(["table", "--check", "README.md"]) == 1
    assert "out of date" in capsys.readouterr().err
