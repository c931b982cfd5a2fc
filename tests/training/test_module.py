"""The LightningModule: resuming is exact, certifying changes nothing, divergence is found on the device."""

import signal

import lightning as L
import pytest
import torch

from certtrain.bounds import NativeEngine
from certtrain.certifiers import BoundCertifier, SmoothingCertifier
from certtrain.data import Batch, Digits
from certtrain.methods import CrownIBP, Gaussian, LearningRate, Ramp
from certtrain.methods.compiled import Compiled
from certtrain.models import mlp, resnet_small
from certtrain.threat import threat_of
from certtrain.training.callbacks.checkpoint import Checkpoints
from certtrain.training.callbacks.guard import FiniteGuard, TrainingDiverged
from certtrain.training.callbacks.signals import Interrupted, SignalFlag, StopAtSignal
from certtrain.training.callbacks.validation import CertifyValidation
from certtrain.training.checkpoints import read_checkpoint
from certtrain.training.module import CertifiedTraining


def build(kind: str, lr: float = 1e-2, data: Digits | None = None):
    data = data or Digits(
        "unused", batch_size=64, val_size=0.1, seed=3, augment={"crop_padding": 1, "fill": "zero", "flip": False}
    )
    torch.manual_seed(1)
    shape = {"input_shape": (1, 8, 8), "num_classes": 10, "mean": [0.3], "std": [0.4]}
    if kind == "gaussian":
        network, method = mlp(hidden=[32], **shape), Gaussian(sigma=0.25)
    elif kind == "batch_norm":
        network = resnet_small(width=4, linear=16, batch_norm=True, **shape)
        method = CrownIBP(0.05, Ramp(5, 20))
    else:
        fusion = kind == "loss_fusion"
        network, method = mlp(hidden=[32], **shape), CrownIBP(0.05, Ramp(5, 20), loss_fusion=fusion)
    module = CertifiedTraining(
        network,
        method,
        NativeEngine(network) if method.needs_engine else None,
        lambda p: torch.optim.Adam(p, lr=lr, fused=True),
        LearningRate(kind="cosine", total=60),
        seed=7,
        record={"contract": {}, "config": {}},
        compiled=Compiled(method, 64, backend="eager") if kind == "compiled" else None,
    )
    return module, data


class SignalAt(L.Callback):
    """A signal that comes after so many optimiser steps."""

    def __init__(self, step: int, flag: SignalFlag) -> None:
        self.step, self.flag = step, flag

    def on_train_batch_end(self, trainer, module, *args) -> None:
        if trainer.global_step == self.step:
            self.flag.number = signal.SIGINT


def trainer(callbacks=(), epochs=3, accumulate=1, **options) -> L.Trainer:
    return L.Trainer(
        max_epochs=epochs,
        accumulate_grad_batches=accumulate,
        callbacks=list(callbacks),
        logger=False,
        accelerator="cpu",
        devices=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        inference_mode=False,
        use_distributed_sampler=False,
        **options,
    )


@pytest.mark.parametrize(
    ("kind", "accumulate", "stop"),
    [
        *(("crown_ibp", 1, 13), ("crown_ibp", 1, 21), ("gaussian", 1, 30), ("crown_ibp", 3, 8), ("batch_norm", 1, 13)),
        *(("loss_fusion", 1, 13), ("compiled", 1, 13), ("compiled", 1, 20)),  # 20: before an epoch's last, small batch
    ],
)
def test_stopping_in_mid_epoch_and_resuming_gives_the_same_weights_bit_for_bit(kind, accumulate, stop, tmp_path):
    """21 batches per epoch, three epochs; augmentation, noise, ramp, cosine schedule, Adam and BatchNorm in play."""
    whole, data = build(kind)
    trainer(accumulate=accumulate).fit(whole, datamodule=data)
    first, data = build(kind)
    checkpoints, flag = Checkpoints(tmp_path, None), SignalFlag()
    callbacks = [SignalAt(stop, flag), checkpoints, StopAtSignal(flag, checkpoints)]
    with pytest.raises(Interrupted):
        trainer(accumulate=accumulate, callbacks=callbacks).fit(first, datamodule=data)
    assert read_checkpoint(checkpoints.last)["global_step"] == stop
    second, data = build(kind)
    resumed = trainer(accumulate=accumulate)
    resumed.fit(second, datamodule=data, ckpt_path=checkpoints.last, weights_only=True)
    assert resumed.global_step > stop
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, second.network.state_dict()[name]), name


@pytest.mark.parametrize("kind", ["crown_ibp", "gaussian", "batch_norm"])
def test_certifying_in_validation_leaves_the_trained_weights_identical(kind):
    plain, data = build(kind)
    trainer(epochs=2).fit(plain, datamodule=data)
    watched, data = build(kind)
    data.setup()
    index = data.certify_index[:20]
    batch = Batch(data.val.x[index], data.val.y[index], index)
    certifier = (
        SmoothingCertifier(0.25, ["0.1"], n0=10, n=50, split="val", purposes=("val_select", "val_estimate"))
        if kind == "gaussian"
        else BoundCertifier(["ibp", "crown_ibp"], ["0.02", "0.05"], NativeEngine, precision="float32", attack_steps=0)
    )
    callback = CertifyValidation(certifier, batch, attack_steps=3)
    run = trainer(epochs=2, callbacks=[callback])
    run.fit(watched, datamodule=data)
    assert callback.step == run.global_step
    assert any(key.startswith("val/certified@") for key in run.callback_metrics)
    for name, value in plain.network.state_dict().items():
        assert torch.equal(value, watched.network.state_dict()[name]), name


