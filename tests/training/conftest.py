"""A network small enough to train in a blink, and a Trainer around it without anything of Lightning's own."""

import lightning as L
import pytest
import torch

from certtrain.bounds import NativeEngine
from certtrain.certifiers import BoundCertifier
from certtrain.data import Batch, Digits
from certtrain.methods import CrownIBP, Ramp
from certtrain.models import mlp
from certtrain.training.callbacks.validation import CertifyValidation
from certtrain.training.module import CertifiedTraining


@pytest.fixture
def digits() -> Digits:
    """Three training batches per epoch."""
    data = Digits("unused", batch_size=500, val_size=0.1)
    data.setup()
    return data


@pytest.fixture
def make_module():
    """CROWN-IBP on a hidden layer of 16, its ramp over steps 2 to 6."""

    def make(lr: float = 1e-2, ramp: Ramp = Ramp(2, 4)) -> CertifiedTraining:  # noqa: B008 - frozen
        torch.manual_seed(0)
        network = mlp(hidden=[16], input_shape=(1, 8, 8), num_classes=10, mean=[0.0], std=[1.0])
        method = CrownIBP(0.05, ramp)
        engine = NativeEngine(network)
        return CertifiedTraining(network, method, engine, lambda p: torch.optim.Adam(p, lr=lr), lambda step: 1.0)

    return make


@pytest.fixture
def make_trainer():
    def make(*callbacks: L.Callback, epochs: int = 2, accumulate: int = 1, loggers=(), **more) -> L.Trainer:
        return L.Trainer(
            max_epochs=epochs,
            accumulate_grad_batches=accumulate,
            callbacks=list(callbacks),
            logger=list(loggers),
            accelerator="cpu",
            devices=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            inference_mode=False,
            use_distributed_sampler=False,
            **{"enable_checkpointing": False, **more},
        )

    return make


@pytest.fixture
def make_validation(digits):
    """IBP in float32 on ten pinned validation digits."""

    def make(radii=("0.01", "0.05"), kind=CertifyValidation, **options) -> CertifyValidation:
        index = digits.certify_index[:10]
        certifier = BoundCertifier(["ibp"], list(radii), NativeEngine, precision="float32", attack_steps=0)
        return kind(certifier, Batch(digits.val.x[index], digits.val.y[index], index), **options)

    return make
