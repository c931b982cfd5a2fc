"""The state in which a network is evaluated: nothing about it is random, approximate or left changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

import torch
from torch import nn


@contextmanager
def frozen(network: nn.Module, *, statistics: Literal["running", "batch"] = "running") -> Iterator[nn.Module]:
    """Evaluation mode for every module, full float32 precision, and afterwards everything as it was.

    Inside: every module is in eval mode (BatchNorm uses its running statistics, dropout is off); parameters require no
    gradient, so that an attack's backward pass leaves `.grad` alone; autocast is off; matrix products and convolutions
    of float32 are float32 (no TF32, no bfloat16). Gradients with respect to the input still work.

    On leaving, also by an exception: the mode of each single module, each parameter's `requires_grad`, the precision
    settings, and the state of torch's random generators are restored.

    Args:
        network: to evaluate.
        statistics: `batch`: BatchNorm that is in training mode still normalises by its batch, and leaves the running
            statistics as they are.
    """
    modes = [(module, module.training) for module in network.modules()]
    norms = [m for m, on in modes if on and statistics == "batch" and isinstance(m, nn.modules.batchnorm._BatchNorm)]
    tracking = [(norm, norm.track_running_stats) for norm in norms]
    wanted = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=_accelerators(), device_type=_accelerator_type()))
        stack.enter_context(_full_precision())
        try:
            network.eval()
            for norm in norms:
                norm.training, norm.track_running_stats = True, False
            for parameter, _ in wanted:
                parameter.requires_grad_(False)
            yield network
        finally:
            for norm, flag in tracking:
                norm.track_running_stats = flag
            for parameter, flag in wanted:
                parameter.requires_grad_(flag)
            for module, flag in modes:
                module.training = flag  # not .train(flag), which would recurse over modules with modes of their own


@contextmanager
def _full_precision() -> Iterator[None]:
    with ExitStack() as stack:
        for device in {"cpu", _accelerator_type()}:
            stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(float32_products("ieee"))
        yield


@contextmanager
def float32_products(on_gpu: Literal["ieee", "tf32"]) -> Iterator[None]:
    """How matrix products and convolutions of float32 are computed: as such, or with TF32's 10 bits on NVIDIA GPUs.

    Torch's own default is TF32 for convolutions on GPUs that have it. On other devices they are float32 in any case.
    Afterwards everything is as it was.
    """
    backends = torch.backends
    cpu = backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn
    gpu = backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn
    before = [(setting, setting.fp32_precision) for setting in (*cpu, *gpu)]
    try:
        for setting in cpu:
            setting.fp32_precision = "ieee"
        for setting in gpu:
            setting.fp32_precision = on_gpu
        yield
    finally:
        for setting, value in before:
            setting.fp32_precision = value


def _accelerator_type() -> str:
    """`cuda` also where there is none: what `fork_rng` takes for its default."""
    accelerator = torch.accelerator.current_accelerator()
    return accelerator.type if accelerator is not None else "cuda"


def _accelerators() -> list[int]:
    """Devices whose generator may have been used: all of them, once the runtime was started."""
    if not torch.accelerator.is_available() or not getattr(torch, _accelerator_type()).is_initialized():
        return []
    return list(range(torch.accelerator.device_count()))
