"""Certifies one process's share of a list; ranks that certify side by side meet at the store of their launcher."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from rich.console import Console

from certtrain.certificates import Certificates
from certtrain.certificates.parts import Place, Share
from certtrain.certification.examples import certify_share
from certtrain.certification.other_data import data_to_certify
from certtrain.certification.stage import Stage, prepare_stage
from certtrain.config.loading import load_run
from certtrain.reporting.bar import Bar
from certtrain.system.signals import SignalFlag
from certtrain.system.work import watched
from certtrain.training.ranks import Rank, store_of

POLL_SECONDS = 0.1


class Fellows:
    """The ranks of one launcher, which certify one list: rank 0 begins the logs, and merges when all are done.

    What they tell each other stands in the launcher's store: that the run may be loaded, that its logs are begun, how
    many rows are done. They wait by looking, so that a signal is noticed: when one dies, the launcher sends it.

    Args:
        place: of this process.
        flag: set by signals.
    """

    def __init__(self, place: Rank, flag: SignalFlag) -> None:
        self.place, self.flag = place, flag
        self._store = dist.PrefixStore("certtrain", store_of(place))
        self._batch: float | None = None  # where the batch at work began, in the rows that its certifier counts

    def ready(self) -> None:
        """Rank 0's word that the run may be loaded."""
        self._store.set("ready", "")

    def lead(self, console: Console) -> Callable[[Stage, int], None]:
        """What rank 0 gives `certify_stage`: to be called once the logs are begun; certifies its share, and waits.

        Args:
            console: for the bar, which shows the rows of all.

        Raises:
            Interrupted: the returned function, at a signal.
            UserError: it, too, as `certify_place`.
        """

        def certify(stage: Stage, blocks: int) -> None:
            if not blocks:
                self._store.set("begun", "")
                return
            if blocks < self.place.of:
                text = f"{blocks} batches are left to certify, so {blocks} of {self.place.of} processes work"
                console.print(text, highlight=False)
            self._store.set("begun", "")
            total = len(stage.examples.indices) * len(stage.certifiers)
            with Bar(console, f"certify in {self.place.of} processes", total) as bar:

                def show(done: float = 0.0, doing: str = "") -> None:
                    self._batch = done if self._batch is None else self._batch
                    rows = self._store.add("rows", 0)
                    certified = f"certified {self._store.add('certified', 0) / rows:.1%}" if rows else ""
                    bar.often(rows + done - self._batch, "; ".join(filter(None, (doing, certified))))

                self._certify(stage, show)
                self._wait(lambda: self._store.add("done", 0) >= self.place.of, show)

        return certify

    def help(self, config: dict[str, Any]) -> None:
        """Another rank: certify its share.

        Args:
            config: as `load_stage` reads it.

        Raises:
            Interrupted: at a signal.
            UserError: as `load_stage` and `certify_place`.
        """
        self._wait(lambda: self._store.check(["ready"]))
        with watched(self.flag.raise_if_overdue):
            stage = load_stage(config, self.place.local)
            self._wait(lambda: self._store.check(["begun"]))
            self._certify(stage)

    def _certify(self, stage: Stage, told: Callable[[float, str], None] = lambda done, doing: None) -> None:
        place = Place(process=Share(self.place.number + 1, self.place.of))
        certify_place(stage, place, self._tell, self.flag.raise_if_set, told)
        self._store.add("done", 1)

    def _tell(self, new: Certificates) -> None:
        self._store.add("certified", int((new.correct & (new.radius > 0)).sum()))
        self._store.add("rows", len(new))
        self._batch = None

    def _wait(self, until: Callable[[], bool], meanwhile: Callable[[], None] = lambda: None) -> None:
        while not until():
            self.flag.raise_if_set()
            meanwhile()
            time.sleep(POLL_SECONDS)


def load_stage(config: dict[str, Any], number: int = 0) -> Stage:
    """The checked stage of the run that a resolved configuration names.

    Args:
        config: of the certify command, or of a run, with its path as `run`.
        number: of this process on this machine, from 0: which accelerator is its own.

    Raises:
        UserError: as `prepare_stage` and `load_run`.
    """
    loaded = load_run(config["run"], config["checkpoint"], config["runs_dir"], config["trust"])
    return prepare_stage(loaded, data_to_certify(loaded, config), config, number)


def certify_place(
    stage: Stage,
    place: Place,
    progress: Callable[[Certificates], None],
    stop: Callable[[], None],
    told: Callable[[float, str], None] = lambda done, doing: None,
) -> None:
    """Certify one process's share with every configured certifier, into its part logs.

    Args:
        stage: what to certify.
        place: which share.
        progress: told the new rows of each batch.
        stop: called between batches; raises to end the work there.
        told: within a batch, how far it is, in rows of its log, and what is done.

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
            told=told,
            stop=stop,
        )
