"""What `sweep=optuna` asks for: the runs' common configuration, a space, metrics; refused where they make no study."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from certtrain.cli.one_run import NOT_OF_A_RUN, resolve
from certtrain.config.checks import default_monitor, rehearsed
from certtrain.config.instantiate import plain
from certtrain.config.kinds import fixed_norm, of_nodes
from certtrain.config.overrides import GROUPS, options
from certtrain.errors import UserError, nearest
from certtrain.runs import environment
from certtrain.runs.directory import config_differences, difference_lines
from certtrain.runs.session_keys import EXTENDS, MAY_DIFFER
from certtrain.sweeps.metric import CLEAN, Metric
from certtrain.sweeps.space import Parameter, read_space
from certtrain.sweeps.study import Settings
from certtrain.system.files import write_json_atomic
from certtrain.threat import norms, threat_of

# Keys of `sweep` that may change between two sessions of a study.
FREE = ("n_trials", "max_failed", "certify", "pruner", "pruner_startup", "startup", "sampler")


@dataclass(frozen=True)
class StudyRequest:
    """A study, as a composed configuration asks for it.

    Attributes:
        resolved: the configuration that every trial starts from; its name is the study's.
        overrides: that make it again.
        sweep: the keys of the group `sweep`.
        space: what is searched.
        metrics: what is maximised: one, or clean accuracy and one for a front.
        floors: metrics with the least value that a trial may have and be chosen.
        folder: of the study, in which its runs lie.
    """

    resolved: dict[str, Any]
    overrides: list[str]
    sweep: dict[str, Any]
    space: list[Parameter]
    metrics: tuple[Metric, ...]
    floors: tuple[tuple[Metric, float], ...]
    folder: Path

    @classmethod
    def read(cls, config: Any, hydra: Any) -> StudyRequest:
        """The request of a composed configuration.

        Args:
            config: the composed configuration.
            hydra: Hydra's own part of it.

        Raises:
            UserError: a mistake in the configuration, the space or the metric; what does not go with a study.
        """
        sweep = plain(config["sweep"])
        resolved, overrides = _base(config, hydra)
        space, metrics = _space(sweep, resolved, hydra), _metrics(sweep, resolved)
        floors = _floors(sweep, metrics[-1])
        _refuse(config, hydra, sweep, resolved)
        folder = Path(resolved["runs_dir"]) / str(resolved["name"])
        return cls(resolved, overrides, sweep, space, metrics, floors, folder)

    def settings(self) -> Settings:
        """How it is searched, in the database that is asked for or one in the folder."""
        storage = self.sweep["storage"] or f"sqlite:///{(self.folder / 'study.db').resolve()}"
        keys = ("n_trials", "sampler", "startup", "pruner", "pruner_startup", "max_failed")
        given = {key: self.sweep[key] for key in keys}
        names = tuple(metric.name for metric in self.metrics)
        given |= {"seed": self.resolved["seed"], "constrained": bool(self.floors)}
        return Settings(self.folder.name, storage, names, **given)

    def claim(self) -> None:
        """Make the study's directory, or see that it is this study's.

        Raises:
            UserError: the directory holds a run, another study, or something else.
        """
        path = self.folder / "study.json"
        fixed = {key: value for key, value in self.sweep.items() if key not in FREE}
        fixed["storage"] = fixed["storage"] and environment.without_password(fixed["storage"])
        objectives = [metric.name for metric in self.metrics]
        if path.exists():
            try:
                before = json.loads(path.read_text(encoding="utf-8"))
                there = {**before["config"], "sweep": before["sweep"], "objectives": before["objectives"]}
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"cannot read {path}: {error}", where="study", fix="choose another name=") from error
            now = {**self.resolved, "sweep": fixed, "objectives": objectives}
            differing = config_differences(there, now, [key for key in (*MAY_DIFFER, *EXTENDS) if key != "epochs"])
            if differing:
                raise UserError(
                    "\n".join(
                        [f"the study {self.folder.name} exists with other settings:", *difference_lines(differing)]
                    ),
                    where=str(self.folder),
                    fix="choose another name=",
                )
            return
        if self.folder.exists() and any(self.folder.iterdir()):
            raise UserError(f"{self.folder} exists and is no study", where=str(self.folder), fix="choose another name=")
        write_json_atomic(path, {"objectives": objectives, "sweep": fixed, "config": self.resolved})


def _base(config: Any, hydra: Any) -> tuple[dict[str, Any], list[str]]:
    """The resolved configuration with the study's name, and the overrides that trials share."""
    named = config["name"]
    resolved, overrides = resolve(config, hydra)
    if named is None:
        resolved["name"] += "-pareto" if config["sweep"].get("pareto") else "-optuna"
    mine = (*NOT_OF_A_RUN, "runs_dir=", "certify_test=")
    return resolved, [o for o in overrides if not o.lstrip("+~").startswith(mine)]


