"""BatchNorm's statistics over the whole training split, which validation and certificates then use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from certtrain.bounds.batchnorm import observed_statistics, training_norms
from certtrain.data.batch import Batch
from certtrain.errors import UserError
from certtrain.models.evaluation import frozen
from certtrain.training.module import CertifiedTraining


def set_population_statistics(
    network: nn.Module, batches: Iterable[Batch], layers: Sequence[nn.Module] | None = None
) -> None:
    """Set the running statistics of BatchNorm to those of its inputs over all batches.

    With m_b and v_b the mean and variance of the n_b values of a batch and n their sum,

        mean = sum_b n_b m_b / n,    var = sum_b n_b (v_b + (m_b - mean)^2) / (n - 1),

    which are those of all values together. A layer's inputs come from layers before it that normalise by their batch.
    Dropout and the like are off. Weights, gradients, generators and `num_batches_tracked` stay as they are.

    Args:
        network: on its device.
        batches: of the training split; of several processes each has its share of every batch.
        layers: that normalise by their batch in training; None: those that are in training mode.
    """
    layers = [*training_norms(network).values()] if layers is None else layers
    modes = [layer.training for layer in layers]
    found: dict[
        nn.Module, tuple[Tensor, Tensor, Tensor]
    ] = {}  # the number of values, their mean, sum of squares about it
    for layer in layers:
        layer.training = True
    with frozen(network, statistics="batch"), torch.no_grad():
        for batch in batches:
            with observed_statistics(network) as uses:
                network(batch.x)
            for layer, mean, var, count in uses:
                values = torch.as_tensor(count, dtype=torch.float64, device=mean.device)
                new = (values, mean.double(), var.double() * values)
                found[layer] = _merged(found[layer], new) if layer in found else new
    for layer, mode in zip(layers, modes):
        layer.training = mode
    for layer, (values, mean, squares) in found.items():
        if layer.running_mean is not None:
            layer.running_mean.copy_(mean)
            layer.running_var.copy_(squares / (values - 1).clamp_min(1))


def _merged(one: tuple[Tensor, Tensor, Tensor], other: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Of two sets of values together (Chan, Golub and LeVeque 1983)."""
    (n, mean, squares), (more, other_mean, other_squares) = one, other
    total, apart = n + more, other_mean - mean
    return total, mean + apart * (more / total), squares + other_squares + apart**2 * (n * more / total)


class PopulationStatistics(L.Callback):
    """After each epoch BatchNorm's running statistics become those over the training split, as in CTBench.

    Before the epoch is validated and its checkpoint written. The running ones lag behind weights that still move, and
    bounds in evaluation depend on them. Costs a forward pass of every training image, augmented as in the epoch.

    Raises:
        UserError: a network without BatchNorm.
    """

    def on_train_start(self, trainer: L.Trainer, module: CertifiedTraining) -> None:
        if not training_norms(module.network):
            raise UserError(
                "population statistics of a network without BatchNorm",
                where="configuration key callbacks",
                fix="leave callbacks=population_statistics out, or a model with BatchNorm",
            )

    def on_train_batch_end(self, trainer: L.Trainer, module: CertifiedTraining, *args: Any) -> None:
        if trainer.is_last_batch:
            set_population_statistics(module.network, module.batches())
