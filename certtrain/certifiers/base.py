"""What a certifier is: it makes certificates of a network, says what they claim, and can check what it made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import nn

from certtrain.certificates import Certificates
from certtrain.certificates.falsification import Falsification, Progress, silent
from certtrain.claim import Claim, Radii
from certtrain.data.batch import Batch
from certtrain.models.evaluation import frozen
from certtrain.models.invariance import check_function
from certtrain.threat import Threat

if TYPE_CHECKING:
    from certtrain.certificates.findings import Audit

__all__ = ["Certifier", "Reach", "Trial", "frozen"]


class Reach(NamedTuple):
    """What limits the radii of a certifier, whatever the network.

    Attributes:
        radius: the largest that an example can get; negative where none gets a certificate.
        words: the settings that make it so: `n = 100 draws at alpha = 0.001`.
        needed: the settings that would reach a larger radius: `n=301 or more`.
    """

    radius: float
    words: str
    needed: Callable[[Fraction], str]


class Trial(NamedTuple):
    """What is timed to estimate the cost of a certifier.

    Attributes:
        certifier: itself, or one that does a share of its work.
        rows: examples to time it on.
        times: how many times dearer a certificate of the certifier itself is.
        words: what its cost depends on, for the name of the stage: `n = 100,000`.
    """

    certifier: Certifier
    rows: int = 32
    times: float = 1.0
    words: str = ""


class Certifier(ABC):
    """Radii and settings in the constructor; certifies a batch of any network.

    What a subclass must give are the attributes `name`, `radii` and `threat`, and the methods `claim` and `certify`.

    Attributes:
        name: what the certificate is called in tables: `crown`, `smoothing`.
        radii: at which certified accuracy is reported, ascending.
        threat: of which the radii are radii.
        rows_per_write: rows between two writes of a log: few enough that little is lost, enough to fill a batch.
        many_evaluations: it evaluates the network so often that its memory layout decides the time.
        fixed_norm: the only norm that the class certifies; None where it takes `norm`.
        radii_are: what its claim says of the radii, before there is one.
        rehearsed_radii_are: the same of what its `rehearsal` claims; None where there is no difference.
    """

    name: str
    radii: tuple[Fraction, ...]
    threat: Threat
    rows_per_write: ClassVar[int] = 256
    many_evaluations: ClassVar[bool] = False
    fixed_norm: ClassVar[str | None] = None
    radii_are: ClassVar[Radii] = "grid"
    rehearsed_radii_are: ClassVar[Radii | None] = None

    @abstractmethod
    def claim(self) -> Claim:
        """What a row of it claims."""

    @abstractmethod
    def certify(self, network: nn.Module, batch: Batch) -> Certificates:
        """One row per example, in the batch's order.

        Every module is in eval mode meanwhile and gets its mode back; random state and `.grad` stay as they were; no
        autocast, no TF32 (see `certtrain.models.evaluation.frozen`).
        """

    def settings(self) -> dict[str, Any]:
        """All that decides the outcome, in plain JSON values, for the card."""
        return {}

    @property
    def suffix(self) -> str:
        """What tells logs of it apart that differ in a setting: `n10000`."""
        return ""

    def bind(self, network: nn.Module, *, split: str | None, examples: int, device: torch.device) -> dict[str, Any]:
        """Told once, before the first batch, what it is for; checks of itself are made here.

        Args:
            network: to be certified, on the device.
            split: that the indices of the batches count in; None: what it was made for.
            examples: how many will be certified in all.
            device: where the network is.

        Returns:
            What the card says of it.
        """
        return {}

    def check_network(self, network: nn.Module, batch: Batch) -> None:
        """Refuse a network of which a certificate would say nothing, before any work is done.

        Raises:
            UserError: it is not one function of each input, or not supported.
        """
        check_function(network, batch.x)

    def falsify(
        self, network: nn.Module, batch: Batch, certificates: Certificates, *, steps: int, progress: Progress = silent
    ) -> Falsification | None:
        """Attack certified examples inside their certified sets; None where it has no attack.

        Args:
            network: the one that was certified.
            batch: certified examples, chosen by the caller.
            certificates: their rows, in the batch's order.
            steps: gradient steps of each start of the attack.
            progress: told how many examples have been attacked; may raise to stop.
        """
        return None

    def rehearsal(self, options: Mapping[str, Any], seed: int) -> Certifier:
        """What certifies validation examples while a network trains: the same claim, as cheap as `options` ask for.

        Args:
            options: the configuration's `validation`.
            seed: of the run.
        """
        return self

    def reach(self, examples: int) -> Reach | None:
        """What limits its radii whatever the network; None: nothing does, or it refuses such radii itself.

        Args:
            examples: how many will be certified in all.
        """
        return None

    def doubts(self) -> list[str]:
        """What a reader of the card should know of its settings, in words."""
        return []

    def trial(self) -> Trial:
        """What is timed in its place before a run, to say how long it will take."""
        return Trial(self)

    def source(self) -> dict[str, Any]:
        """What computed the certificates, for the card: `{"name", "package"}`."""
        kind = type(self)
        return {"name": f"{kind.__module__}.{kind.__qualname__}", "package": kind.__module__.split(".")[0]}

    @classmethod
    def verify_rows(cls, audit: Audit, rows: Certificates, card: Mapping[str, Any]) -> None:
        """Check that rows of a log follow from their own columns and the card's settings and claim.

        Args:
            audit: takes the findings.
            rows: of the log, at least one.
            card: beside it; nothing in it may be trusted to be of the right type.
        """
        audit.unchecked(f"radii and settings: {cls.__qualname__} does not check its own rows; they are only added up")
