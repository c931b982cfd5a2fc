"""certtrain: train classifiers whose robustness can be proved, and prove it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from certtrain._version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import nn

    from certtrain.api import certify, fit, plot, summarise

__all__ = ["__version__", "certify", "fit", "load", "plot", "summarise"]


def __getattr__(name: str) -> Any:
    """The functions of `certtrain.api`, which import torch: only when they are asked for."""
    if name in ("certify", "fit", "plot", "summarise"):
        from certtrain import api

        return getattr(api, name)
    raise AttributeError(f"module 'certtrain' has no attribute {name!r}")


def load(run: str | Path, checkpoint: str | None = None, trust: str | Sequence[str] = ()) -> nn.Module:
    """The trained network of a run directory, in eval mode on the CPU; maps inputs in [0, 1] to logits.

    Args:
        run: the run directory, such as `runs/quickstart-seed0`, or its name.
        checkpoint: `last` or `best`; None for the one that the run chose.
        trust: packages of your own whose classes the run's configuration names. Nothing else that it names is called.

    Raises:
        UserError: no such run; its checkpoint is missing, corrupt, of another model, or not the one that the run
            recorded; its configuration names code that is neither certtrain's nor trusted.
    """
    from certtrain.config.loading import load_run
    from certtrain.config.received import trusted

    return load_run(run, checkpoint, trust=trusted(trust)).network
