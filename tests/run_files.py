"""What tests read in the directory of a run."""

import csv
import json
from pathlib import Path

import torch

from certtrain.training.checkpoints import network_state, read_checkpoint


def result(run: Path) -> dict:
    return json.loads((run / "result.json").read_text())


def weights(run: Path) -> dict[str, torch.Tensor]:
    return network_state(read_checkpoint(run / "checkpoints" / "last.ckpt"))


def same_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def metric_rows(run: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv, without the cells that are empty."""
    with (run / "metrics.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]


def forget_hashes(run: Path) -> None:
    """As an unfinished run, whose `result.json` keeps no hash of its checkpoints."""
    found = result(run)
    found.pop("checkpoints_sha256")
    (run / "result.json").write_text(json.dumps(found))
