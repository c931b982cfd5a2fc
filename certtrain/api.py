"""Train, certify and plot without Hydra or a run directory: `certtrain.fit`, `certtrain.certify`, `certtrain.plot`.

For scripts and notebooks. What the commands add is evidence: run directories, logs that survive a kill, cards, audits.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from certtrain.bounds import NativeEngine
from certtrain.certificates import Certificates
from certtrain.certification import accelerator, choose_indices
from certtrain.certifiers.base import Certifier
from certtrain.data.batch import Batch
from certtrain.data.module import DataModule
from certtrain.data.split import Split, index_sha256
from certtrain.invariance import EXAMPLES, check_function, count_logits, some_of
from certtrain.methods.base import Method
from certtrain.models import InputContract, TwoLogits
from certtrain.reporting import terminal
from certtrain.reporting.plots import certified_accuracy_plot
from certtrain.summary import held_radii
from certtrain.summary import summarise as _summarise

BATCH = 256


def fit(
    network: nn.Module, method: Method, data: DataModule, *, epochs: int, lr: float = 5e-4, seed: int = 0
) -> dict[str, float]:
    """Train a network in place by Adam, on an accelerator when there is one; afterwards it is on the CPU, in eval mode.

    Args:
        network: inputs in [0, 1] to (B, K) logits, or (B, 1) of two classes: class 1 where the logit is above 0. What
            it traces to must have bounds when the method needs them.
        method: the objective. Ramps count optimiser steps: `data.steps_per_epoch()` of them are an epoch.
        data: its training split is used.
        epochs: passes over it.
        lr: learning rate.
        seed: of the noise. The order of the examples follows from the data's own seed.

    Returns:
        The parts of the loss, means over the last steps: `train/loss`, `train/clean`, ...

    Raises:
        TrainingDiverged: the loss became NaN or infinite.
        UserError: an operation without bounds, data that does not fit its declaration.
    """
    import lightning as L

    from certtrain.callbacks.guard import FiniteGuard
    from certtrain.callbacks.progress import TrainingProgress
    from certtrain.callbacks.training_log import TrainingLog
    from certtrain.methods.module import CertifiedTraining
    from certtrain.training import quiet_lightning

    quiet_lightning()
    warnings.filterwarnings("ignore", message=".*no `val_dataloader`.*")
    data.prepare_data()
    data.setup()
    network = InputContract.of(data).classifier(network)
    engine = NativeEngine(network) if method.needs_engine else None
    module = CertifiedTraining(
        network, method, engine, lambda parameters: torch.optim.Adam(parameters, lr=lr), lambda step: 1.0, seed=seed
    )
    log = TrainingLog()
    trainer = L.Trainer(
        accelerator="auto",
        devices=1,
        max_epochs=epochs,
        callbacks=[FiniteGuard(), log, TrainingProgress(terminal.console(), None)],
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, datamodule=data)
    network.cpu().eval()
    return dict(log.latest)


def certify(network: nn.Module, certifier: Certifier, split: Split, *, indices: str = "all") -> Certificates:
    """The certificates of a split, one row per example, on an accelerator when there is one.

    Args:
        network: inputs in [0, 1] to (B, K) logits, or (B, 1) of two classes.
        certifier: `BoundCertifier`, `CascadeCertifier`, `SmoothingCertifier`, `AnytimeCertifier` or one of your own.
        split: `data.test`, say.
        indices: `all`, `first_500`, `every_20th`, or a file of positions.

    Raises:
        UserError: an unknown rule, a network that is not one function of each input (see `certtrain.invariance`), what
            the certifier refuses.
    """
    device, chosen = accelerator(), choose_indices(indices, len(split))
    if hasattr(certifier, "spread_over"):
        certifier.spread_over(len(chosen))
    before = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    network.to(device)
    try:
        few = split.x[some_of(chosen, EXAMPLES)].to(device)
        one_logit = len(few) and count_logits(network, few, least=1) == 1
        network = nn.Sequential(network, TwoLogits().to(device)) if one_logit else network
        check_function(network, few)
        parts = [
            certifier.certify(network, Batch(split.x[index].to(device), split.y[index].to(device), index.to(device)))
            for index in chosen.split(BATCH)
        ]
    finally:
        network.to(before)
    return Certificates.concat(parts)


def summarise(certificates: Certificates, certifier: Certifier) -> dict[str, Any]:
    """Clean accuracy, certified accuracy by radius, ACR, abstentions: the numbers of a run's `result.json`."""
    return {
        **_summarise(certificates, certifier.radii, certifier.norm),
        "certifier": certifier.name,
        "settings": certifier.settings(),
        "indices_sha256": index_sha256(torch.from_numpy(certificates.index)),
        "seconds": float(certificates.seconds.sum()),
    }


def plot(found: Mapping[str, tuple[Certificates, Certifier]], path: str | Path) -> Path:
    """Certified accuracy by radius as a PNG, named: `plot({"crown": (certificates, certifier)}, "curve.png")`.

    Raises:
        ValueError: there is nothing to draw.
        UserError: the file cannot be written.
    """
    entries = {name: summarise(*pair) for name, pair in found.items()}
    held = {name: held_radii(certificates.correct, certificates.radius) for name, (certificates, _) in found.items()}
    return certified_accuracy_plot(entries, path, radii=held)
