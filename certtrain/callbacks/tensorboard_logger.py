"""TensorBoard event files beside metrics.csv, by torch.utils.tensorboard or tensorboardX, whichever is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from certtrain.callbacks.scalars import test_scalars
from certtrain.errors import UserError
from certtrain.files import unwritable


class TensorBoardMetrics(Logger):
    """Writes scalars under `tensorboard/` in the run directory; `tensorboard --logdir runs` shows all runs.

    Args:
        folder: where the event files go.
        config: the resolved configuration, shown as a text.

    Raises:
        UserError: neither package is installed.
    """

    def __init__(self, folder: str | Path, config: str = "") -> None:
        super().__init__()
        self.folder, self.config = Path(folder), config
        self._make = _writer_class()
        self._writer: Any = None
        self._kept: _Kept | None = None
        self._purge: int | None = None
        self._last = 0

    @property
    def name(self) -> str:
        return self.folder.parent.name

    @property
    def version(self) -> str:
        return ""

    @property
    def writer(self) -> Any:
        """The event writer, made when there is something to write."""
        if self._writer is None:
            self._writer = self._make(str(self.folder), purge_step=self._purge)
            self._kept = _Kept.of(self._writer)
            if self.config and self._purge is None:
                self._writer.add_text("configuration", f"```yaml\n{self.config}\n```")
        return self._writer

    def resume_from(self, completed_steps: int) -> None:
        """Have what was logged beyond a checkpoint hidden: the resumed training logs it again."""
        self._purge = completed_steps + 1

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the configuration is logged as a text."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """One scalar per metric."""
        self._last = self._last if step is None else step
        for name, value in metrics.items():
            self._scalar(name, float(value))

    def log_test(self, test: Mapping[str, Mapping[str, Any]], figure: str | Path | None = None) -> None:
        """The test result as scalars and the plot as an image.

        Args:
            test: the mapping of `result.json`.
            figure: `certified_accuracy.png`.
        """
        for name, value in test_scalars(test).items():
            self._scalar(name, value)
        if figure is not None and Path(figure).exists():
            import numpy as np
            from PIL import Image

            picture = np.asarray(Image.open(figure).convert("RGB"))
            with self._writing():
                self.writer.add_image("test/certified_accuracy_plot", picture, self._last, dataformats="HWC")

    def _scalar(self, name: str, value: float) -> None:
        # TensorBoard's tags know no `@`: one of the two packages replaces it, so that it is done here for both.
        with self._writing():
            self.writer.add_scalar(name.replace("@", "_"), value, self._last)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """The packages write in a thread of their own, whose errors come with a later call.

        Raises:
            UserError: there is no room for the events, or the folder cannot be written.
        """
        try:
            if self._kept is not None and self._kept.error is not None:
                raise self._kept.error
            yield
        except OSError as error:
            _abandon(self._writer)
            self._writer = self._kept = None
            raise unwritable(self.folder / "events", error, where="logger=tensorboard") from error

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._writer is not None:
            with self._writing():
                self._writer.flush()

    def close(self, failed: bool = False) -> None:
        """Write what waits and end; a second call does nothing."""
        if self._writer is not None:
            with self._writing():
                self._writer.close()
            self._writer = self._kept = None
            self._purge = self._last + 1


class _Kept:
    """What tensorboardX's thread writes to. An error is kept for the next call: a thread that died of it would leave a
    queue that fills, and a training that waits for ever.

    Args:
        file: what the thread wrote to.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self.error: OSError | None = None

    @classmethod
    def of(cls, writer: Any) -> _Kept | None:
        """Put in its place; None for the other package, which keeps errors by itself."""
        worker = getattr(getattr(getattr(writer, "file_writer", None), "event_writer", None), "_worker", None)
        if not hasattr(worker, "_record_writer"):
            return None
        worker._record_writer = cls(worker._record_writer)
        return worker._record_writer

    def write_event(self, event: Any) -> None:
        self._attempt(self._file.write_event, event)

    def flush(self) -> None:
        self._attempt(self._file.flush)

    def _attempt(self, call: Callable[..., Any], *given: Any) -> None:
        if self.error is None:
            try:
                call(*given)
            except OSError as error:
                self.error = error


def _abandon(writer: Any) -> None:
    """Keep tensorboardX from trying once more when Python ends, and its thread from living until then: tracebacks."""
    events = getattr(getattr(writer, "file_writer", None), "event_writer", None)
    if events is not None:
        events.close = lambda: None
    worker = getattr(events, "_worker", None)
    if worker is not None and worker.is_alive():
        worker.stop()


def _writer_class() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise UserError(
                "neither tensorboard nor tensorboardX is installed",
                where="logger=tensorboard",
                fix="pip install tensorboardX, or logger=csv",
            ) from error
    return SummaryWriter
