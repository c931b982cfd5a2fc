"""Builds what the groups `logger` and `callbacks` name: certtrain's own loggers, and any `_target_` of Lightning."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import Logger

from certtrain.config.instantiate import instantiate
from certtrain.errors import UserError
from certtrain.runs.directory import RunDirectory
from certtrain.schedules import Timeline, in_steps
from certtrain.system.signatures import resolve
from certtrain.training.loggers.csv_logger import CSVMetrics
from certtrain.training.loggers.run_logger import RunLogger
from certtrain.training.loggers.scalars import test_scalars


def build_loggers(config: Mapping[str, Any], directory: RunDirectory) -> list[Logger]:
    """The chosen loggers, each told the configuration; after them, always, `metrics.csv`.

    A callback finds the first chosen one as `trainer.logger`, as in any script of Lightning.

    Args:
        config: resolved.
        directory: of the run, which certtrain's own loggers write into. Others write where their arguments say.

    Raises:
        UserError: a class that cannot be found, is not a logger, or cannot be built or started.
    """
    made: list[Logger] = []
    try:
        for name, node in config["logger"].items():
            if name != "csv":
                made.append(_logger(node, f"logger.{name}", config, directory))
    except BaseException:
        close(made, failed=True)
        raise
    return [*made, CSVMetrics(directory.metrics)]


def build_callbacks(config: Mapping[str, Any], timeline: Timeline) -> list[L.Callback]:
    """The callbacks of the group `callbacks`, in the configured order. Each process of a training builds its own.

    Args:
        config: resolved.
        timeline: of the run, for those that count in optimiser steps.

    Raises:
        UserError: a class that cannot be found, is not a callback, or cannot be built.
    """
    chosen = in_steps(config.get("callbacks") or {}, "callbacks", timeline)
    return [_built(node, f"callbacks.{name}", L.Callback) for name, node in chosen.items()]


def log_test(loggers: Sequence[Logger], test: Mapping[str, Mapping[str, Any]], figure: Path) -> None:
    """Give the test result to all loggers: to those that are not certtrain's as scalars.

    Args:
        loggers: of the run, whose training has ended.
        test: the mapping of `result.json`.
        figure: `certified_accuracy.png`.
    """
    for logger in loggers:
        if isinstance(logger, RunLogger):
            logger.log_test(test, figure)
        else:
            logger.log_metrics(test_scalars(test))
            logger.finalize("success")


def close(loggers: Sequence[Logger], failed: bool) -> None:
    """End certtrain's own; tell the others when the run failed. That it ended well they were told by the trainer."""
    for logger in loggers:
        if isinstance(logger, RunLogger):
            logger.close(failed=failed)
        elif failed:
            with contextlib.suppress(Exception):  # of a server, say: why the run failed matters more
                logger.finalize("failed")


def _logger(node: Any, key: str, config: Mapping[str, Any], directory: RunDirectory) -> Logger:
    ours = isinstance(node, Mapping) and _is_run_logger(node.get("_target_"))
    if ours and "run_dir" in node:
        raise UserError(f"{key}.run_dir is certtrain's to give", where=f"configuration key {key}", fix="leave it out")
    made = _built(node, key, Logger, **({"run_dir": directory.path} if ours else {}))
    try:
        made.log_hyperparams(config)
    except Exception as error:  # of a server that does not answer, or of a stored run with another configuration
        close([made], failed=True)
        raise UserError(
            f"{key} cannot take the configuration: {error}",
            where=f"configuration key {key} (target {node['_target_']})",
            fix=f"its arguments {key}.*, or leave it out: the same command then goes on",
        ) from error
    return made


def _is_run_logger(target: object) -> bool:
    try:
        found = resolve(str(target))
    except Exception:  # which is said where it is built
        return False
    return inspect.isclass(found) and issubclass(found, RunLogger)


def _built(node: Any, key: str, kind: type, **given: Any) -> Any:
    """What a node describes, of a Lightning kind."""
    made = instantiate(node, key, **given)
    if not isinstance(made, kind):
        name = f"lightning.pytorch.{'loggers.' * (kind is Logger)}{kind.__name__}"
        raise UserError(
            f"{node['_target_']} is not a {kind.__name__.lower()}: it does not derive from {name}",
            where=f"configuration key {key}",
            fix=f"class {node['_target_'].rpartition('.')[2]}({kind.__name__}); of the package lightning, which is "
            "another than pytorch_lightning",
        )
    return made
