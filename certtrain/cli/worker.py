"""One rank of what `sessions.launcher` starts: `certtrain worker ORDER`, a command that only it gives."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from certtrain.runs import environment
from certtrain.sessions.launcher import LOST, ProcessDied
from certtrain.system.signals import Interrupted, SignalFlag

Work = Callable[[Mapping[str, Any], SignalFlag], int]


def main(arguments: Sequence[str]) -> int:
    """Do this rank's part of an order. Returns the exit status: `LOST` when another rank is to blame.

    Raises:
        UserError: a mistake, which the caller tells.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until there is something to keep, the launcher's signals end it
    order = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    environment.remember_command(order["words"])
    end_with(order["parent"])
    work = {"train": _training, "certify": _certification}[order["command"]]()
    flag = SignalFlag(quiet=True)
    flag.install()
    try:
        return work(order, flag)
    except Interrupted as interrupted:
        return interrupted.exit_status
    except ProcessDied:
        return LOST
    finally:
        for number in SignalFlag.SIGNALS:  # to end takes seconds, in which the launcher may hear of another's end
            signal.signal(number, signal.SIG_IGN)


def end_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, so that nobody works in a run that is not locked.

    Where it cannot, which is everywhere but on Linux, a launcher that is killed with SIGKILL leaves its ranks at work.
    """
    from torch.multiprocessing import _prctl_pr_set_pdeathsig

    _prctl_pr_set_pdeathsig(signal.SIGKILL)
    if os.getppid() != parent:  # it was faster
        os._exit(LOST)


def _training() -> Work:
    """A training, and the certification after it; the order: `directory`, `state` and `config` of the run, `shown`."""
    from certtrain.certification.shares import Fellows
    from certtrain.runs.directory import RunDirectory
    from certtrain.sessions.ranks import follow
    from certtrain.sessions.session import Session, certify_config
    from certtrain.training.ranks import Rank
    from certtrain.training.trainer_settings import TrainerSettings

    def train(order: Mapping[str, Any], flag: SignalFlag) -> int:
        directory, config = RunDirectory(order["directory"], held=True), order["config"]
        fellows = Fellows(Rank.from_environment(), flag)
        if fellows.place.number == 0:
            return Session(directory, order["state"], config, shown=order["shown"], fellows=fellows).run()
        follow(flag, TrainerSettings(**config["trainer"]).device_type)
        if config["certify_test"]:
            fellows.help(certify_config(config, directory))
        return 0

    return train


def _certification() -> Work:
    """A certification; the order: `config`, resolved, and `shard`, of the machines."""
    from certtrain.certificates.parts import Share
    from certtrain.certification.shares import Fellows
    from certtrain.cli.certify import certify
    from certtrain.training.ranks import Rank

    def certify_share(order: Mapping[str, Any], flag: SignalFlag) -> int:
        config, shard, place = order["config"], Share.parse(order["shard"]), Rank.from_environment()
        if shard.of > 1:  # each process is a shard with a lock of its own, and the last one of all machines merges
            return certify(config, Share(shard.number + shard.of * place.number, shard.of * place.of), flag)
        fellows = Fellows(place, flag)
        if place.number == 0:
            return certify(config, shard, flag, fellows)
        fellows.help(config)
        return 0

    return certify_share
