"""Where a run may begin, and what is taken back of one that came to nothing: never what lay there before."""

import os

import pytest

from certtrain.errors import UserError
from certtrain.runs.directory import RunDirectory
from certtrain.runs.folder import make_folder, take_back

CONFIG = {"seed": 0, "epochs": 20}


def begun(path):
    """A new run with all that a session makes before it has weights."""
    run, state = RunDirectory.open(path, CONFIG, [])
    assert state == "new"
    run.write_result({"status": "interrupted"})
    run.metrics.write_text("step,epoch\n")
    (run.checkpoints / "last.part").write_bytes(b"half")
    (run.path / ".config.yaml.abc.tmp").write_text("half")
    (run.path / "tensorboard").mkdir()
    (run.path / "tensorboard" / "events").write_bytes(b"")
    return run


def test_a_run_is_taken_back_whole(tmp_path):
    run = begun(tmp_path / "runs" / "it")
    run.withdraw()
    run.close()
    assert os.listdir(tmp_path / "runs") == []
    run, state = RunDirectory.open(tmp_path / "runs" / "it", {**CONFIG, "epochs": 1}, [])
    assert state == "new"


def test_what_is_not_the_runs_stays(tmp_path):
    run = begun(tmp_path / "it")
    (run.path / "notes.txt").write_text("mine")
    (run.certificates / "mine.pdf").write_text("mine")
    run.withdraw()
    assert sorted(str(p.relative_to(run.path)) for p in run.path.rglob("*")) == [
        *("certificates", "certificates/mine.pdf", "notes.txt")
    ]


@pytest.mark.parametrize("linked", [False, True])
def test_a_folder_that_was_there_stays(tmp_path, snapshot, linked):
    (tmp_path / "disk" / "checkpoints").mkdir(parents=True)
    path = tmp_path / "disk"
    if linked:
        path = tmp_path / "it"
        path.symlink_to(tmp_path / "disk")
    run = begun(path)
    run.withdraw()
    assert [p.name for p in (tmp_path / "disk").iterdir()] == ["checkpoints"]
    assert path.is_symlink() == linked


@pytest.mark.parametrize(
    ("files", "named"),
    [
        (["checkpoints/my_model.pth"], "checkpoints/my_model.pth"),
        (["certificates/mine.tsv", ".lock"], "certificates/mine.tsv"),
        (["environment.json"], "environment.json"),  # of the user's own: a run has made its lock before
        (["overrides.yaml", "diff.patch"], "diff.patch, overrides.yaml"),
        (["checkpoints/last.ckpt", "environment.json", ".lock"], "checkpoints/last.ckpt"),  # lost its config.yaml
        (["result.json", ".lock"], "result.json"),
    ],
)
def test_a_folder_of_something_else_is_no_place_for_a_run(tmp_path, snapshot, files, named):
    for file in files:
        (tmp_path / "it" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "it" / file).write_text("")
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match=f"it holds {named} and no config.yaml"):
        RunDirectory.open(tmp_path / "it", CONFIG, [])
    assert snapshot(tmp_path) == before


def test_an_interrupted_creation_is_begun_again(tmp_path):
    for name in (".lock", "diff.patch", "environment.json", "checkpoints/.x.tmp"):
        (tmp_path / "it" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "it" / name).write_text("")
    found = make_folder(tmp_path / "it")
    assert found == {".lock", "diff.patch", "environment.json", "checkpoints"}
    (tmp_path / "it" / "config.yaml").write_text("")
    take_back(tmp_path / "it", found)
    assert set(os.listdir(tmp_path / "it")) == found


@pytest.mark.parametrize(
    "name",
    [
        *("result.json", "metrics.csv", "config.yaml", "certificates/crown.tsv", "certificates/crown.json"),
        *("checkpoints/last.ckpt", "checkpoints/last.part", "certificates/parts", "tensorboard", "checkpoints"),
    ],
)
def test_a_run_whose_files_are_links_is_never_written(tmp_path, snapshot, name):
    run, _ = RunDirectory.open(tmp_path / "it", CONFIG, [])
    run.close()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "file").write_text("precious")
    path = run.path / name
    if path.exists():
        path.replace(tmp_path / "theirs" / path.name)
    path.symlink_to(tmp_path / "theirs" / ("file" if "." in name else ""))
    if name == "config.yaml":
        path.unlink()
        path.symlink_to(tmp_path / "theirs" / "config.yaml")
    before = snapshot(tmp_path)
    for attempt in (lambda: RunDirectory(run.path).lock(), lambda: RunDirectory.open(run.path, CONFIG, [])):
        with pytest.raises(UserError, match=f"{name} is a symbolic link"):
            attempt()
    assert snapshot(tmp_path) == before


def test_what_is_neither_a_file_nor_a_folder_is_refused(tmp_path):
    os.mkfifo(tmp_path / "metrics.csv")
    with pytest.raises(UserError, match="neither a file nor a folder"):
        RunDirectory(tmp_path).lock()
