"""What every certifier answers."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Literal, Protocol

from torch import nn

from certtrain.certificates import Certificates
from certtrain.data.batch import Batch
from certtrain.evaluation import frozen
from certtrain.threat import Norm

__all__ = ["Certifier", "frozen"]


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
