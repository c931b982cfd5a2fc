"""One process's share of the certify stage: `python -m certtrain.commands.shares`, started by `commands.processes`.

It is told what to do by one line of JSON on its standard input, whose end tells it to stop; it answers with lines of
JSON on its standard output. What it certifies goes to part logs, which the process that started it collects.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from certtrain import environment
from certtrain.allocator import keep_freed_memory
from certtrain.callbacks.signals import Interrupted, SignalFlag
from certtrain.certificates import Certificates
from certtrain.certification import certify_share
from certtrain.commands.build import build_data
from certtrain.commands.loading import load_run
from certtrain.commands.stage import Stage, prepare_stage
from certtrain.errors import UserError
from certtrain.files import explained
from certtrain.parts import Place, Share
from certtrain.work import watched

ORPHAN_SECONDS = 600.0  # to end the batch that it is at, once who started it was killed; the run is locked until then


def main() -> int:
    """Certify the share that standard input names. Returns the exit status: 2 for a mistake, 143 when stopped."""
    parent = os.getppid()
    order = json.loads(sys.stdin.readline())
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what else is printed here is no answer

    def say(answer: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # nobody listens any more, and the end of standard input says so
            print(json.dumps(answer), file=answers, flush=True)

    def refuse(error: UserError) -> int:
        say({"error": {"what": error.what, "where": error.where, "fix": error.fix}})
        return 2

    keep_freed_memory()
    environment.remember_command(order["command"])
    place = Place(*(Share.parse(order["place"][key]) for key in ("shard", "process")))
    try:
        with SignalFlag(quiet=True) as flag, watched(flag.raise_if_overdue):
            threading.Thread(target=_stop_when_told, args=(flag, parent), daemon=True).start()
            stage = load_stage(order["config"], place.process.number - 1)

            def progress(new: Certificates) -> None:
                say({"rows": len(new), "certified": int((new.correct & (new.radius > 0)).sum())})

            certify_place(stage, place, progress, flag.raise_if_set)
    except Interrupted as interrupted:
        return interrupted.exit_status
    except UserError as error:
        return refuse(error)
    except OSError as error:
        if (message := explained(error)) is None:
            raise
        return refuse(message)
    return 0


def load_stage(config: dict[str, Any], number: int = 0) -> Stage:
    """The checked stage of the run that a resolved certify configuration names.

    Raises:
        UserError: as `prepare_stage` and `load_run`.
    """
    loaded = load_run(config["run"], config["checkpoint"], config["runs_dir"], config["trust"])
    data = build_data({**loaded.config, "data": {**loaded.config["data"], "data_dir": config["data_dir"]}})
    return prepare_stage(loaded, data, config, number)


def certify_place(
    stage: Stage, place: Place, progress: Callable[[Certificates], None], stop: Callable[[], None]
) -> None:
    """Certify one process's share with every configured certifier, into its part logs.

    Args:
        stage: what to certify.
        place: which share.
        progress: told the new rows of each batch.
        stop: called between batches; raises to end the work there.

    Raises:
        UserError: a log was made with other settings, examples, labels or weights.
    """

    def new_rows(done: int, new: Certificates | None) -> None:
        if new is not None:
            progress(new)

    for name in stage.certifiers:
        certifier, log, card = stage.of(name)
        certify_share(
            stage.network,
            certifier,
            stage.examples,
            log,
            card,
            place,
            batch_size=certifier.rows_per_write,
            device=stage.device,
            progress=new_rows,
            stop=stop,
        )


def _stop_when_told(flag: Any, parent: int) -> None:
    sys.stdin.read()  # ends when the one who started this process closes it, or dies
    if flag.number is None:
        flag.number = signal.SIGTERM
    while os.getppid() == parent:  # who ends this process when it does not stop
        time.sleep(1)
    time.sleep(ORPHAN_SECONDS)
    os._exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
