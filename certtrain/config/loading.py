"""Gives back what a run trained: the network with its contract, built from the run's own configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from certtrain.config.network import make_network
from certtrain.config.received import Trust, check_received
from certtrain.errors import UserError
from certtrain.models.contract import InputContract
from certtrain.runs.directory import RunDirectory, find_run
from certtrain.training.checkpoints import contract_of, load_weights, read_checkpoint


@dataclass(frozen=True)
class LoadedRun:
    """A trained network and where it came from.

    Attributes:
        given: what its training had beside data, as `result.json` says it: `init`, the weights that it started from,
            and `teacher`, the network that it learnt from.
    """

    run: RunDirectory
    config: dict[str, Any]
    network: nn.Module
    contract: InputContract
    checkpoint: Path
    note: str | None = None
    """What could not be checked about the checkpoint."""
    given: dict[str, Any] = field(default_factory=dict)


def checkpoint_path(run: RunDirectory, choice: str | None) -> Path:
    """`last`, `best`, or, for None, what the run's result chose."""
    if choice is None:
        choice = Path((run.read_result() or {}).get("checkpoint") or "last.ckpt").stem
    if choice not in ("last", "best"):
        raise UserError(
            f"checkpoint={choice!r} is not a choice",
            where="configuration key checkpoint",
            fix="last or best; a file of weights goes without run=",
        )
    path = run.last if choice == "last" else run.best
    if choice == "best" and not path.exists():
        raise UserError(
            f"{run.path} kept no best checkpoint", where="configuration key checkpoint", fix="checkpoint=last"
        )
    return path


def load_run(
    name: str | Path, checkpoint: str | None = None, runs_dir: str | Path = "runs", trust: Trust = ()
) -> LoadedRun:
    """The network of a run, in eval mode on the CPU. Its data, too, may be built afterwards: nothing of it runs code.

    Args:
        name: the run directory, or its name under runs_dir.
        checkpoint: `last`, `best`, or None for the one the run chose.
        runs_dir: where runs lie.
        trust: packages, or whole `_target_`s, beside certtrain's own that the run's data and network may name.

    Raises:
        UserError: no such run, no or a corrupt checkpoint, one of another model, one that was changed since the run
            recorded its hash; a `_target_` that is not trusted.
    """
    run = find_run(name, runs_dir)
    config = run.read_config()
    check_received(config, ("data", "model"), trust, run.config)
    path = checkpoint_path(run, checkpoint)
    content = read_checkpoint(path)
    contract = contract_of(content)
    network = load_weights(contract.classifier(make_network(config["model"], contract)), content, str(path))
    given = {key: content["certtrain"][key] for key in ("init", "teacher") if key in content["certtrain"]}
    return LoadedRun(run, config, network.eval(), contract, path, run.check_checkpoint(path), given)
