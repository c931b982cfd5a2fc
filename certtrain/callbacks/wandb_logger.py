"""Weights & Biases beside metrics.csv. wandb is imported when a run is made, so only when it was asked for."""

from __future__ import annotations

import hashlib
import netrc
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lightning.pytorch.loggers import WandbLogger

from certtrain.callbacks.scalars import test_scalars
from certtrain.claim import claim_of
from certtrain.errors import UserError
from certtrain.files import plain


def make_wandb(
    project: str,
    name: str,
    run_dir: str | Path,
    *,
    config: Mapping[str, Any] | None = None,
    entity: str | None = None,
    offline: bool = False,
    artifacts: bool = False,
) -> WandbMetrics:
    """Start (or, online, go on with) the wandb run of a run directory. The caller's `finally` calls `close`.

    Args:
        project: wandb project.
        name: the run's name; the wandb id is made of it and of the directory, so that a resumed run keeps its id.
        run_dir: where wandb writes, under `wandb/`.
        config: the resolved configuration.
        entity: wandb user or team; None for the key's own.
        offline: write to disk only. Without a key this is so in any case, and `note` says it.
        artifacts: also hand over, at the end, the chosen checkpoint and the certificates with their cards.

    Raises:
        UserError: wandb is not installed or cannot start.
    """
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            "wandb is not installed", where="logger=wandb", fix="pip install wandb, or logger=csv"
        ) from error

    note = None
    mode = os.environ.get("WANDB_MODE") or ("offline" if offline else "online")
    if mode == "online" and not has_key():
        mode, note = (
            "offline",
            "wandb runs offline, because it has no key here: `wandb login` or WANDB_API_KEY sets one",
        )
    run_dir = Path(run_dir)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            project=project,
            entity=entity,
            name=name,
            id=run_id(name, run_dir),
            dir=str(run_dir.resolve()),  # wandb's process outlives a run and may have another working directory
            config=plain(dict(config or {})),
            mode=mode,
            resume="allow" if mode == "online" else None,  # offline runs cannot be resumed; a sync joins them by id
            reinit="create_new",  # the jobs of a sweep share one process
            settings=wandb.Settings(console="off", quiet=True),
        )
    except (wandb.errors.Error, OSError, ValueError) as error:
        raise UserError(
            f"wandb cannot start: {error}", where="logger=wandb", fix="logger.wandb.offline=true, or logger=csv"
        ) from error
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return WandbMetrics(run, run_dir, note, artifacts)


class WandbMetrics(WandbLogger):
    """Lightning's logger on a run that we made ourselves, with the test result and an end.

    Attributes:
        note: what the user should be told; None for nothing.
    """

    def __init__(self, run: Any, run_dir: Path, note: str | None, artifacts: bool = False) -> None:
        super().__init__(experiment=run, save_dir=run_dir)
        self.run, self.note, self.artifacts = run, note, artifacts
        self._closed = False

    def log_hyperparams(self, params: Any) -> None:
        """Nothing: the run has the whole configuration."""

    def log_test(self, test: Mapping[str, Mapping[str, Any]], figure: str | Path | None = None) -> None:
        """Log the test result: certified accuracy by radius as a table and as scalars, the plot as an image.

        Args:
            test: the mapping of `result.json`.
            figure: `certified_accuracy.png`.
        """
        import wandb

        table = wandb.Table(columns=["certificate", "certifier", "threat model", "radius", "certified_accuracy", "n"])
        logged: dict[str, Any] = {"test/certified_accuracy": table, **test_scalars(test)}
        for name, entry in test.items():
            for radius, fraction in entry["certified"].items():
                table.add_data(name, entry["certifier"], claim_of(entry).threat, radius, fraction, entry["n"])
        if figure is not None:
            logged["test/certified_accuracy_plot"] = wandb.Image(str(figure))
        self.run.log(logged)

    def log_files(self, checkpoint: Path, certificates: Sequence[Path]) -> None:
        """When it was asked for: the checkpoint as an artifact of type `model`, logs and cards as `certificates`.

        Args:
            checkpoint: the one that is the run's result.
            certificates: `certificates/*.tsv` and `*.json`.
        """
        if not self.artifacts:
            return
        import wandb

        for kind, paths in (("model", [checkpoint]), ("certificates", list(certificates))):
            found = [path for path in paths if path.is_file()]
            if found:
                artifact = wandb.Artifact(f"{self.run.id}-{kind}", type=kind)
                for path in found:
                    artifact.add_file(str(path))
                self.run.log_artifact(artifact)

    def close(self, failed: bool = False) -> None:
        """End the run; what waits is written before this process exits. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self.run.finish(exit_code=1 if failed else 0)


def run_id(name: str, run_dir: str | Path) -> str:
    """A wandb id that stays the same when the run is resumed and differs for a namesake elsewhere or made anew.

    The letters of the name, then 8 hexadecimal digits of a hash over it, the directory and when the run was created.
    """
    run_dir = Path(run_dir).resolve()
    environment = run_dir / "environment.json"
    born = environment.read_text(encoding="utf-8") if environment.exists() else ""
    started = re.search(r'"started": "([^"]*)"', born)
    digest = hashlib.sha256(f"{name}\n{run_dir}\n{started.group(1) if started else ''}".encode()).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', name).strip('-')[:100] or 'run'}-{digest[:8]}"


def has_key() -> bool:
    """Whether wandb would find credentials for its server without asking."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    paths = [os.environ["NETRC"]] if "NETRC" in os.environ else ["~/.netrc", "~/_netrc"]
    for path in paths:
        try:
            if host in netrc.netrc(os.path.expanduser(path)).hosts:
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False
