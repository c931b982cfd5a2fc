"""A study: many trials of a search space on Optuna's ask-and-tell interface, which may be killed and gone on with.

Randomness is keyed as everywhere in certtrain: the sampler of trial k is seeded by (seed, k), so that a study that was
interrupted tries what an undisturbed one would. Every running trial holds a lock that ends with its process: a trial
that the database calls running and whose lock is free was killed, and is gone on with before a new one is made.
"""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from certtrain.errors import DiskFull, UserError
from certtrain.runs.locks import FileLock
from certtrain.sweeps.space import Parameter
from certtrain.system.files import refuse_links

if TYPE_CHECKING:
    import optuna

SAMPLERS = ("tpe", "gp", "nsga2", "random")
PRUNERS = ("median", "none")
LOCK_SECONDS = 20.0  # how long a database that another process keeps locked is waited for

State = Literal["complete", "pruned", "failed"]


@dataclass(frozen=True)
class Settings:
    """How a study searches.

    Args:
        name: of the study, in its database.
        storage: URL of the database.
        objectives: names of the validation metrics, all to be maximised; with two of them nothing is pruned, for which
            Optuna has no rule.
        n_trials: how many trials, complete or pruned, make the study whole.
        seed: of the sampler.
        sampler: all but `random` serve one objective, or two with their front, and avoid what misses a floor: `tpe`
            (tree-structured Parzen estimators), `gp` (Gaussian processes with the expected improvement of the
            hypervolume), `nsga2` (genetic, in populations of `startup`).
        startup: trials drawn at random before there is a model.
        pruner: `median` stops a trial below the median of the others at its epoch; `none`.
        pruner_startup: trials that must be complete before any is pruned.
        max_failed: failed trials that end the study: something else is wrong then.
        constrained: whether trials have floors, which the sampler then knows of.
        lock_seconds: how long to wait for a locked database.
    """

    name: str
    storage: str
    objectives: tuple[str, ...]
    n_trials: int = 20
    seed: int = 0
    sampler: str = "tpe"
    startup: int = 10
    pruner: str = "median"
    pruner_startup: int = 5
    max_failed: int = 10
    constrained: bool = False
    lock_seconds: float = LOCK_SECONDS


@dataclass(frozen=True)
class Outcome:
    """How a trial ended."""

    state: State
    values: tuple[float, ...] = ()
    message: str | None = None
    guessing: str | None = None
    """Why a complete trial's classifier is no better than a guess."""
    shortfalls: tuple[float, ...] = ()
    """By how much each floor is missed; 0 or less where it is kept."""


@dataclass(frozen=True)
class Trial:
    """One trial to be evaluated.

    Attributes:
        number: from 0.
        settings: value per configuration key, as a command line has it.
        resumed: whether an earlier process began it.
        report: given an epoch (from 1) and the objective after it, whether to prune; None when nothing is pruned.
    """

    number: int
    settings: Mapping[str, str]
    resumed: bool
    report: Callable[[int, float], bool] | None


@dataclass(frozen=True)
class Row:
    """A trial as the database has it."""

    number: int
    state: str
    """complete, pruned, failed or running."""
    values: tuple[float, ...]
    settings: Mapping[str, str] = field(default_factory=dict)
    message: str | None = None
    guessing: str | None = None
    """Why a complete trial's classifier is no better than a guess; it is chosen only where all others are none."""

    shortfalls: tuple[float, ...] = ()
    """By how much each floor is missed; 0 or less where it is kept."""

    @property
    def allowed(self) -> bool:
        """Whether it keeps every floor."""
        return all(shortfall <= 0 for shortfall in self.shortfalls)

    @property
    def order(self) -> tuple[bool, bool, float, int]:
        """Sorts complete trials of one objective, best first; one that misses a floor only before mere guesses."""
        return (self.guessing is not None, not self.allowed, -self.values[0], self.number)


