"""Validation certifies at fixed radii, reports under stable names, and lets an attack contradict a certificate."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from certtrain.attacks import pgd_margins
from certtrain.certificates import Certificates
from certtrain.certifiers import BoundCertifier, SmoothingCertifier
from certtrain.data import Batch
from certtrain.threat import threat_of
from certtrain.training.callbacks.validation import CertifyValidation, SoundnessError


class Unsound(BoundCertifier):
    """Claims the largest radius for every correct example."""

    def certify(self, network, batch):
        found = super().certify(network, batch)
        radius = np.where(found.correct, float(self.radii[-1]), 0.0)
        return Certificates(found.index, found.label, found.predict, radius, found.correct, found.seconds)


def test_an_attack_that_beats_a_certificate_stops_training(digits, make_module, make_trainer, make_validation):
    validation = make_validation(radii=["0.01", "0.4"])
    validation.certifier.__class__ = Unsound
    with pytest.raises(SoundnessError, match=r"certified at l-inf 0\.4 by ibp"):
        make_trainer(validation, epochs=4).fit(make_module(), datamodule=digits)


def test_certified_implies_robust_implies_correct(digits, make_module, make_trainer, make_validation):
    validation = make_validation(radii=["0.005", "0.02", "0.08"])
    module = make_module()
    run = make_trainer(validation, epochs=4)
    run.fit(module, datamodule=digits)
    clean = validation.summary["clean"]
    for radius in ("0.005", "0.02", "0.08"):
        robust = float(run.callback_metrics[f"val/pgd@{radius}"])
        assert validation.summary["certified"][radius] <= robust + 1e-6 <= clean + 2e-6
    assert validation.summary["certified"]["0.005"] > 0
    # example by example
    found, batch = validation.certificates, validation.batch
    network = module.network.eval()
    for radius in validation.certifier.radii:
        threat = threat_of(eps=radius)
        margin = pgd_margins(network, batch.x, batch.y, threat, steps=10, restarts=1).margin
        certified = torch.as_tensor(found.correct & (found.radius >= float(radius)))
        assert bool((margin[certified] > 0).all())
        assert bool(torch.as_tensor(found.correct)[margin > 0].all())


@pytest.mark.parametrize(("every", "expected"), [(1, [3, 6, 9, 12, 15]), (2, [6, 12, 15]), (7, [15])])
def test_comes_every_n_epochs_and_after_the_last(
    digits, make_module, make_trainer, make_validation, every, expected, monkeypatch
):
    validation, steps = make_validation(every_n_epochs=every, attack_steps=0), []
    certify = validation.certifier.certify
    run = make_trainer(validation, epochs=5)

    def watched(network, batch):
        steps.append(run.global_step)
        return certify(network, batch)

    monkeypatch.setattr(validation.certifier, "certify", watched)
    run.fit(make_module(), datamodule=digits)
    assert steps == expected
    assert validation.step == 15


def test_metric_names_keep_the_exact_radius(digits, make_module, make_trainer, make_validation):
    validation = make_validation(radii=["2/255", "0.10"], attack_steps=0)
    run = make_trainer(validation, epochs=1)
    run.fit(make_module(), datamodule=digits)
    assert {"val/certified@2_255", "val/certified@0.1", "val/clean", "val/acr_grid"} <= set(run.callback_metrics)
    assert validation.watched == Fraction(1, 10)


def test_smoothing_reports_acr_and_is_not_attacked(digits, make_module, make_trainer):
    certifier = SmoothingCertifier(0.1, ["0.05"], n0=10, n=50, split="val", purposes=("val_select", "val_estimate"))
    batch = Batch(digits.val.x[:5], digits.val.y[:5], torch.arange(5))
    run = make_trainer(CertifyValidation(certifier, batch), epochs=1)
    run.fit(make_module(), datamodule=digits)
    assert {"val/acr", "val/abstained", "val/certified@0.05"} <= set(run.callback_metrics)
    assert not [name for name in run.callback_metrics if name.startswith("val/pgd")]


def test_the_last_validation_travels_with_a_checkpoint(digits, make_module, make_trainer, make_validation, tmp_path):
    first = make_validation()
    run = make_trainer(first, epochs=1)
    run.fit(make_module(), datamodule=digits)
    run.save_checkpoint(tmp_path / "a.ckpt")
    second = make_validation()
    make_trainer(second, epochs=1).fit(
        make_module(), datamodule=digits, ckpt_path=tmp_path / "a.ckpt", weights_only=True
    )
    assert (second.summary, second.step, second.seconds) == (first.summary, first.step, first.seconds)
