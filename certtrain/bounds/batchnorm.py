"""BatchNorm as an affine operation: running statistics in eval mode, those of the clean path in training mode."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from certtrain.bounds.affine import ScaleShift
from certtrain.bounds.graph import unsupported
from certtrain.errors import UserError
from certtrain.system.collective import global_sum, processes


class Use(NamedTuple):
    """What a BatchNorm normalised by when it was used.

    Attributes:
        layer: in training mode.
        mean: (C,) of its inputs, in the computation graph.
        var: (C,) their biased variance, likewise.
        count: values behind each: a number, in a distributed training a scalar on the device.
    """

    layer: nn.Module
    mean: Tensor
    var: Tensor
    count: int | Tensor


_given: dict[nn.Module, deque[Use]] = {}  # what `given_statistics` has left for each layer


def batch_norm(name: str, layer: nn.BatchNorm1d | nn.BatchNorm2d, clean: Tensor) -> ScaleShift:
    """`(z - mean) / sqrt(var + eps) * weight + bias` as scale and shift.

    In training mode mean and var are the clean activations', part of the computation graph, and the running
    statistics are updated, once per use of the layer, as the layer's own forward does.

    Args:
        name: path of the layer, for messages.
        layer: the layer.
        clean: (B, C, ...) unperturbed activations.

    Raises:
        UserError: eval mode without running statistics (a certificate would depend on the other examples), or
            training mode with one value per channel.
    """
    if (
        clean.dim() not in ((2, 3) if isinstance(layer, nn.BatchNorm1d) else (4,))
        or clean.shape[1] != layer.num_features
    ):
        raise unsupported(
            f"{name} ({type(layer).__name__} of {layer.num_features} channels) is given {tuple(clean.shape)}",
            "inputs of the layer's own shape",
        )
    if layer.training:
        mean, var = _clean_statistics(name, layer, clean)
    elif layer.running_mean is None or layer.running_var is None:
        raise unsupported(
            f"{name} ({type(layer).__name__}) has no running statistics in eval mode",
            "track_running_stats=True, so that an example's logits do not depend on the others in its batch",
        )
    else:
        mean, var = layer.running_mean, layer.running_var
    scale = (var + layer.eps).rsqrt()
    if layer.weight is not None:
        scale = scale * layer.weight
    shift = -mean * scale
    if layer.bias is not None:
        shift = shift + layer.bias
    shape = (-1, *([1] * (clean.dim() - 2)))
    return ScaleShift(clean.shape[1:], scale.reshape(shape), shift.reshape(shape))


def _clean_statistics(name: str, layer: nn.BatchNorm1d | nn.BatchNorm2d, clean: Tensor) -> tuple[Tensor, Tensor]:
    if layer in _given:
        if not _given[layer]:
            raise _miscounted(f"{name} is used more often")
        use = _given[layer].popleft()
        return use.mean, use.var
    mean, var, count = batch_statistics(clean)
    if isinstance(count, int) and count < 2:  # several processes have at least one value each
        raise UserError(
            f"{name} is in training mode and sees one value per channel",
            where="batch size",
            fix="use batches of at least two examples, or eval mode",
        )
    if layer.track_running_stats and layer.running_mean is not None and layer.running_var is not None:
        with torch.no_grad():
            layer.num_batches_tracked.add_(1)
            if layer.momentum is None:  # cumulative average
                weight = 1 / layer.num_batches_tracked.to(mean.dtype)
            else:
                weight = layer.momentum
            layer.running_mean.lerp_(mean.to(layer.running_mean.dtype), weight)
            layer.running_var.lerp_((var * (count / (count - 1))).to(layer.running_var.dtype), weight)
    return mean, var


def batch_statistics(clean: Tensor) -> tuple[Tensor, Tensor, int | Tensor]:
    """Per channel the mean and the biased variance of a batch (B, C, ...), and the number of values behind each.

    In a distributed training those of the whole batch, of which this process has a share; the number is then a scalar
    on the device.
    """
    dims = [dim for dim in range(clean.dim()) if dim != 1]
    count = clean.numel() // clean.shape[1]
    if processes() == 1:
        var, mean = torch.var_mean(clean, dims, correction=0)
        return mean, var, count
    sums = global_sum(torch.cat([clean.sum(dims), clean.new_full((1,), count)]))
    total = sums[-1].detach()
    mean = sums[:-1] / total
    around = (clean - mean.reshape(-1, *([1] * (clean.dim() - 2)))) ** 2
    return mean, global_sum(around.sum(dims)) / total, total


def refuse_batch_of_one(network: nn.Module, x: Tensor) -> None:
    """Refuse a network whose BatchNorm in training would take the variance of one value, before anything is trained.

    Args:
        network: as it is trained; left as it was.
        x: (1, ...) an input of the smallest batch, which has one example.

    Raises:
        UserError: there is such a layer.
    """
    if not any(isinstance(module, nn.modules.batchnorm._NormBase) for module in network.modules()):
        return
    try:
        with torch.random.fork_rng(), torch.no_grad():
            copy.deepcopy(network).train()(x)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            "the last batch of an epoch has a single example, of which BatchNorm in training takes no variance",
            where="data.batch_size",
            fix="data.drop_last=true, or another data.batch_size (>= 2)",
        ) from error


def training_norms(network: nn.Module) -> dict[str, nn.Module]:
    """The layers, by path, that normalise by the statistics of their batch now."""
    kind = nn.modules.batchnorm._BatchNorm
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, kind) and layer.training}


@contextlib.contextmanager
def observed_statistics(network: nn.Module) -> Iterator[list[Use]]:
    """Within it, what each BatchNorm in training mode normalises by is noted, in the order of the network's forward."""
    uses: list[Use] = []

    def note(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        uses.append(Use(layer, *batch_statistics(args[0])))

    handles = [layer.register_forward_pre_hook(note) for layer in training_norms(network).values()]
    try:
        yield uses
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def given_statistics(network: nn.Module, uses: Iterable[Use]) -> Iterator[None]:
    """Within it, BatchNorm in training mode normalises by what was noted instead of by its batch, in the same order.

    In the network's own forward and in the native engine's bounds. Running statistics stay as they are.

    Raises:
        UserError: a layer is used more or less often; a normalisation that is not BatchNorm1d or BatchNorm2d.
    """
    layers = training_norms(network)
    queues: dict[nn.Module, deque[Use]] = {layer: deque() for layer in layers.values()}
    for use in uses:
        queues[use.layer].append(use)
    _given.update(queues)
    try:
        with _forward_by_rule(layers, "trainer.accumulate_grad_batches=1"):
            yield
        for name, layer in layers.items():
            if queues[layer]:
                raise _miscounted(f"{name} is used less often")
    finally:
        for layer in queues:
            _given.pop(layer, None)


def _miscounted(what: str) -> UserError:
    return UserError(
        f"{what} than the method says, so that its statistics of the whole batch are not known",
        where="trainer.accumulate_grad_batches",
        fix="trainer.accumulate_grad_batches=1, or `batch_norm_at` of the method as its objective is",
    )


@contextlib.contextmanager
def whole_batch_norm(network: nn.Module) -> Iterator[None]:
    """Within it, the network's own forward pass normalises by the whole batch of a distributed training, too.

    torch's SyncBatchNorm does that on accelerators only, and has no bound rule of its own.

    Raises:
        UserError: a normalisation over the batch other than BatchNorm1d and BatchNorm2d.
    """
    layers = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.modules.batchnorm._NormBase) and processes() > 1
    }
    with _forward_by_rule(layers, "trainer.devices=1"):
        yield


@contextlib.contextmanager
def _forward_by_rule(layers: dict[str, nn.Module], fix: str) -> Iterator[None]:
    """Within it, the forward of layers is `batch_norm`, as their bound rule is.

    Raises:
        UserError: a normalisation over the batch other than BatchNorm1d and BatchNorm2d.
    """
    for name, layer in layers.items():
        if type(layer) not in (nn.BatchNorm1d, nn.BatchNorm2d):
            raise UserError(
                f"{name} ({type(layer).__name__}) normalises by the batch, of which a pass sees a part",
                where=fix.partition("=")[0],
                fix=f"BatchNorm1d or BatchNorm2d, or {fix}",
            )
    changed = {name: layer for name, layer in layers.items() if "forward" not in vars(layer)}  # it nests
    for name, layer in changed.items():
        forward = functools.partial(_whole_batch_forward, name, layer)
        forward.whole_batch = True  # type: ignore[attr-defined]  # for `bounds.graph.runs_unchanged`
        layer.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in changed.values():
            layer.__dict__.pop("forward", None)


def _whole_batch_forward(name: str, layer: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor) -> Tensor:
    if not layer.training:
        return type(layer).forward(layer, x)
    return batch_norm(name, layer, x).forward(x)
