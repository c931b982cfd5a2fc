"""The README's figures are those of the result files."""

from benchmarks import report


def test_the_readme_is_that_of_the_results(capsys):
    assert report.main(["--check"]) == 0
    assert "up to date" in capsys.readouterr().out


def test_a_changed_figure_is_noticed(tmp_path, monkeypatch, capsys):
    readme = tmp_path / "README.md"
    readme.write_text(report.README.read_text().replace("48.6x", "84.6x"))
    monkeypatch.setattr(report, "README", readme)
    assert report.main(["--check"]) == 1
    assert report.main([]) == 0
    assert report.main(["--check"]) == 0
    assert "48.6x" in readme.read_text()
