"""Train, certify and plot without Hydra or a run directory: `certtrain.fit`, `certtrain.certify`, `certtrain.plot`.

For scripts and notebooks. What the commands add is evidence: run directories, logs that survive a kill, cards, audits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from certtrain.bounds import NativeEngine
from certtrain.certificates import Certificates
from certtrain.certificates.summary import held_radii
from certtrain.certificates.summary import summarise as _summarise
from certtrain.certification.examples import accelerator, choose_indices
from certtrain.certifiers.base import Certifier
from certtrain.data.batch import Batch
from certtrain.data.foreign import Data, as_split, training_batches
from certtrain.data.module import DataModule
from certtrain.data.split import index_sha256
from certtrain.methods.base import Method
from certtrain.models import InputContract, TwoLogits
from certtrain.models.invariance import EXAMPLES, check_function, count_logits, some_of
from certtrain.reporting import terminal
from certtrain.reporting.plots import certified_accuracy_plot

BATCH = 256


def fit(
    network: nn.Module,
    method: Method,
    data: Data,
    *,
    epochs: int,
    lr: float = 5e-4,
    seed: int = 0,
    batch_size: int | None = None,
) -> dict[str, float]:
    """Train a network in place by Adam, on an accelerator when there is one; afterwards it is on the CPU, in eval mode.

    What runs is what a run of the command line does, `certtrain.training.fit.fit`. A method that draws initial weights
    of its own (`init="ibp"`) draws them first, from torch's global generator.

    Args:
        network: inputs in [0, 1] to (B, K) logits, or (B, 1) of two classes: class 1 where the logit is above 0. What
            it traces to must have bounds when the method needs them.
        method: the objective. Ramps count optimiser steps: as many as there are batches are an epoch.
        data: a `certtrain.data.DataModule`, whose training split is used; or anything that gives inputs in [0, 1] and
            classes: a pair of tensors, a Dataset, a DataLoader, a LightningDataModule. Classes are those of the
            network's logits, and noise is keyed by an example's place in its epoch where it has no position.
        epochs: passes over it.
        lr: learning rate.
        seed: of the noise, and of the order of tensors and datasets; others have an order of their own.
        batch_size: of tensors and datasets, 128 where it is not given; others have their own.

    Returns:
        The parts of the loss, means over the last steps: `train/loss`, `train/clean`, ...

    Raises:
        TrainingDiverged: the loss became NaN or infinite.
        UserError: an operation without bounds, data that does not fit its declaration, inputs outside [0, 1].
        TypeError: `data` is none of these, or has a batch size of its own.
    """
    from certtrain.training.fit import fit as train
    from certtrain.training.module import CertifiedTraining

    source, network = _training_source(network, data, batch_size, seed)
    method.initialise(network)
    engine = NativeEngine(network) if method.needs_engine else None
    module = CertifiedTraining(
        network, method, engine, lambda parameters: torch.optim.Adam(parameters, lr=lr), lambda step: 1.0, seed=seed
    )
    outcome = train(module, source, epochs=epochs, console=terminal.console())
    network.cpu().eval()
    return outcome.metrics


def _training_source(
    network: nn.Module, data: Data, batch_size: int | None, seed: int
) -> tuple[DataModule | Iterable[Batch], nn.Module]:
    """The data module, or the training split's batches, and the network with a logit for each class."""
    if isinstance(data, DataModule):
        if batch_size is not None:
            raise TypeError("batch_size is the data module's own: leave it out")
        data.prepare_data()
        data.setup()
        return data, InputContract.of(data).classifier(network)
    loader = training_batches(data, batch_size, seed)
    x = loader.one()
    if x is not None:
        device = next((parameter.device for parameter in network.parameters()), x.device)
        logits = count_logits(network, x.to(device), least=1)
        loader.refuse_classes_beyond(max(logits, 2))
        network = nn.Sequential(network, TwoLogits().to(device)) if logits == 1 else network
    return loader, network


def certify(network: nn.Module, certifier: Certifier, split: Data, *, indices: str = "all") -> Certificates:
    """The certificates of a split, one row per example, on an accelerator when there is one.

    Args:
        network: inputs in [0, 1] to (B, K) logits, or (B, 1) of two classes.
        certifier: `BoundCertifier`, `CascadeCertifier`, `SmoothingCertifier`, `AnytimeCertifier` or one of your own.
        split: `data.test`, say; or a pair of tensors, a Dataset, a DataLoader that does not shuffle.
        indices: `all`, `first_500`, `every_20th`, or a file of positions.

    Raises:
        UserError: an unknown rule, a network that is not one function of each input (see `certtrain.models.invariance`)
            or that the certifier refuses.
    """
    split = as_split(split)
    device, chosen = accelerator(), choose_indices(indices, len(split))
    before = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    network.to(device)
    try:
        few = split.x[some_of(chosen, EXAMPLES)].to(device)
        one_logit = len(few) and count_logits(network, few, least=1) == 1
        network = nn.Sequential(network, TwoLogits().to(device)) if one_logit else network
        check_function(network, few)
        certifier.bind(network, split=None, examples=len(chosen), device=device)
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
        **_summarise(certificates, certifier.radii, certifier.claim()),
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
