"""A frozen network that another one learns from."""

from __future__ import annotations

import copy
from functools import cached_property

import torch
from torch import Tensor, nn

from certtrain.bounds.base import Features
from certtrain.bounds.features import feature_network
from certtrain.errors import UserError
from certtrain.models.evaluation import frozen


class Teacher:
    """A copy of a network in evaluation mode, whose weights nothing changes.

    Answers on the device of what it is asked, in float32 whatever the precision of the training, without gradient.

    Args:
        network: (B, ...) inputs in [0, 1] to (B, K) logits.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = copy.deepcopy(network).eval()

    def __call__(self, x: Tensor) -> Tensor:
        """(B, K) logits."""
        return self._answer(self.network, x)

    def features(self, x: Tensor) -> Tensor:
        """(B, d) what its last linear layer takes; see `certtrain.bounds.features`."""
        return self._answer(self._inside[0], x)

    @property
    def inside(self) -> Features:
        """Where its features are.

        Raises:
            UserError: torch.fx cannot trace the network, or it has no features.
        """
        return self._inside[1]

    @cached_property
    def _inside(self) -> tuple[nn.Module, Features]:
        try:
            return feature_network(self.network)
        except UserError as error:
            what = f"the teacher has no features to learn from: {error.what}"
            raise UserError(what, where="method.teacher", fix=error.fix) from error

    def _answer(self, network: nn.Module, x: Tensor) -> Tensor:
        held = next((tensor.device for tensor in (*network.parameters(), *network.buffers())), x.device)
        if held != x.device:
            network.to(x.device)
        with frozen(network), torch.no_grad():
            return network(x)


def checked_teacher(teacher: object) -> Teacher:
    """The teacher itself, or that of a network.

    Raises:
        UserError: it is neither.
    """
    if isinstance(teacher, nn.Module):
        return Teacher(teacher)
    if not isinstance(teacher, Teacher):
        raise UserError(
            f"teacher = {teacher!r} is not a network",
            where="method.teacher",
            fix="method.teacher=RUN, or a file of weights; in Python an nn.Module",
        )
    return teacher
