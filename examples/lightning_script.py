"""Certified training in a Lightning script: `L.Trainer`, any callbacks and loggers, no Hydra and no run directory.

`python examples/lightning_script.py`: two minutes on two cores, and a checkpoint in `lightning_script/`.
"""

import sys
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

import certtrain
from certtrain.bounds import NativeEngine
from certtrain.certifiers import BoundCertifier
from certtrain.data import Batch, Digits
from certtrain.methods import CrownIBP, Ramp
from certtrain.models import zhang_3layer
from certtrain.training.callbacks.validation import CertifyValidation
from certtrain.training.module import CertifiedTraining


def main(
    epochs: int = 40, every: int = 5, indices: str = "all", folder: str | Path = "lightning_script"
) -> dict[str, float]:
    """Train, certify every few epochs, certify the test set. Returns certified accuracy by radius."""
    L.seed_everything(0, verbose=False)
    data = Digits(val_size=0.2, batch_size=64)
    data.setup()
    network = zhang_3layer(data.input_shape, data.num_classes, data.mean, data.std, width=4)

    steps = data.steps_per_epoch()
    method = CrownIBP("0.1", Ramp(steps, steps * epochs // 2), loss_fusion=True)
    engine = NativeEngine(network)
    module = CertifiedTraining(
        network,
        method,
        engine,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=2e-3),
        lr_factor=lambda step: 0.2 if step >= steps * epochs * 0.8 else 1.0,
    )

    # 200 pinned validation examples at fixed radii: never at the ramped eps, so that epochs can be compared.
    index = data.certify_index
    pinned = Batch(data.val.x[index], data.val.y[index], index)
    validation = CertifyValidation(BoundCertifier(["ibp"], ["0.05", "0.1"], NativeEngine), pinned, every)
    best = ModelCheckpoint(folder, monitor="val/certified@0.1", mode="max")

    trainer = L.Trainer(
        max_epochs=epochs,
        callbacks=[validation, best, LearningRateMonitor("step")],
        logger=CSVLogger(folder),
        inference_mode=False,  # attacks need gradients in validation
        num_sanity_val_steps=0,
        check_val_every_n_epoch=every,
        log_every_n_steps=10,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)

    # Of the best epoch; final bounds are computed in float64, of the whole test set.
    module.load_state_dict(torch.load(best.best_model_path, weights_only=True)["state_dict"])
    certifier = BoundCertifier(["ibp", "crown"], ["0.05", "0.1"], NativeEngine)
    certificates = certtrain.certify(network.eval(), certifier, data.test, indices=indices)
    return certtrain.summarise(certificates, certifier)["certified"]


if __name__ == "__main__":
    print(main(*map(int, sys.argv[1:3])))