def _space(sweep: Mapping[str, Any], resolved: Mapping[str, Any], hydra: Any) -> list[Parameter]:
    spaces = [name.removeprefix("space/") for name in options("sweep") if name.startswith("space/")]
    for override in hydra.overrides.task:  # the group is optional, so that Hydra passes over a typo
        group, _, name = override.partition("=")
        if group == "sweep/space" and name not in spaces:
            raise UserError(f"sweep/space has no option {name!r}", where=override, fix=nearest(name, spaces))
    if not sweep.get("space"):
        raise UserError(
            f"there is no search space for method={resolved['choices']['method']}",
            where="sweep/space",
            fix=f"sweep/space={'|'.join(spaces)}, or +sweep.space.optimizer.lr={{low: 1e-4, high: 1e-1, log: true}}",
        )
    groups = {group: options(group) for group in GROUPS if group not in ("experiment", "sweep")}
    return read_space(sweep["space"], flat(resolved), groups)


def _metrics(sweep: Mapping[str, Any], resolved: dict[str, Any]) -> tuple[Metric, ...]:
    norm = fixed_norm(of_nodes(resolved["certifier"])) or resolved["norm"]
    symbol = threat_of(norm).symbol if norm in norms() else norm
    name = sweep["metric"] or resolved["checkpoint"]["monitor"] or default_monitor(resolved)
    certified = Metric(name, symbol)
    known = ["val/acr" if rehearsed(resolved) == "continuous" else "val/acr_grid", CLEAN]
    known += [Metric.certified(str(radius), symbol).name for radius in resolved["radii"]]
    if name not in known:
        raise UserError(f"no validation metric is called {name!r}", where="sweep.metric", fix=nearest(name, known))
    return (Metric(CLEAN, symbol), certified) if sweep["pareto"] else (certified,)


def _floors(sweep: Mapping[str, Any], metric: Metric) -> tuple[tuple[Metric, float], ...]:
    """The metrics that have a floor: clean accuracy, and what is certified."""
    found = []
    for key, floored in (("clean", Metric(CLEAN, metric.symbol)), ("certified", metric)):
        if (least := (sweep["floors"] or {}).get(key)) is None:
            continue
        most, kind = (1, "accuracy in [0, 1)") if floored.is_share else (math.inf, "radius >= 0")
        if isinstance(least, bool) or not isinstance(least, (int, float)) or not 0 <= least < most:
            where = f"sweep.floors.{key}"
            raise UserError(f"{where} = {least!r} is not a validation {kind}", where=where, fix=f"{where}=0.5")
        found.append((floored, float(least)))
    return tuple(found)


def _refuse(config: Any, hydra: Any, sweep: Mapping[str, Any], resolved: Mapping[str, Any]) -> None:
    """What does not go with a study."""
    multirun = hydra.mode is not None and hydra.mode.name == "MULTIRUN"
    if multirun or config.get("seeds") is not None:
        raise UserError(
            "sweep=optuna makes its own runs",
            where="the command line",
            fix="leave -m and seeds= out; the chosen setting can be trained with seeds=5 afterwards",
        )
    if config.get("resume"):
        raise UserError("sweep=optuna does not resume a run", where="the command line", fix="leave resume= out")
    if hydra.runtime.choices.get("hydra/launcher") != "basic":
        raise UserError(
            "the trials of a study run one after another",
            where="hydra/launcher",
            fix="leave it out, and start the same command several times: the processes share the study",
        )
    if resolved["trainer"].get("devices", 1) != 1 or environment.torchrun() is not None:
        raise UserError(
            "each trial of a study trains on one device",
            where="configuration key trainer.devices",
            fix="trainer.devices=1, and start the same command once per device: the processes share the study",
        )
    if not resolved["val_size"]:
        raise UserError(
            "there is nothing to choose by without validation examples", where="val_size", fix="val_size=0.2"
        )


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every key of a configuration, dotted, with its value."""
    found: dict[str, Any] = {}
    for key, item in value.items():
        found[f"{prefix}{key}"] = item
        if isinstance(item, Mapping):
            found |= flat(item, f"{prefix}{key}.")
    return found
