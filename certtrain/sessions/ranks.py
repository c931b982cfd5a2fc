"""What the ranks of several do, whoever started them: torch's launcher for `sessions.launcher`, or torchrun.

Rank 0 is the command: it writes, prints and validates its settings. In a training it opens the group and tells the
others, which know nothing under torchrun, what to train.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console

from certtrain.runs import environment
from certtrain.runs.directory import RunDirectory
from certtrain.sessions.fitting import fit_run
from certtrain.sessions.launcher import ProcessDied
from certtrain.system.signals import Interrupted, SignalFlag
from certtrain.training.ranks import Rank, joined
from certtrain.training.trainer_settings import TrainerSettings


@contextlib.contextmanager
def joined_by_all(config: dict[str, Any], directory: RunDirectory, state: str) -> Iterator[Rank | None]:
    """Within it, this process is rank 0, and the others train with it when it calls `fit_run`.

    Args:
        config: resolved.
        directory: the run, open.
        state: `new` or `resume`.

    Yields:
        Its place; None when it is alone.

    Raises:
        ProcessDied: another process ended before the training did.
        UserError: the others cannot be joined.
    """
    if environment.torchrun() is None:
        yield None
        return
    device = TrainerSettings(**config["trainer"]).device_type
    place = Rank.from_environment()
    with _contact(), joined(place, device):
        dist.broadcast_object_list([{"config": config, "directory": str(directory.path), "state": state}])
        yield place


@contextlib.contextmanager
def _contact() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not any(
            word in str(error) for word in ("gloo", "Connection closed")
        ):
            raise
        raise ProcessDied(f"another process of this training has ended: {str(error).splitlines()[0]}") from error


def follow(flag: SignalFlag, device: str | None = None) -> None:
    """Join, be told what to train, and train beside rank 0.

    Args:
        flag: set by signals.
        device: `cuda` or `cpu`, where it is known.

    Raises:
        Interrupted, UserError: as `fit_run`.
        ProcessDied: another process ended before the training did.
    """
    place = Rank.from_environment()
    with _contact(), joined(place, device or ("cuda" if torch.cuda.is_available() else "cpu")):
        orders: list[Any] = [None]
        dist.broadcast_object_list(orders)
        if (order := orders[0]) is not None:
            directory = RunDirectory(order["directory"])
            fit_run(directory, order["state"], order["config"], Console(quiet=True), flag, [], place=place)


def dismiss(device: str | None = None) -> None:
    """Tell the other processes that there is nothing to train; `device` as they have it from their launcher."""
    with joined(Rank.from_environment(), device or ("cuda" if torch.cuda.is_available() else "cpu")):
        dist.broadcast_object_list([None])


def follow_torchrun() -> int:
    """Train beside rank 0, which says what becomes of it. Returns the exit status."""
    try:
        with SignalFlag(quiet=True) as flag:
            follow(flag)
    except Interrupted as interrupted:
        return interrupted.exit_status
    except ProcessDied:
        place = Rank.from_environment()
        print(f"process {place.number + 1} of {place.of}: another one has ended", file=sys.stderr)
        return 1
    return 0
