"""Rows hold the means of every loss part since the last row, the schedules, and the number of completed steps."""

import csv

import lightning as L
import pytest

from certtrain.training.callbacks.training_log import TrainingLog
from certtrain.training.loggers.csv_logger import CSVMetrics


class Parts(L.Callback):
    """Every part of every batch."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, module, *args):
        self.seen.append({name: float(value) for name, value in module.parts.items()})


def rows(path):
    with path.open(newline="") as file:
        return [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    ("every", "accumulate", "steps", "batches"),
    [
        (1, 1, [1, 2, 3, 4, 5, 6], [1, 1, 1, 1, 1, 1]),
        (2, 1, [2, 3, 4, 6], [2, 1, 1, 2]),  # an epoch's end writes, too
        (50, 1, [3, 6], [3, 3]),
        (1, 2, [1, 2, 3, 4], [2, 1, 2, 1]),
    ],
)
def test_rows_are_means_of_the_batches_between_them(
    tmp_path, digits, make_module, make_trainer, every, accumulate, steps, batches
):
    logger, parts = CSVMetrics(tmp_path / "metrics.csv"), Parts()
    run = make_trainer(parts, TrainingLog(every), accumulate=accumulate, loggers=[logger])
    run.fit(make_module(), datamodule=digits)
    logger.finalize("success")
    found = [row for row in rows(logger.path) if "train/loss" in row]
    assert [int(row["step"]) for row in found] == steps
    at = 0
    for row, count in zip(found, batches):
        for name in {name for part in parts.seen[at : at + count] for name in part}:  # the warm-up has fewer
            values = [part[name] for part in parts.seen[at : at + count] if name in part]
            assert float(row[f"train/{name}"]) == pytest.approx(sum(values) / len(values), rel=1e-6)
        assert float(row["train/seconds_per_batch"]) > 0
        at += count


def test_schedules_are_those_of_the_written_step(tmp_path, digits, make_module, make_trainer):
    logger, module = CSVMetrics(tmp_path / "metrics.csv"), make_module()
    make_trainer(TrainingLog(1), loggers=[logger]).fit(module, datamodule=digits)
    logger.finalize("success")
    for row in rows(logger.path):
        if "train/loss" in row:
            for name, value in module.method.scheduled(int(row["step"])).items():
                assert float(row[f"schedule/{name}"]) == value, name


def test_validation_has_the_step_of_its_weights(tmp_path, digits, make_module, make_trainer, make_validation):
    logger, validation = CSVMetrics(tmp_path / "metrics.csv"), make_validation()
    run = make_trainer(TrainingLog(50), validation, loggers=[logger])
    run.fit(make_module(), datamodule=digits)
    logger.finalize("success")
    found = rows(logger.path)
    assert [(row["step"], row["epoch"]) for row in found if "val/clean" in row] == [("3", "0"), ("6", "1")]
    assert all("val/certified@0.05" in row for row in found if "val/clean" in row)
    assert sum("val/clean" in row for row in found) == 2
