"""What certtrain's own loggers do beside Lightning's: they resume, show the certified result, keep files, and end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger


class RunLogger(Logger):
    """A Lightning logger that belongs to a run directory. Chosen in the group `logger`, it is built with `run_dir`.

    Any other Lightning logger may stand beside it: that one gets the configuration as hyper-parameters, the metrics,
    and the test result as scalars.

    Attributes:
        note: what the user should be told; None for nothing.
    """

    note: str | None = None

    def resume_from(self, completed_steps: int) -> None:
        """What was logged beyond these steps is logged again."""

    def log_test(self, test: Mapping[str, Mapping[str, Any]], figure: str | Path | None = None) -> None:
        """Show the test result.

        Args:
            test: the mapping of `result.json`.
            figure: `certified_accuracy.png`.
        """

    def log_files(self, checkpoint: Path, certificates: Sequence[Path]) -> None:
        """Keep the run's files, of a logger that keeps files.

        Args:
            checkpoint: the one that is the run's result.
            certificates: `certificates/*.tsv` and `*.json`.
        """

    def close(self, failed: bool = False) -> None:
        """Write what waits and end; a second call does nothing."""
