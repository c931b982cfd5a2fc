"""Every curve of a figure can be told from the others by its label."""

from field_logs import simulate

from certtrain.audit.sources import read_lines


def labels(*paths):
    return [line.label for line in read_lines(paths)]


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path):
    made = simulate(rows=20)
    paths = [tmp_path / name / "logs" / "sigma_0.50" for name in ("a/x", "b/x", "c")]
    for path in paths:
        path.parent.mkdir(parents=True)
        made.write(path)
    other = made.write(tmp_path / "other")
    assert labels(paths[0], other) == ["sigma_0.50", "other"]
    assert labels(*paths, other) == [
        "sigma_0.50 (a/x/logs)",
        "sigma_0.50 (b/x/logs)",
        "sigma_0.50 (c/logs)",
        "other",
    ]
    assert labels(paths[0], paths[0]) == ["sigma_0.50", "sigma_0.50"]  # the same log twice
