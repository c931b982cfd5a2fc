"""The state of a network and of what is around it, which certification leaves as it was."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from certtrain.errors import UserError


def state_of(network: nn.Module) -> dict[str, Any]:
    """Modes, weights, statistics, gradients, hooks; the global generators, precision and modes of torch."""
    backends = torch.backends
    settings = (backends.mkldnn.matmul, backends.mkldnn.conv, backends.cuda.matmul, backends.cudnn.conv)
    return {
        "modes": [module.training for module in network.modules()],
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules()],
        "weights": copy.deepcopy(network.state_dict()),
        "gradients": [None if p.grad is None else p.grad.clone() for p in network.parameters()],
        "requires_grad": [parameter.requires_grad for parameter in network.parameters()],
        "generator": torch.get_rng_state(),
        "numpy": [torch.as_tensor(np.random.get_state()[1].astype(np.int64)), np.random.get_state()[2]],
        "random": random.getstate(),
        "precision": [setting.fp32_precision for setting in settings],
        "autocast": [torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()],
        "grad": [torch.is_grad_enabled(), torch.is_inference_mode_enabled()],
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
    }


def check_unchanged(before: dict[str, Any], after: dict[str, Any], by: str) -> None:
    """Fail, and name what was changed."""
    for what in before:
        assert _equal(before[what], after[what]), f"{by} changes {what}"


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return one == other


def refused(use: Callable[[], object]) -> bool:
    """Whether it ends in a `UserError`; any other exception is passed on."""
    try:
        use()
    except UserError:
        return True
    return False
