"""metrics.csv loses nothing: not by new columns, not by reuse of the directory, not by a kill, and repeats nothing."""

import csv
import os

import pytest
from full_disk import FullDisk
from hypothesis import given, settings
from hypothesis import strategies as st

from certtrain.errors import DiskFull, UserError
from certtrain.system import files
from certtrain.training.loggers.csv_logger import CSVMetrics


def read(path):
    with open(path, newline="") as file:
        return [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.dictionaries(st.sampled_from(["loss", "val/acc", "a,b", 'q"']), st.floats(allow_nan=False))),
    st.lists(st.booleans(), min_size=20, max_size=20),
)
def test_every_value_of_every_row_survives(tmp_path_factory, rows, saves):
    path = tmp_path_factory.mktemp("m") / "metrics.csv"
    logger = CSVMetrics(path)
    for step, (row, save) in enumerate(zip(rows, saves)):
        logger.log_metrics({**row, "epoch": 0}, step=step)
        if save:
            logger.save()
        if step == 3:
            logger.finalize("failed")
            logger = CSVMetrics(path)  # the next process
    logger.finalize("success")
    expected = [{"step": str(i), "epoch": "0", **{k: repr(v) for k, v in r.items()}} for i, r in enumerate(rows[:20])]
    assert (read(path) if expected else []) == expected


def test_plain_rows_are_appended_without_rewriting(tmp_path):
    logger = CSVMetrics(tmp_path / "metrics.csv")
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.save()
    inode = os.stat(logger.path).st_ino
    logger.log_metrics({"loss": 0.5}, step=2)
    logger.save()
    assert os.stat(logger.path).st_ino == inode
    logger.log_metrics({"new": 0.5}, step=3)
    logger.save()
    assert os.stat(logger.path).st_ino != inode  # replaced whole, so that no reader sees half of it


def test_rows_reach_the_disk_a_second_later(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("certtrain.training.loggers.csv_logger.time.monotonic", lambda: now[0])
    logger = CSVMetrics(tmp_path / "metrics.csv")
    logger.log_metrics({"loss": 1.0}, step=1)
    assert not logger.path.exists()
    now[0] += 1.5
    logger.log_metrics({"loss": 2.0}, step=2)
    assert len(read(logger.path)) == 2


def test_resume_drops_the_lost_tail_and_repeats_nothing(tmp_path):
    path = tmp_path / "metrics.csv"

    def train(logger, steps):
        for step in steps:
            logger.log_metrics({"train/loss": step / 10, "epoch": step // 4}, step=step)
            if step % 4 == 0:
                logger.log_metrics({"val/acc": step / 100, "epoch": step // 4}, step=step)

    train(whole := CSVMetrics(tmp_path / "whole.csv"), range(1, 13))
    whole.finalize("success")
    train(first := CSVMetrics(path), range(1, 11))
    first.finalize("failed")
    resumed = CSVMetrics(path)
    assert resumed.resume_from(8) == 2
    # the checkpoint at step 8 was written before its validation, which is made again
    resumed.log_metrics({"val/acc": 8 / 100, "epoch": 2}, step=8)
    train(resumed, range(9, 13))
    resumed.finalize("success")
    key = lambda row: (int(row["step"]), "val/acc" in row)  # noqa: E731
    assert sorted(read(path), key=key) == sorted(read(tmp_path / "whole.csv"), key=key)


def test_resume_drops_nothing_before_it_is_told_to(tmp_path):
    first = CSVMetrics(tmp_path / "metrics.csv")
    first.log_metrics({"loss": 1.0}, step=5)
    first.finalize("failed")
    before = first.path.read_bytes()
    CSVMetrics(first.path).finalize("failed")
    assert first.path.read_bytes() == before


def test_torn_last_line_is_dropped(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,epoch,loss\n1,0,0.5\n2,0,0.")
    logger = CSVMetrics(path)
    logger.log_metrics({"loss": 0.25, "epoch": 0.0}, step=2)
    logger.finalize("success")
    assert path.read_text() == "step,epoch,loss\n1,0,0.5\n2,0,0.25\n"


def test_foreign_file_is_refused(tmp_path):
    (tmp_path / "metrics.csv").write_text("mine\n")
    logger = CSVMetrics(tmp_path / "metrics.csv")
    logger.log_metrics({"loss": 1.0}, step=1)
    with pytest.raises(UserError, match="no metrics file"):
        logger.finalize("success")
    assert (tmp_path / "metrics.csv").read_text() == "mine\n"


def test_a_full_disk_loses_and_repeats_no_row(tmp_path, monkeypatch):
    """Rows that found no room wait, and are written once there is some; the file ends with a whole row meanwhile."""
    logger = CSVMetrics(tmp_path / "metrics.csv")
    logger.log_metrics({"loss": 0.5}, step=1)
    logger.save()
    before = logger.path.read_text()
    logger.log_metrics({"loss": 0.25}, step=2)
    with monkeypatch.context() as patch:
        patch.setattr(files, "put", FullDisk(files.put))
        for _ in range(2):
            with pytest.raises(DiskFull, match=r"metrics\.csv"):
                logger.save()
            assert logger.path.read_text() == before
    logger.save()
    assert [line.split(",")[0] for line in logger.path.read_text().splitlines()] == ["step", "1", "2"]


def test_it_has_no_experiment_and_says_so(tmp_path):
    logger = CSVMetrics(tmp_path / "metrics.csv")
    assert not hasattr(logger, "experiment")  # as Lightning asks
    with pytest.raises(UserError, match="no logger that has one is chosen"):
        logger.experiment.add_image("x", None)
