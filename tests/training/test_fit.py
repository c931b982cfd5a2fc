"""The one training, as commands and `certtrain.fit` call it."""

import torch
from rich.console import Console
from torch import nn

from certtrain.bounds import NativeEngine
from certtrain.data import Digits
from certtrain.methods import IBP, Ramp
from certtrain.training.fit import TrainerSettings, fit
from certtrain.training.module import CertifiedTraining


def trained(parts: int) -> tuple[dict[str, torch.Tensor], int]:
    """Weights and statistics after an epoch, and the number of steps that it took."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))
    module = CertifiedTraining(
        network, IBP(0.05, Ramp(1, 3), regulariser=None), NativeEngine(network),
        lambda parameters: torch.optim.SGD(parameters, lr=0.1), lambda step: 1.0,
    )  # fmt: skip
    settings = TrainerSettings(accelerator="cpu", accumulate_grad_batches=parts, gradient_clip_val=1.0)
    data = Digits("unused", batch_size=200, val_size=0.6)
    outcome = fit(module, data, epochs=1, console=Console(quiet=True), settings=settings, progress=False)
    return network.state_dict(), outcome.steps


def test_batches_in_parts_are_the_same_training():
    """575 examples in batches of 200: whole, or each in three parts; statistics, clipping and steps are the batch's."""
    (whole, steps), (parts, same) = trained(1), trained(3)
    assert steps == same == 3
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)
