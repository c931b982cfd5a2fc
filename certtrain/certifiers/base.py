"""What every certifier answers."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Literal, Protocol, runtime_checkable

from torch import nn

from certtrain.certificates import Certificates
from certtrain.data.batch import Batch
from certtrain.evaluation import frozen
from certtrain.falsification import Falsification, Progress, silent
from certtrain.threat import Norm

__all__ = ["Certifier", "Falsifier", "frozen"]


class Certifier(Protocol):
    """Seed, radii and settings in the constructor; certifies a batch of any network.

    Attributes:
        name: what the certificate is called in tables: `crown`, `smoothing`.
        norm: the norm of its radii.
        radii: at which certified accuracy is reported, ascending.
        certificate: `deterministic`, or `probabilistic` when it holds with confidence 1 - alpha.
    """

    name: str
    norm: Norm
    radii: tuple[Fraction, ...]
    certificate: Literal["deterministic", "probabilistic"]

    def certify(self, network: nn.Module, batch: Batch) -> Certificates:
        """One row per example, in the batch's order.

        Every module is in eval mode meanwhile and gets its mode back; random state and `.grad` stay as they were; no
        autocast, no TF32 (see `certtrain.evaluation.frozen`).
        """
        ...

    def settings(self) -> dict[str, Any]:
        """All that decides the outcome, in plain JSON values, for the card."""
        ...


@runtime_checkable
class Falsifier(Protocol):
    """A certifier that can try to refute what it issued."""

    def falsify(
        self, network: nn.Module, batch: Batch, certificates: Certificates, *, steps: int, progress: Progress = silent
    ) -> Falsification:
        """Attack certified examples inside their certified balls.

        Args:
            network: the one that was certified.
            batch: certified examples, chosen by the caller.
            certificates: their rows, in the batch's order.
            steps: gradient steps of each start of the attack.
            progress: told how many examples have been attacked; may raise to stop.
        """
        ...
