"""Certifies the pinned validation examples while a network trains, at fixed radii."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from fractions import Fraction
from typing import Any

import lightning as L
import torch

from certtrain.attacks import pgd_margins
from certtrain.certificates import Certificates
from certtrain.certificates.metrics import Summary
from certtrain.certifiers.base import Certifier, frozen
from certtrain.data.batch import Batch
from certtrain.methods.base import Streams
from certtrain.radii import radius_key, radius_text
from certtrain.system.collective import gather, global_max, processes, rank
from certtrain.training.module import CertifiedTraining

FIGURE_EXAMPLES = 64  # of the pinned ones, for the standing figures of a training


class SoundnessError(RuntimeError):
    """An attack inside the ball broke a certificate: the bounds are wrong, and nothing they say may be used."""


class CertifyValidation(L.Callback):
    """Runs a certifier on pinned examples and logs `val/certified@<radius>`, ACR, abstained, invalid and seconds.

    The radii are fixed, never the ramped eps, so that epochs can be compared. Weights, gradients and random state are
    left as they were: training with and without this callback gives the same weights bit for bit. With bounds, PGD
    attacks every pinned example at every radius: certified implies PGD-robust implies classified correctly.

    Args:
        certifier: certifies a batch of a network.
        batch: the pinned examples.
        every_n_epochs: how often; the last epoch always.
        attack_steps: PGD steps of the check of bound certificates; 0 leaves it out.
        watched: the radius whose certified accuracy is shown while training; None for the largest.
    """

    def __init__(
        self,
        certifier: Certifier,
        batch: Batch,
        every_n_epochs: int = 1,
        attack_steps: int = 10,
        watched: Fraction | None = None,
    ) -> None:
        self.certifier, self.batch = certifier, batch
        self.every_n_epochs = max(1, every_n_epochs)
        self.attack_steps = attack_steps if certifier.threat.attackable else 0
        self.claim = certifier.claim()
        self.threat = replace(certifier.threat, outward=False)
        self.watched = self.certifier.radii[-1] if watched is None else watched
        self.certificates: Certificates | None = None
        self.summary: dict[str, Any] | None = None
        self.seconds: float | None = None
        self.step: int | None = None

    def due(self, trainer: L.Trainer) -> bool:
        """Whether the epoch that ends now is one to certify."""
        epoch = trainer.current_epoch + 1
        return epoch % self.every_n_epochs == 0 or epoch >= (trainer.max_epochs or 0) or trainer.state.fn != "fit"

    def on_validation_epoch_end(self, trainer: L.Trainer, module: CertifiedTraining) -> None:
        if trainer.sanity_checking or not self.due(trainer) or self.step == trainer.global_step:
            return
        start = time.perf_counter()
        # Several processes share the examples, and every one certifies its own.
        batch = Batch(*(column[rank() :: processes()].to(module.device) for column in self.batch))
        own = self.certifier.certify(module.network, batch) if len(batch.y) else None
        most = [int(self.batch.y.max())] if own is None else [int(self.batch.y.max()), int(own.predict.max())]
        classes = 1 + global_max(max(most))  # every process counts by the same
        counted = Summary(self.certifier.radii, self.claim, classes, distributed_available_fn=lambda: processes() > 1)
        counted.to(module.device)
        if own is not None:
            counted.update(own)
        self.certificates = own
        self.summary = counted.summary(votes=any(gather(own is not None and "near_ties" in own.columns)))
        metrics = self.metrics(self.summary) | self.figures(module)
        if not self.claim.probabilistic and self.attack_steps:
            metrics |= self.check(module, batch, own)
        self.seconds = math.fsum(gather(0.0 if own is None else float(own.seconds.sum())))
        metrics["val/certify_seconds"] = max(gather(time.perf_counter() - start))
        self.step = trainer.global_step
        module.report(metrics)

    @staticmethod
    def metrics(summary: dict[str, Any]) -> dict[str, float]:
        """The summary under its metric names, `val/certified@2_255`."""
        found = {f"val/certified@{key.replace('/', '_')}": value for key, value in summary["certified"].items()}
        for key in ("acr", "acr_grid", "abstained", "invalid"):
            if key in summary:
                found[f"val/{key}"] = float(summary[key])
        found["val/certified_clean"] = summary["clean"]
        return found

    def figures(self, module: CertifiedTraining) -> dict[str, float]:
        """The method's own, of the first pinned examples; the same on every process."""
        few = Batch(*(column[:FIGURE_EXAMPLES].to(module.device) for column in self.batch))
        streams = Streams(module.streams.seed, "val")
        found = module.method.figures(module.network, module.engine, few, streams)
        return {f"val/{name}": value for name, value in found.items()}

    def check(self, module: CertifiedTraining, batch: Batch, own: Certificates | None) -> dict[str, float]:
        """PGD accuracy at each radius, and the chain certified => PGD-robust => correct for every example.

        Args:
            module: in training.
            batch: this process's share of the pinned examples.
            own: their certificates; None when there are none.

        Raises:
            SoundnessError: an attack beat a certificate by more than float32 rounding explains.
        """
        shares = gather(self._attacked(module, batch, own) if own is not None else ([], None))
        for _, message in shares:
            if message is not None:
                raise SoundnessError(message)
        counts = [share for share, _ in shares if share]
        return {
            f"val/pgd@{radius_key(radius)}": sum(share[number] for share in counts) / len(self.batch.y)
            for number, radius in enumerate(self.certifier.radii)
        }

    def _attacked(self, module: CertifiedTraining, batch: Batch, own: Certificates) -> tuple[list[int], str | None]:
        """How many examples PGD left right at each radius, and what is wrong with a certificate, if anything."""
        found = []
        correct = torch.as_tensor(own.correct, device=batch.x.device)
        radius_of = torch.as_tensor(own.radius, device=batch.x.device)
        for radius in self.certifier.radii:
            with frozen(module.network):
                threat = replace(self.threat, eps=radius)
                attack = pgd_margins(module.network, batch.x, batch.y, threat, steps=self.attack_steps, restarts=1)
                scale = module.network(batch.x).abs().amax(1).detach()
            certified = correct & (radius_of >= float(radius))
            robust = attack.margin > 0
            broken = certified & (attack.margin < -1e-5 * scale)
            if bool(broken.any()):
                index = int(batch.index[broken.nonzero()[0, 0]])
                return found, (
                    f"validation example {index} is certified at {self.claim.symbol} {radius_text(radius)} by "
                    f"{self.certifier.name}, but an attack inside that ball changes its class"
                )
            if bool((robust & ~correct).any()):
                return found, "an example counts as robust although it is misclassified"
            found.append(int(robust.sum()))
        return found, None

    def state_dict(self) -> dict[str, Any]:
        """The last validation: a run that is killed after its last checkpoint need not repeat it."""
        return {"summary": self.summary, "seconds": self.seconds, "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.summary, self.seconds, self.step = state["summary"], state["seconds"], state["step"]
