"""The README's figures are those of the result files."""

import json

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


def test_pieces_run(capsys, tmp_path):
    """Each section runs and writes its rows; the constants it tried are put back."""
    from benchmarks import pieces
    from certtrain.kernels import noise, relu

    before = noise.CPU_CHUNK, relu._CACHED
    output = tmp_path / "pieces.json"
    assert pieces.main(["--quick", "--only", "noise", "--only", "relu", "--output", str(output)]) == 0
    assert before == (noise.CPU_CHUNK, relu._CACHED)
    assert all(row["value"] > 0 for row in json.loads(output.read_text())["rows"])
    assert "three plain ReLUs" in capsys.readouterr().out
