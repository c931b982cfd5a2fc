"""`sweep=optuna`: a study of trials, each a run of its own, chosen among by validation; resumable."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from certtrain.certificates.summary import GUESSING
from certtrain.cli.compose import INTERRUPTED
from certtrain.cli.one_run import resolve, run_one
from certtrain.cli.study_request import StudyRequest
from certtrain.config.kinds import fixed_norm, of_nodes
from certtrain.config.overrides import quoted
from certtrain.errors import DiskFull, UserError, command_line
from certtrain.reporting import terminal
from certtrain.reporting.terminal import print_line
from certtrain.runs.directory import RunDirectory
from certtrain.sweeps.study import Outcome, Row, Study, Trial
from certtrain.system.files import write_json_atomic

if TYPE_CHECKING:
    from rich.console import Console

    from certtrain.reporting.cells import Figure
    from certtrain.reporting.studies import CertifiedTrial


def run_study(config: Any, hydra: Any) -> int:
    """Run a study until it is whole, show its table, and name (or certify) the chosen run. Returns the exit status.

    Raises:
        UserError: a mistake in the space or the settings; a database that cannot be used; too many failed trials.
    """
    console = terminal.console()
    work = _Study(config, hydra, console)
    if not work.sweep["certify"]:
        print_line(console, "selection is by validation alone; the test set is left as it is")
    if work.sweep["pareto"] and work.sweep["pruner"] != "none":
        print_line(console, "two objectives: no trial is pruned, for which Optuna has no rule")
    try:
        work.study.run(work.evaluate)
    except _Stopped as stopped:
        print_line(console, f"the study goes on with the same command, {work.folder}")
        return stopped.status
    finally:
        work.write_trials()
    return work.conclude()


class _Stopped(Exception):
    """A signal ended the trial, and with it this session of the study."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class _Study:
    """A study and the run directories of its trials."""

    def __init__(self, config: Any, hydra: Any, console: Console) -> None:
        self.console = console
        self.request = StudyRequest.read(config, hydra)
        self.sweep, self.metrics, self.folder = self.request.sweep, self.request.metrics, self.request.folder
        self.request.claim()
        self.study = Study(self.folder, self.request.settings(), self.request.space)

    def path(self, number: int) -> Path:
        """The run directory of a trial."""
        return self.folder / f"trial_{number:03}"

    def overrides(self, number: int, settings: Mapping[str, str], certify: bool = False) -> list[str]:
        """What makes a trial's run again, in its own directory."""
        tried = [_override(key, value) for key, value in settings.items()]
        where = [_override("runs_dir", str(self.folder)), f"name=trial_{number:03}"]
        return [*self._fixed(settings), *tried, f"certify_test={str(certify).lower()}", *where]

    def _fixed(self, settings: Mapping[str, str]) -> list[str]:
        """The shared overrides that a trial does not set itself."""
        return [o for o in self.request.overrides if o.lstrip("+").split("=", 1)[0] not in settings]

    def evaluate(self, trial: Trial) -> Outcome:
        """Train a trial's run, or go on with it, and read its values from its result."""
        path, shown = self.path(trial.number), " ".join(f"{k}={v}" for k, v in trial.settings.items())
        print_line(self.console, f"\ntrial {trial.number}{' (going on)' if trial.resumed else ''}: {shown}")
        report = None
        if trial.report is not None:
            told, metric = trial.report, self.metrics[-1]

            def report(epoch: int, entry: Mapping[str, Any]) -> bool:
                value = metric.of(entry)
                return value is not None and told(epoch, value)

        outcome = self._train(trial, report)
        if path.exists():
            record = {"study": self.folder.name, "trial": trial.number, "settings": trial.settings}
            record |= {"objectives": [m.name for m in self.metrics], "state": outcome.state, "values": outcome.values}
            command = command_line("certtrain", "train", *self.overrides(trial.number, trial.settings))
            write_json_atomic(path / "trial.json", record | {"message": outcome.message, "command": command})
        if outcome.state != "complete":
            text = outcome.message if outcome.state == "pruned" else f"failed: {outcome.message}"
            print_line(self.console, f"trial {trial.number} {text}")
        return outcome

    def _train(self, trial: Trial, report: Any) -> Outcome:
        from certtrain.training.callbacks.pruning import Pruned

        try:
            status = run_one(*self._compose(self.overrides(trial.number, trial.settings)), report)
        except Pruned as pruned:
            return Outcome("pruned", message=str(pruned))
        except DiskFull:  # the setting is not to blame: the trial is gone on with once there is room
            raise
        except UserError as error:
            return Outcome("failed", message=error.what)
        if status >= INTERRUPTED:
            raise _Stopped(status)
        entry = (RunDirectory(self.path(trial.number)).read_result() or {}).get("validation")
        values = tuple(metric.of(entry) for metric in self.metrics)
        if None in values:
            return Outcome("failed", message=f"its validation has no {self.metrics[values.index(None)].name}")
        floors = [(metric.of(entry), least) for metric, least in self.request.floors]
        shortfalls = tuple(least - (value or 0.0) for value, least in floors)
        return Outcome("complete", values, guessing=entry.get(GUESSING), shortfalls=shortfalls)

    @staticmethod
    def _compose(overrides: list[str]) -> tuple[dict[str, Any], list[str]]:
        """The resolved configuration of plain overrides, as `certtrain train` would make it of them."""
        from hydra import compose
        from hydra.errors import HydraException
        from omegaconf import open_dict
        from omegaconf.errors import OmegaConfBaseException

        from certtrain.cli.compose import explain

        try:
            config = compose("train", overrides, return_hydra_config=True)
        except (HydraException, OmegaConfBaseException) as error:
            raise explain(error, "train") from error
        hydra = config.hydra
        with open_dict(config):
            del config["hydra"]
        return resolve(config, hydra)

    def write_trials(self) -> None:
        """`trials.json` beside the database, to be read without Optuna."""
        try:
            rows = self.study.rows()
        except UserError:
            return  # its message is on its way already
        objectives = [metric.name for metric in self.metrics]
        trials = [{"number": row.number, "state": row.state, "values": row.values} for row in rows]
        for trial, row in zip(trials, rows):
            trial |= {"settings": row.settings, "message": row.message}
            trial |= {"guessing": row.guessing} if row.guessing else {}
            trial |= {} if row.allowed else {"shortfalls": row.shortfalls}
        write_json_atomic(self.folder / "trials.json", {"objectives": objectives, "trials": trials})

    def conclude(self) -> int:
        """The table, the front, and what to do with the chosen run."""
        from certtrain.reporting.studies import study_table

        rows = self.study.rows()
        complete = [row for row in rows if row.state == "complete"]
        if not complete:
            raise UserError("no trial is complete", where=str(self.folder), fix="sweep.n_trials=... more of them")
        n = (RunDirectory(self.path(complete[0].number)).read_result() or {})["validation"]["n"]
        self.console.print()
        self.console.print(study_table(rows, self.metrics, n))
        if len(self.metrics) == 2:
            return self._conclude_front(rows, n)
        chosen = min(complete, key=lambda row: row.order)
        if chosen.guessing:
            print_line(self.console, f"no trial is better than a guess; of trial {chosen.number}: {chosen.guessing}")
        print_line(self.console, f"chosen by {self.metrics[0].name}: trial {chosen.number}; as a run of its own:")
        tried = [_override(key, value) for key, value in chosen.settings.items()]
        words = ["certtrain", "train", *self._fixed(chosen.settings), *tried, "certify_test=false"]
        print_line(self.console, f"  {command_line(*words)}")
        if self.sweep["certify"]:
            return self._certify([chosen], rows)
        words = ["certtrain", "certify", f"run={self.path(chosen.number)}"]
        print_line(self.console, "next, once: " + command_line(*words))
        return 0

    def _conclude_front(self, rows: list[Row], n: int) -> int:
        """The front's figure, and with `sweep.certify` what it reaches on the test set beside it."""
        from certtrain.reporting.pareto_figure import pareto_plot
        from certtrain.reporting.studies import front_of, tested_table

        complete = [row for row in rows if row.state == "complete"]
        front = [complete[i] for i in front_of(complete)]
        tested = []
        if self.sweep["certify"]:
            if status := self._certify(front, rows):
                return status
            tested = [self._tested(row) for row in front]
            self.console.print(tested_table(tested, self.metrics))
            write_json_atomic(self.folder / "front.json", [asdict(row) for row in tested])
        figure = pareto_plot(rows, self.metrics, n, self.folder / "pareto.png", self._published(), tested)
        print_line(self.console, f"figure: {figure}")
        if not tested:
            command = command_line("certtrain", "certify", f"run={self.folder}/...")
            print_line(
                self.console, f"next, the whole front: sweep.certify=true; or the one you choose, once: {command}"
            )
        return 0

    def _tested(self, row: Row) -> CertifiedTrial:
        """A trial on the test set: of its certificates the one that proves most at the metric."""
        from certtrain.reporting.entries import label
        from certtrain.reporting.studies import CertifiedTrial

        entries = (RunDirectory(self.path(row.number)).read_result() or {})["test"].values()
        certified = self.metrics[-1]
        best = max(entries, key=lambda entry: certified.of(entry) or 0.0)
        values = tuple(metric.of(best) or 0.0 for metric in self.metrics)
        return CertifiedTrial(row.number, row.values, values, label(best), best["n"])

    def _published(self) -> list[Figure]:
        """What is published for the data set, threat model and radius of the study, where there are papers."""
        from certtrain.cli.table import every_paper, experiments_dir
        from certtrain.reporting.cells import Cell, figures_of
        from certtrain.reporting.published import FILE, read_paper

        config, radius = self.request.resolved, self.metrics[-1].radius
        if radius is None or fixed_norm(of_nodes(config["certifier"])) or not any(experiments_dir().glob(f"*/{FILE}")):
            return []
        data = config["data"].get("name") or config["choices"]["data"]
        return figures_of(map(read_paper, every_paper(experiments_dir()))).get(
            Cell.of(data, config["norm"], radius), []
        )

    def _certify(self, chosen: list[Row], rows: list[Row]) -> int:
        """Certify chosen trials on the test set, each once. Returns the first exit status that is not 0."""
        numbers = [row.number for row in chosen]
        for row in rows:
            result = RunDirectory(self.path(row.number)).read_result() or {}
            if row.number not in numbers and result.get("test"):
                now = ", ".join(map(str, numbers))
                raise UserError(
                    f"trial {row.number} of this study was certified on the test set before, now trial {now} "
                    "would be: a choice that has seen the test set is none",
                    where="sweep.certify",
                    fix="sweep.certify=false, and report the first one; or another study with more trials",
                )
        statuses = (run_one(*self._compose(self.overrides(r.number, r.settings, certify=True))) for r in chosen)
        return next((status for status in statuses if status), 0)


def _override(key: str, value: str) -> str:
    """A value as an override: numbers, words, paths and lists as they are, anything else quoted."""
    bare = re.fullmatch(r"[\w.+/-]+", value) is not None or value[:1] in "[{"
    return f"{key}={value}" if bare else quoted(key, value)
