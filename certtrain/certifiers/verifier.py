"""What a stage of a cascade is: it answers problems, whether an example keeps its class over a set, by verdicts.

IBP, CROWN and alpha-CROWN are stages, as is mixed-integer programming; a stage of your own is a class like them.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from certtrain.bounds.base import BoundEngine
from certtrain.bounds.union import united
from certtrain.certificates import VERIFIED
from certtrain.certifiers.base import frozen
from certtrain.certifiers.reuse import Reuse
from certtrain.threat import Threat

MakeEngine = Callable[[nn.Module], BoundEngine]


class Subject:
    """The network that is verified, in the precisions that stages compute in, and the bound engines made of it.

    In float64 it is a copy, made anew for each batch: one that is kept would miss changes of the network that its
    state_dict does not show. In float32 it is the network itself.

    Attributes:
        original: the network itself.
        precision: of proofs.

    Args:
        network: to be verified; not changed.
        precision: of proofs.
        screen: whether there is a float32 copy beside the float64 one.
    """

    def __init__(self, network: nn.Module, precision: torch.dtype = torch.float64, screen: bool = False) -> None:
        self.original, self.precision = network, precision
        self._networks = {precision: network if precision == torch.float32 else copy.deepcopy(network).double()}
        if screen and precision != torch.float32:
            self._networks[torch.float32] = copy.deepcopy(network).float()
        self._engines: dict[tuple[int, torch.dtype, bool], tuple[MakeEngine, BoundEngine]] = {}

    @property
    def network(self) -> nn.Module:
        """The network in the precision of proofs."""
        return self._networks[self.precision]

    @property
    def screens(self) -> bool:
        """Whether there is a float32 copy to ask first."""
        return len(self._networks) > 1

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """All of its networks in eval mode, without gradients of their parameters."""
        with ExitStack() as stack:
            for network in self._networks.values():
                stack.enter_context(frozen(network))
            yield

    def engine(self, make: MakeEngine, threat: Threat, precision: torch.dtype | None = None) -> BoundEngine:
        """The engine, made once for all stages that ask for it; over a union of sets where the threat model is one.

        Raises:
            UserError: it cannot be made, or lacks an operation of the network.
        """
        precision = self.precision if precision is None else precision
        key = (id(make), precision, threat.several)  # a stage may ask for a union's parts, another for all of it
        if key not in self._engines:
            network = self._networks[precision]
            with frozen(network):  # a forward may look at its training mode while it is traced
                self._engines[key] = (make, united(make(network), threat))
        return self._engines[key][1]


@dataclass
class Known:
    """What is known of the examples of one batch: what they are, and what stages found for those after them.

    Attributes:
        x: (B, ...) inputs in the precision of proofs.
        y: (B,) classes.
        logits: (B, K) of the network.
        again: whether the same examples are asked about at several radii.
    """

    x: Tensor
    y: Tensor
    logits: Tensor
    again: bool = False
    _reuse: dict[tuple[int, torch.dtype], Reuse] = field(default_factory=dict)

    def bounds(self, engine: BoundEngine, precision: torch.dtype) -> Reuse:
        """Bounds of these examples by an engine, which take up what it found at larger radii."""
        key = (id(engine), precision)
        if key not in self._reuse:
            self._reuse[key] = Reuse(engine, self.x.to(precision), self.logits.to(precision), self.again)
        return self._reuse[key]


@dataclass(frozen=True)
class Problems:
    """Does the network give every input of the set around an example the example's class?

    Attributes:
        known: the batch that the examples are of.
        rows: (N,) int64, which of its examples are asked about.
        threat: with their radius, or with (N,) radii, one for each.
    """

    known: Known
    rows: Tensor
    threat: Threat

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def x(self) -> Tensor:
        """(N, ...) inputs."""
        return self.known.x[self.rows]

    @property
    def y(self) -> Tensor:
        """(N,) classes."""
        return self.known.y[self.rows]

    @property
    def logits(self) -> Tensor:
        """(N, K) logits."""
        return self.known.logits[self.rows]

    def at(self, part: Tensor) -> Problems:
        """Some of them: `part`, (M,) int64, counts in `rows`."""
        eps = self.threat.eps
        threat = self.threat.at(eps[part]) if isinstance(eps, Tensor) and eps.dim() else self.threat
        return replace(self, rows=self.rows[part], threat=threat)


@dataclass(frozen=True)
class Verdicts:
    """Answers to some problems.

    Attributes:
        rows: (N,) int64, which examples of the batch.
        status: (N,) of each: `verified`; `falsified`, with a point; `unknown`; `timeout`; `invalid` where a bound is
            not a finite number; `error`, with the reason.
        margin: (N,) float64 lower bounds of the least margin; > 0 where it is verified, NaN where there is none.
        seconds: that they took together.
        reason: of an error.
        changed: (N,) bool, whether the proof changed a float32 verdict; None where there was none.
        points: (N, ...) inputs, counterexamples where a verdict is `falsified`. The cascade moves each into the set and
            asks the network itself: a verifier's word is not taken for one.
    """

    rows: NDArray[np.int64]
    status: NDArray[Any]
    margin: NDArray[np.float64]
    seconds: float
    reason: str = ""
    changed: NDArray[np.bool_] | None = None
    points: Tensor | None = None

    def __post_init__(self) -> None:
        proved = self.status == VERIFIED
        if not (np.isfinite(self.margin[proved]) & (self.margin[proved] > 0)).all():
            raise ValueError("a proof without a finite lower bound > 0 of the margin")

    def check_among(self, rows: NDArray[np.intp]) -> None:
        """Refuse verdicts of other examples than those that are still asked about.

        Raises:
            ValueError: with the examples.
        """
        others = np.setdiff1d(self.rows, rows)
        if len(others) or len(np.unique(self.rows)) < len(self.rows):
            raise ValueError(f"verdicts of examples {others.tolist()} that were not asked about, or two of one example")


class Verifier(ABC):
    """A stage of a cascade.

    Attributes:
        proof: how it proves, for the claim, where that is not by bounds computed in the claim's precision: a noun.
    """

    proof: ClassVar[str] = ""

    @abstractmethod
    def verify(self, subject: Subject, problems: Problems) -> Iterator[Verdicts]:
        """One verdict for each problem, some at a time, as they fall: what has fallen is not lost.

        The networks of the subject are in eval mode. What raises is an `error` of the problems that have no verdict
        yet; a `UserError` is a user's mistake and ends all.
        """

    def check(self, subject: Subject, problems: Problems) -> None:
        """Refuse what it cannot verify, before any work is done.

        Args:
            subject: the network.
            problems: one, at the largest radius.

        Raises:
            UserError: the network, or the set, is not supported.
        """
        return

    def settings(self) -> Mapping[str, Any]:
        """Plain values for the card: all that decides its verdicts."""
        return {}
