"""Lightning's TensorBoard logger in a run directory: a resumed run hides what it logs again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from certtrain.errors import UserError
from certtrain.system.files import unwritable
from certtrain.training.loggers.run_logger import RunLogger
from certtrain.training.loggers.scalars import test_scalars


class TensorBoardMetrics(TensorBoardLogger, RunLogger):
    """Writes scalars under `tensorboard/` in the run directory; `tensorboard --logdir runs` shows all runs.

    Args:
        run_dir: of the run.

    Raises:
        UserError: neither tensorboard nor tensorboardX is installed.
    """

    def __init__(self, run_dir: str | Path) -> None:
        try:
            super().__init__(run_dir, name="tensorboard", version="")
        except ModuleNotFoundError as error:
            raise UserError(
                "neither tensorboard nor tensorboardX is installed",
                where="logger=tensorboard",
                fix="pip install tensorboardX, or logger=csv",
            ) from error
        self._last = 0

    @property
    def log_dir(self) -> str:
        """As it is: Lightning's expands `~` and `$`, which may be part of a folder's name."""
        return self.root_dir

    @property
    def experiment(self) -> Any:
        """The event writer, made when there is something to write."""
        if self._experiment is None:
            _write_in_this_thread(super().experiment)
            if self.hparams and self._kwargs.get("purge_step", 1) == 1:  # nothing is resumed: it is not there yet
                text = yaml.safe_dump(dict(self.hparams), sort_keys=False)
                self._experiment.add_text("configuration", f"```yaml\n{text}\n```")
        return self._experiment

    def resume_from(self, completed_steps: int) -> None:
        """Have what was logged beyond a checkpoint hidden: the resumed training logs it again."""
        self._kwargs["purge_step"] = completed_steps + 1

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The configuration, which becomes a text."""
        self.hparams = params

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """One scalar per metric."""
        self._last = self._last if step is None else step
        # TensorBoard's tags know no `@`: one of the two packages replaces it, so that it is done here for both.
        with self._writing():
            super().log_metrics({name.replace("@", "_"): value for name, value in metrics.items()}, self._last)

    def log_test(self, test: Mapping[str, Mapping[str, Any]], figure: str | Path | None = None) -> None:
        """The test result as scalars and the plot as an image."""
        self.log_metrics(test_scalars(test))
        if figure is not None and Path(figure).exists():
            import numpy as np
            from PIL import Image

            picture = np.asarray(Image.open(figure).convert("RGB"))
            with self._writing():
                self.experiment.add_image("test/certified_accuracy_plot", picture, self._last, dataformats="HWC")

    @rank_zero_only
    def save(self) -> None:
        """Flush what is written, without Lightning's second copy of the configuration."""
        if self._experiment is not None:
            with self._writing():
                self._experiment.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Only flush: the test result comes after the training."""
        self.save()

    def close(self, failed: bool = False) -> None:
        if self._experiment is not None:
            with self._writing():
                self._experiment.close()
            self._experiment = None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns what a full disk raises, which Lightning wraps in a ValueError, into a message.

        Raises:
            UserError: there is no room for the events, or the folder cannot be written.
        """
        try:
            yield
        except (OSError, ValueError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(cause, OSError):
                raise
            events = getattr(getattr(self._experiment, "file_writer", None), "event_writer", None)
            if events is not None:  # Python would have it try once more when it ends, for a traceback
                events.close = lambda: None
            self._experiment = None
            raise unwritable(Path(self.log_dir) / "events", cause, where="logger=tensorboard") from error


def _write_in_this_thread(writer: Any) -> None:
    """Take tensorboardX's thread away: one that dies of a full disk leaves a queue that fills, and a training that
    waits for ever. The package tensorboard keeps errors for the next call by itself."""
    events = getattr(getattr(writer, "file_writer", None), "event_writer", None)
    if hasattr(events, "_ev_writer"):
        events._worker.stop()
        events.add_event = events._ev_writer.write_event