class Study:
    """A study in a database, new or to be gone on with.

    Args:
        folder: of the study, where the locks of running trials lie.
        settings: how it searches.
        space: what it searches.

    Raises:
        UserError: Optuna is missing; the database is locked, unreadable, or of a study with other objectives; the
            folder holds links.
    """

    def __init__(self, folder: Path, settings: Settings, space: Sequence[Parameter]) -> None:
        self.folder, self.settings, self.space = folder, settings, list(space)
        self.optuna = _import_optuna()
        check_settings(settings)
        refuse_links(folder, (".locks",))
        (folder / ".locks").mkdir(parents=True, exist_ok=True)
        self._held: dict[int, FileLock] = {}
        waits = {"connect_args": {"timeout": settings.lock_seconds}} if settings.storage.startswith("sqlite") else None
        with self._database():
            storage = self.optuna.storages.RDBStorage(settings.storage, engine_kwargs=waits)
            self.study = self.optuna.create_study(
                storage=storage,
                study_name=settings.name,
                directions=["maximize"] * len(settings.objectives),
                load_if_exists=True,
                pruner=self._pruner(),
            )
            there = self.study.user_attrs.get("objectives")
            if there is None:
                self.study.set_user_attr("objectives", list(settings.objectives))
            elif tuple(there) != settings.objectives:
                raise UserError(
                    f"the study {settings.name} maximises {', '.join(there)}, not {', '.join(settings.objectives)}",
                    where=settings.storage,
                    fix="choose another name=",
                )

    def run(self, evaluate: Callable[[Trial], Outcome]) -> None:
        """Evaluate trials until `n_trials` are complete or pruned; each one's end is stored at once.

        Args:
            evaluate: trains a trial. An exception of its own leaves the trial running in the database: the next
                session goes on with it.

        Raises:
            UserError: too many trials failed; the database is locked or gone.
        """
        while (trial := self.next()) is not None:
            try:
                self.finish(trial, evaluate(trial))
            finally:
                self._held.pop(trial.number).release()

    def next(self) -> Trial | None:
        """The next trial, one that a killed process left first; None when the study is whole or others make it so."""
        with FileLock(self._lock_path("ask")), self._database():
            rows = self.study.get_trials(deepcopy=False)
            running = [row for row in rows if not row.state.is_finished()]
            for row in running:
                if self._hold(row.number):
                    self.study.sampler = self._sampler(row.number)  # it is told of the trial's floors at its end
                    return self._begin(self.optuna.trial.Trial(self.study, row._trial_id), resumed=True)
            states = [_state(row) for row in rows]
            if states.count("failed") >= self.settings.max_failed:
                raise UserError(
                    f"{states.count('failed')} trials failed: {rows[states.index('failed')].user_attrs.get('message')}",
                    where=f"the study {self.settings.name}",
                    fix="a smaller search space; or sweep.max_failed=... to go on",
                )
            if states.count("complete") + states.count("pruned") + len(running) >= self.settings.n_trials:
                return None
            self.study.sampler = self._sampler(len(rows))
            asked = self.study.ask()
            self._hold(asked.number)
            return self._begin(asked, resumed=False)

    def finish(self, trial: Trial, outcome: Outcome) -> None:
        """Store how a trial ended.

        Raises:
            UserError: the database is locked or gone; what the trial's run directory holds is kept, and told next time.
        """
        state = getattr(self.optuna.trial.TrialState, {"failed": "FAIL"}.get(outcome.state, outcome.state.upper()))
        with self._database():
            for key in ("message", "guessing", "shortfalls"):
                if said := getattr(outcome, key):
                    found = next(row for row in self.study.get_trials(deepcopy=False) if row.number == trial.number)
                    self.study._storage.set_trial_user_attr(found._trial_id, key, said)
            values = list(outcome.values) if outcome.state == "complete" else None
            self.study.tell(trial.number, values, state=state)

    def rows(self) -> list[Row]:
        """Every trial, in the order of their numbers."""
        with self._database():
            found = self.study.get_trials(deepcopy=False)
        return [
            Row(
                row.number,
                _state(row),
                tuple(row.values or ()) if _state(row) == "complete" else (),
                self._settings(row.params),
                row.user_attrs.get("message"),
                row.user_attrs.get("guessing"),
                tuple(row.user_attrs.get("shortfalls") or ()),
            )
            for row in found
        ]

    def _begin(self, asked: optuna.trial.Trial, *, resumed: bool) -> Trial:
        settings = {parameter.key: parameter.text(parameter.suggest(asked)) for parameter in self.space}

        def report(epoch: int, value: float) -> bool:
            with self._database(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # an epoch that a killed process had reported already
                asked.report(value, epoch)
                return asked.should_prune()

        prunes = len(self.settings.objectives) == 1 and self.settings.pruner != "none"
        return Trial(asked.number, settings, resumed, report if prunes else None)

    def _settings(self, tried: Mapping[str, Any]) -> dict[str, str]:
        """What a trial tried, as a command line has it: keys and values of the space that was asked for. A database
        that somebody else wrote may hold others, which would be composed and built."""
        known = [parameter for parameter in self.space if parameter.key in tried]
        return {p.key: p.text(tried[p.key]) for p in known if p.allows(tried[p.key])}

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        digest = hashlib.sha256(f"{self.settings.seed}/{number}".encode()).digest()
        seed = int.from_bytes(digest[:4], "big")
        samplers, startup = self.optuna.samplers, self.settings.startup
        floors = {"constraints_func": _shortfalls} if self.settings.constrained else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some of their arguments are called experimental by Optuna 4
            match self.settings.sampler:
                case "random":
                    return samplers.RandomSampler(seed=seed)
                case "gp":
                    return samplers.GPSampler(
                        seed=seed, n_startup_trials=startup, independent_sampler=samplers.RandomSampler(seed), **floors
                    )
                case "nsga2":
                    return samplers.NSGAIISampler(seed=seed, population_size=max(2, startup), **floors)
            return samplers.TPESampler(
                seed=seed, n_startup_trials=startup, multivariate=True, constant_liar=True, **floors
            )

    def _pruner(self) -> optuna.pruners.BasePruner:
        if self.settings.pruner == "none":
            return self.optuna.pruners.NopPruner()
        return self.optuna.pruners.MedianPruner(n_startup_trials=self.settings.pruner_startup)

    def _lock_path(self, name: object) -> Path:
        return self.folder / ".locks" / str(name)

    def _hold(self, number: int) -> bool:
        lock = FileLock(self._lock_path(number))
        if not lock.acquire():
            return False
        self._held[number] = lock
        return True

    @contextlib.contextmanager
    def _database(self) -> Iterator[None]:
        """Errors of the database as messages: nothing is lost by them, and the same command goes on."""
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (SQLAlchemyError, self.optuna.exceptions.StorageInternalError) as error:
            cause = str(error.__cause__ or error).split("\n")[0]
            locked = "locked" in cause
            if "disk is full" in cause or "disk I/O error" in cause:
                raise DiskFull(
                    f"the database of the study cannot be written: {cause}",
                    where=self.settings.storage,
                    fix="make room there and give the same command again: it goes on with the study",
                ) from error
            raise UserError(
                f"the database of the study is locked by another process: {cause}"
                if locked
                else f"the database of the study cannot be used: {cause}",
                where=self.settings.storage,
                fix="nothing is lost: when it is free, the same command goes on with the study"
                if locked
                else "sweep.storage=..., or the file that was moved or damaged",
            ) from error


def check_settings(settings: Settings) -> None:
    """Raises UserError for settings that make no study."""
    from certtrain.errors import nearest

    for key, value, options in (("sampler", settings.sampler, SAMPLERS), ("pruner", settings.pruner, PRUNERS)):
        if value not in options:
            raise UserError(
                f"sweep.{key} = {value!r} is not a choice", where=f"sweep.{key}", fix=nearest(value, options)
            )
    for key, least in (("n_trials", 1), ("startup", 0), ("pruner_startup", 0), ("max_failed", 1)):
        value = getattr(settings, key)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UserError(f"sweep.{key} = {value!r} is not a whole number >= {least}", where=f"sweep.{key}", fix="20")


def _import_optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UserError(
            "Optuna is not installed", where="sweep=optuna", fix="pip install 'certtrain[sweep]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _shortfalls(row: Any) -> tuple[float, ...]:
    """As Optuna's constraints: kept where they are 0 or less."""
    return tuple(row.user_attrs.get("shortfalls") or ())


def _state(row: Any) -> str:
    return {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}.get(row.state.name, "running")