def test_validation_reports_margins_of_a_network_trained_with_loss_fusion():
    module, data = build("loss_fusion")
    data.setup()
    index = data.certify_index[:20]
    batch = Batch(data.val.x[index], data.val.y[index], index)
    certifier = BoundCertifier(["ibp", "crown_ibp"], ["0.01"], NativeEngine, precision="float32", attack_steps=0)
    run = trainer(epochs=1, callbacks=[CertifyValidation(certifier, batch, attack_steps=0)])
    run.fit(module, datamodule=data)
    bounds = module.engine.bounds(batch.x, batch.y, threat_of(eps=0.01))
    proved = (bounds.margins["ibp"] > 0).all(1) | (bounds.margins["crown_ibp"] > 0).all(1)
    assert run.callback_metrics["val/certified@0.01"].item() == pytest.approx(proved.float().mean().item())
    assert proved.any()
    assert "train_verified_ibp" in module.parts
    assert "train_verified" not in module.parts


def test_checkpoints_load_with_weights_only_and_prefix_the_network(tmp_path):
    module, data = build("crown_ibp")
    run = trainer(epochs=1)
    run.fit(module, datamodule=data)
    run.save_checkpoint(tmp_path / "a.ckpt")
    content = read_checkpoint(tmp_path / "a.ckpt")
    assert all(key.startswith("network.") for key in content["state_dict"])
    assert content["certtrain"]["schema"] == 1


def test_a_nan_loss_stops_training_names_its_first_step_and_keeps_the_good_checkpoint(tmp_path):
    module, data = build("crown_ibp")
    original = module.method

    class Poisoned(type(original)):
        def __call__(self, network, engine, batch, step, streams):
            objective = super().__call__(network, engine, batch, step, streams)
            return objective._replace(loss=objective.loss * float("nan")) if step >= 25 else objective

    module.objective = Poisoned(0.05, Ramp(5, 20))
    checkpoints = Checkpoints(tmp_path, None, every_n_seconds=0.0)
    with pytest.raises(TrainingDiverged) as error:
        trainer(callbacks=[FiniteGuard(10), checkpoints]).fit(module, datamodule=data)
    assert error.value.step == 25
    assert "step 25" in str(error.value)
    kept = read_checkpoint(tmp_path / "last.ckpt")
    assert kept["global_step"] <= 25
    assert all(torch.isfinite(v).all() for v in kept["state_dict"].values())


@pytest.mark.parametrize("entry", ["validate", "fit"])
def test_certification_with_attacks_runs_inside_both_entry_points(entry):
    module, data = build("crown_ibp")
    data.setup()
    index = data.certify_index[:10]
    batch = Batch(data.val.x[index], data.val.y[index], index)
    certifier = BoundCertifier(["ibp"], ["0.01"], NativeEngine, precision="float32", attack_steps=2)
    callback = CertifyValidation(certifier, batch, attack_steps=2)
    run = trainer(epochs=1, callbacks=[callback])
    getattr(run, entry)(module, datamodule=data)
    assert callback.summary is not None
    assert callback.summary["n"] == 10
    assert "val/pgd@0.01" in run.callback_metrics


def test_a_resumed_run_follows_its_own_learning_rate_schedule_not_the_saved_one(tmp_path):
    """LambdaLR restores a callable object's attributes from the checkpoint: a longer cosine would end too early."""
    module, data = build("gaussian")
    run = trainer(epochs=1)
    run.fit(module, datamodule=data)
    run.save_checkpoint(tmp_path / "a.ckpt")
    longer, data = build("gaussian")
    longer.lr_factor = LearningRate(kind="cosine", total=1000)
    trainer(epochs=2).fit(longer, datamodule=data, ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert longer.lr_factor.total == 1000
    assert longer.optimizers().param_groups[0]["lr"] == pytest.approx(1e-2 * longer.lr_factor(longer.global_step))


class Remembering(Gaussian):
    """Counts what its hooks are called for, and keeps a mean of weights at the epochs' ends."""

    def __init__(self):
        super().__init__(0.1)
        self.seen = {"begin": 0, "steps": 0, "ends": 0, "mean": torch.zeros(())}
        self.validated = []

    def begin(self, context):
        self.seen["begin"] += 1
        self.started_at = context.step

    def before_step(self, context, batch):
        assert context.optimizer.param_groups[0]["params"][0] is next(context.network.parameters())
        self.seen["steps"] += len(batch.y)

    def epoch_end(self, context):
        assert sum(len(batch.y) for batch in context.batches) == 1293
        self.seen["ends"] += 1
        self.seen["mean"] = next(context.network.parameters()).detach().mean()

    def state_dict(self):
        return dict(self.seen)

    def load_state_dict(self, state):
        self.seen = dict(state)


class Order(L.Callback):
    """How many epochs had ended for the method when a validation began."""

    def on_validation_start(self, trainer, module):
        module.method.validated.append(module.method.seen["ends"])


def test_a_methods_hooks_and_what_it_remembers_over_a_resume(tmp_path):
    module, data = build("gaussian")
    module.method = module.objective = Remembering()
    run = trainer(epochs=2, callbacks=[Order()])
    run.fit(module, datamodule=data)
    assert module.method.seen["steps"] == 2 * 1293
    assert module.method.validated == [1, 2]  # an epoch's end comes before its validation
    run.save_checkpoint(tmp_path / "a.ckpt")
    again, data = build("gaussian")
    again.method = again.objective = Remembering()
    trainer(epochs=3).fit(again, datamodule=data, ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert (again.method.seen["begin"], again.method.seen["ends"], again.method.started_at) == (2, 3, 42)
    assert again.method.seen["mean"] == next(again.network.parameters()).detach().mean()
