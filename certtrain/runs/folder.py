"""A run's folder before it has weights: what may lie where one begins, what is taken back of one that failed."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from certtrain.errors import UserError
from certtrain.runs.locks import unwritable_run

FOLDERS = ("checkpoints", "certificates")
# What may lie, besides empty folders, where a run's creation was interrupted before config.yaml, its last file.
FIRST_FILES = frozenset({".lock", "environment.json", "overrides.yaml", "diff.patch"})
# What a run may hold besides before it has weights.
NEXT = frozenset({"config.yaml", "result.json", "metrics.csv", "tensorboard", "wandb"})


def make_folder(path: Path) -> frozenset[str] | None:
    """Make the folder of a run, unless something that is not a run, or not the beginning of one, lies there.

    Returns:
        The names that it held already; None where it was made.

    Raises:
        UserError: it holds something else, or cannot be made.
    """
    try:
        path.mkdir(parents=True)
        return None
    except FileExistsError:
        pass
    except OSError as error:
        raise unwritable_run(path, error) from error
    try:
        found = frozenset(os.listdir(path))
        strange = [] if "config.yaml" in found else sorted(_strange(path, found))
    except OSError as error:
        raise unwritable_run(path, error) from error
    if strange:
        raise UserError(
            f"{path} exists and is not a run: it holds {', '.join(strange[:3])} and no config.yaml",
            where="run directory",
            fix="choose another name=, or an empty directory",
        )
    return found


def take_back(path: Path, found: frozenset[str] | None) -> None:
    """Remove what a new run that came to nothing left, so that its name is free. The caller holds its lock.

    Args:
        path: of the run.
        found: what `make_folder` returned: that stays, and so does any file that no run has.
    """
    ours = {*FIRST_FILES, *NEXT, *FOLDERS}
    for name in os.listdir(path):
        if name not in (found or ()) and (name in ours or temporary(name)):
            with contextlib.suppress(OSError):  # a folder that holds something stays
                _remove(path / name)
    if found is None:
        with contextlib.suppress(OSError):
            path.rmdir()


def temporary(name: str) -> bool:
    """Whether it is the name of a file of ours that was not written whole."""
    return name.startswith(".") and name.endswith(".tmp")


def _remove(path: Path) -> None:
    if path.name in FOLDERS:
        for part in [*path.glob("*.part"), *path.glob(".*.tmp")]:
            part.unlink()
        path.rmdir()
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _strange(path: Path, names: Collection[str]) -> Iterator[str]:
    """What no interrupted creation leaves; the lock is the first thing that it makes."""
    for name in names:
        if name in FOLDERS and (path / name).is_dir():
            yield from (f"{name}/{inner}" for inner in os.listdir(path / name) if not temporary(inner))
        elif not (name in FIRST_FILES and ".lock" in names) and not temporary(name):
            yield name
