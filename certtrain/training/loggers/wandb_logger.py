"""Lightning's Weights & Biases logger in a run directory. wandb is imported when it is built: when it is chosen."""

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

from certtrain.claim import claim_of
from certtrain.errors import UserError
from certtrain.training.loggers.run_logger import RunLogger
from certtrain.training.loggers.scalars import test_scalars


class WandbMetrics(WandbLogger, RunLogger):
    """Lightning's logger on the wandb run of a run directory, started (or, online, resumed) when it is built.

    Args:
        run_dir: whose name is the run's; wandb writes into `wandb/` in it. The wandb id is made of both, so that a
            resumed run keeps its id.
        project: wandb project.
        entity: wandb user or team; None for the key's own.
        offline: write to disk only. Without a key this is so in any case, and `note` says it.
        artifacts: also hand over, at the end, the chosen checkpoint and the certificates with their cards.

    Raises:
        UserError: wandb is not installed or cannot start.
    """

    def __init__(
        self,
        run_dir: str | Path,
        project: str = "certtrain",
        entity: str | None = None,
        offline: bool = False,
        artifacts: bool = False,
    ) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UserError(
                "wandb is not installed", where="logger=wandb", fix="pip install wandb, or logger=csv"
            ) from error

        mode = os.environ.get("WANDB_MODE") or ("offline" if offline else "online")
        if mode == "online" and not has_key():
            mode = "offline"
            self.note = "wandb runs offline, because it has no key here: `wandb login` or WANDB_API_KEY sets one"
        self.artifacts = artifacts
        folder = Path(run_dir).resolve()  # wandb's process outlives a run and may have another working directory
        super().__init__(
            folder.name,
            folder,
            id=run_id(folder.name, folder),
            project=project,
            entity=entity,
            mode=mode,
            reinit="create_new",  # the jobs of a sweep share one process
            settings=wandb.Settings(console="off", quiet=True),
        )
        if mode != "online":
            self._wandb_init["resume"] = None  # offline runs cannot be resumed; a sync joins them by id
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.run = self.experiment
        except (wandb.errors.Error, OSError, ValueError) as error:
            raise UserError(
                f"wandb cannot start: {error}", where="logger=wandb", fix="logger.wandb.offline=true, or logger=csv"
            ) from error
        self._closed = False

    def log_test(self, test: Mapping[str, Mapping[str, Any]], figure: str | Path | None = None) -> None:
        """Certified accuracy by radius as a table and as scalars, the plot as an image."""
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
        """When it was asked for: the checkpoint as an artifact of type `model`, logs and cards as `certificates`."""
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
