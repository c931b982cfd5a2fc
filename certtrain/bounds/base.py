"""What every bound engine answers: one signature for every method and both engines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from certtrain.threat import ThreatModel

METHODS: tuple[str, ...] = ("ibp", "crown_ibp", "crown", "alpha_crown")


class PreActivation(NamedTuple):
    """Bounds of the input of one nonlinearity, before it; shapes (B, ...) of that tensor."""

    name: str
    lower: Tensor
    upper: Tensor


@dataclass(frozen=True)
class Bounds:
    """Bounds of a network on a batch.

    Attributes:
        clean: (B, K) logits at the unperturbed input.
        margins: per method (B, K-1) lower bounds of `z_y - z_j` for j != y, in ascending order of j.
        pre_activations: the (interval) bounds of each nonlinearity's input, in the order of execution.
    """

    clean: Tensor
    margins: dict[str, Tensor]
    pre_activations: tuple[PreActivation, ...]


class BoundEngine(Protocol):
    """Bounds a network over a threat model. Differentiable; holds no state of a batch."""

    name: str
    version: str
    methods: tuple[str, ...]

    def bounds(
        self, x: Tensor, y: Tensor, threat: ThreatModel, methods: tuple[str, ...] = ("ibp", "crown_ibp")
    ) -> Bounds:
        """Lower bounds of the margins of class y over the threat model around x.

        Args:
            x: (B, ...) inputs in [0, 1].
            y: (B,) class indices.
            threat: norm, eps (scalar or (B,)) and input range.
            methods: any of `ibp`, `crown_ibp`, `crown`, `alpha_crown` that the engine has.

        Raises:
            UserError: an operation of the network that the engine cannot bound, with its path in the network.
        """
        ...


def margin_matrix(y: Tensor, num_classes: int, dtype: object = None) -> Tensor:
    """C of shape (B, K-1, K) with `C z = (z_y - z_j)` for j != y in ascending order of j."""
    import torch

    eye = torch.eye(num_classes, dtype=dtype or torch.float32, device=y.device)
    others = torch.arange(num_classes - 1, device=y.device).expand(len(y), -1)
    others = others + (others >= y[:, None])
    return eye[y][:, None, :] - eye[others]
