"""Deterministic certificates by a cascade: attacks, then bounds from the cheapest to the dearest."""

from __future__ import annotations

import copy
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from certtrain import work
from certtrain.attacks import check_attacks, inner, inside, strongest
from certtrain.bounds.base import METHODS
from certtrain.certificates import Certificates
from certtrain.certificates.summary import ATTACK
from certtrain.certifiers.base import Certifier, frozen
from certtrain.certifiers.bisection import float_down, largest_proved
from certtrain.certifiers.bound_rows import audit_bound_rows
from certtrain.certifiers.bounds import BoundCertifier
from certtrain.certifiers.checks import check_classes, engine_source
from certtrain.certifiers.claims import bounds_claim
from certtrain.certifiers.falsify import falsify_bounds
from certtrain.certifiers.ledger import Ledger
from certtrain.certifiers.pieces import MOST, Failure, Sizes
from certtrain.certifiers.prover import MakeEngine, Prover, check_has
from certtrain.claim import Claim
from certtrain.data.batch import Batch
from certtrain.errors import UserError, nearest
from certtrain.falsification import Falsification, Progress, silent
from certtrain.invariance import check_function, check_repeated
from certtrain.radii import float_up, parse_radii, parse_radius, radius_text
from certtrain.threat import Threat, threat_of
from certtrain.threat.scales import Scales

if TYPE_CHECKING:
    from certtrain.certificates.findings import Audit


class CascadeCertifier(Certifier):
    """Decides each example at each radius of a grid by the cheapest means that does.

    1. Misclassified examples are done.
    2. The first attack from the input itself, at the largest radius, then at each smaller one on what fell: a hit
       falsifies its radius and every larger one, and what falls there needs no bound.
    3. Bounds, stage by stage, each from the largest radius down over what is open there: a proof at R settles every
       r <= R, so that a cheap bound which proves the largest radius spares all else, and a dear one sees only what is
       left above the radii already proved.
    4. All attacks with all restarts, on what is still open, from the smallest radius up, each on what the ones before
       it left standing.
    5. With `bisect`, the largest certified radius between the grid's, by all stages (`largest_proved`).

    Bounds are computed in float64 over the outward-rounded box, attacks in float64 inside the exact ball. Proofs come
    before failures: a stage that crashes, or whose bounds are not finite, goes on with the next piece of examples, and
    the other stages and attacks still try the same radius. Only where none of them decides it is the example *error*,
    with the first reason, or *invalid*; *unknown* says that every stage answered and none decided. A piece that runs
    out of memory is halved.

    Each example keeps `decided_by` (the stage that proved its radius, `attack` where it has none and was falsified),
    the `margin` of that proof (else the largest bound at the smallest radius), and its share of each stage's time.

    Args:
        stages: bounds in the order of trying.
        radii: the grid.
        engine: makes the bound engine of a network.
        engines: the stages that have an engine of their own.
        norm: `linf`, `l2` or a threat model.
        attacks: of `certtrain.attacks.ATTACKS`, in the order of trying; none gives no *falsified*.
        attack_steps: of each start; 0 attacks nothing.
        attack_restarts: random starts beside the one at the input itself, of the attacks that come last.
        screen: bound in float32 first, and only what that does not rule out in float64.
        bisect: the tolerance of the largest certified radius, in input units; None leaves the grid as it is.
        bisect_up_to: how far beyond the grid is searched; None: not beyond.
        batch_size: examples bounded and attacked at once; None: bounded as many as memory allows, attacked 256.
        scales: sizes of the features of a table, of which the radii are multiples; None: 1 for all inputs.

    Raises:
        UserError: an unknown stage or attack, an engine for a stage that is none, no stage, an empty grid, a tolerance
            or an end of the search that makes none, a number of steps, restarts or examples out of range.
    """

    name = "cascade"

    def __init__(
        self,
        stages: Sequence[str],
        radii: Sequence[object],
        engine: MakeEngine,
        engines: Mapping[str, MakeEngine] | None = None,
        norm: str | Threat = "linf",
        attacks: Sequence[str] = ("pgd_margin", "pgd_ce", "apgd_ce", "apgd_dlr"),
        attack_steps: int = 40,
        attack_restarts: int = 4,
        screen: bool = False,
        bisect: object = None,
        bisect_up_to: object = None,
        batch_size: int | None = None,
        scales: Scales | None = None,
    ) -> None:
        if isinstance(stages, str) or not stages or len(set(stages)) < len(stages):
            raise UserError(f"stages = {stages!r}", where="certifier.stages", fix="stages=[ibp,crown_ibp], each once")
        for stage in stages:
            if stage not in METHODS:
                raise UserError(f"unknown bound {stage!r}", where="certifier.stages", fix=nearest(str(stage), METHODS))
        for stage in engines or {}:
            if stage not in METHODS:
                raise UserError(f"unknown bound {stage!r}", where="certifier.engines", fix=nearest(str(stage), METHODS))
        for key, number, least in (
            ("attack_steps", attack_steps, 0),
            ("attack_restarts", attack_restarts, 0),
            ("batch_size", MOST if batch_size is None else batch_size, 1),
        ):
            if isinstance(number, bool) or not isinstance(number, int) or number < least:
                raise UserError(
                    f"{key} = {number!r} is not a whole number >= {least}",
                    where=f"certifier.{key}",
                    fix=f"{key}={max(least, 1)}",
                )
        self.stages, self.radii = tuple(stages), parse_radii(radii, where="certifier.radii")
        self.make_engine = engine  # the card's
        self.engines = {stage: (engines or {}).get(stage, engine) for stage in self.stages}
        for stage, make in self.engines.items():
            if hasattr(kind := getattr(make, "func", make), "methods"):  # a class that says so before it has a network
                check_has(kind, stage)
        self.threat = threat_of(norm, scales=scales).check_bounded()
        self.attacks = check_attacks(attacks, where="certifier.attacks") if attack_steps > 0 else ()
        self.attack_steps, self.attack_restarts = attack_steps, attack_restarts
        self.screen = screen
        self.sizes, self.attack_sizes = Sizes(batch_size), Sizes(batch_size or MOST)
        self._bounds: weakref.ref[nn.Module] | None = None  # the network that every stage is known to bound
        self.bisect = None if bisect is None else parse_radius(bisect, where="certifier.bisect")
        if self.bisect is not None and self.bisect <= 0:
            raise UserError("a tolerance of 0 ends no bisection", where="certifier.bisect", fix="bisect=0.001")
        self.up_to = None if bisect_up_to is None else parse_radius(bisect_up_to, where="certifier.bisect_up_to")
        if self.up_to is not None and self.up_to <= self.radii[-1]:
            raise UserError(
                f"bisect_up_to = {radius_text(self.up_to)} does not lie beyond the radii",
                where="certifier.bisect_up_to",
                fix=f"more than {radius_text(self.radii[-1])}",
            )

    def claim(self) -> Claim:
        """Every margin is positive over the whole set."""
        return bounds_claim(self.threat, "float64")

    def rehearsal(self, options: Mapping[str, Any], seed: int) -> BoundCertifier:
        """Bounds in float32 by `options.methods`, without attacks: those of the validation callback do."""
        cheap = BoundCertifier(options["methods"], self.radii, self.make_engine, self.threat)
        return cheap.rehearsal(options, seed)

    def source(self) -> dict[str, Any]:
        """The bound engine of the stages that have none of their own."""
        return engine_source(self.make_engine)

    @classmethod
    def verify_rows(cls, audit: Audit, rows: Certificates, card: Mapping[str, Any]) -> None:
        """Statuses, radii, margins and what decided them; see `audit_bound_rows`."""
        audit.compare("certifier of the settings", card["certifier"], cls.name)
        audit_bound_rows(audit, rows, card)

    def settings(self) -> dict[str, Any]:
        """Plain values for the card: all that decides the outcome."""
        return {
            "stages": [{"bound": stage, "engine": _engine_name(make)} for stage, make in self.engines.items()],
            "precision": "float64",
            "screen": "float32" if self.screen else None,
            "box": "exact radius, rounded outward",
            **self.threat.settings(),
            "attack": {
                "name": "+".join(self.attacks),
                "steps": self.attack_steps if self.attacks else 0,
                "restarts": self.attack_restarts,
                "dlr": "the margin for fewer than 3 classes",
                "ball": "exact",
            },
            "bisect": None if self.bisect is None else radius_text(self.bisect),
            "bisect_up_to": None if self.up_to is None else radius_text(self.up_to),
        }

    def check_network(self, network: nn.Module, batch: Batch) -> None:
        """Refuse a network of which a certificate would say nothing, before the attack and any stage.

        Raises:
            UserError: it is not one function of each input, or a stage's engine cannot bound it.
        """
        self._check_stages(network, batch)
        check_function(network, batch.x)

    def _check_stages(self, network: nn.Module, batch: Batch) -> None:
        own = copy.deepcopy(network).double()
        for stage, make in self.engines.items():
            prover = Prover(stage, make, {torch.float64: own}, self.threat)
            prover.try_on(batch.x[:1].double(), batch.y[:1], self.radii[-1])
        self._bounds = weakref.ref(network)

    def certify(self, network: nn.Module, batch: Batch) -> Certificates:
        """One certificate per example, in the batch's order.

        Raises:
            UserError: inputs outside [0, 1], labels without logits, a network that is not one function of each input
                (see `certtrain.invariance`), an engine that lacks a stage or an operation, or that bounds another
                function than the network computes.
        """
        start = time.perf_counter()
        self.threat.check_range(batch.x, where="certifier")
        if self._bounds is None or self._bounds() is not network:
            self._check_stages(network, batch)
        check_classes(batch.y, check_function(network, batch.x))
        own = copy.deepcopy(network).double()
        networks = {torch.float64: own}
        if self.screen:
            networks[torch.float32] = copy.deepcopy(network).float()
        with frozen(own), frozen(networks.get(torch.float32, own)):
            batch_work = _Work(self, network, networks, batch)
            batch_work.attack_first(self.attacks[:1])
            batch_work.prove()
            batch_work.attack(self.attacks)
            if self.bisect is not None:
                batch_work.search(self.bisect)
            check_repeated(own, batch_work.x, batch_work.logits)
        spent = sum(float(seconds.sum()) for seconds in batch_work.ledger.seconds.values())
        rest = max(0.0, time.perf_counter() - start - spent)
        shown = {"screened": self.screen, "bisected": self.bisect is not None}
        return batch_work.ledger.certificates(batch, batch_work.logits.argmax(1), rest, **shown)

    def falsify(
        self, network: nn.Module, batch: Batch, certificates: Certificates, *, steps: int, progress: Progress = silent
    ) -> Falsification:
        """Attack certified examples at their radius; see `falsify_bounds`."""
        options = {"steps": steps, "batch_size": self.attack_sizes.size, "progress": progress}
        return falsify_bounds(network, batch, certificates, threat=self.threat, **options)


class _Work:
    """A cascade on one batch."""

    def __init__(
        self, cascade: CascadeCertifier, network: nn.Module, networks: dict[torch.dtype, nn.Module], batch: Batch
    ) -> None:
        self.cascade, self.own = cascade, networks[torch.float64]
        self.x, self.y = batch.x.double(), batch.y
        with torch.no_grad():
            self.logits = self.own(self.x)
        correct = (self.logits.argmax(1) == self.y) & torch.isfinite(self.logits).all(1)
        names = ((ATTACK,) if cascade.attacks else ()) + cascade.stages
        self.ledger = Ledger(correct.cpu().numpy(), cascade.radii, names)
        again = len(cascade.radii) > 1 or cascade.bisect is not None
        self.provers = [Prover(s, make, networks, cascade.threat, again) for s, make in cascade.engines.items()]
        self.pieces = {stage: cascade.sizes.of(stage, network, self.x) for stage in cascade.stages}
        self.shares = 0  # of the work that is done
        # The random starts of an attack depend on the place in its batch, so that memory must not decide that one.
        self.pieces[ATTACK] = cascade.attack_sizes.of(ATTACK, network, self.x)

    def attack_first(self, names: tuple[str, ...]) -> None:
        """From the largest radius down: what stands there hardly falls in a smaller ball, which it holds."""
        rows = self.ledger.open(len(self.cascade.radii) - 1)
        for column in reversed(range(len(self.cascade.radii) if names else 0)):
            with self._share("attack", column):
                self._attack(names, rows, column, 1)
            rows = rows[self.ledger.fallen[rows] == column]

    def attack(self, names: tuple[str, ...]) -> None:
        """From the smallest radius up: what falls there lies in every larger ball."""
        for column in range(len(self.cascade.radii) if names else 0):
            with self._share("attack", column):
                self._attack(names, self.ledger.open(column), column, self.cascade.attack_restarts + 1)

    def _attack(self, names: tuple[str, ...], rows: NDArray[np.intp], column: int, starts: int) -> None:
        ledger, cascade = self.ledger, self.cascade
        threat = inner(cascade.threat, inside(cascade.radii[column]))
        options = {"steps": cascade.attack_steps, "restarts": starts}
        for piece in self.pieces[ATTACK].run(
            self._rows(rows),
            lambda part: strongest(names, self.own, self.x[part], self.y[part], threat, **options).margin,
        ):
            here = piece.rows.cpu().numpy()
            ledger.spend(ATTACK, here, piece.seconds)
            if isinstance(piece.result, Failure):
                ledger.failed(here, column, ATTACK, piece.result.reason)
            else:
                ledger.attacked(here, column, (piece.result <= 0).cpu().numpy())

    def prove(self) -> None:
        """Stage by stage, from the largest radius down."""
        for prover in self.provers:
            for column in reversed(range(len(self.cascade.radii))):
                with self._share(prover.method, column):
                    self._stage(prover, column)

    def _stage(self, prover: Prover, column: int) -> None:
        ledger, radius = self.ledger, self.cascade.radii[column]
        for piece in self.pieces[prover.method].run(
            self._rows(ledger.open(column)),
            lambda part: prover.bound(self.x, self.y, self.logits, radius, part),
        ):
            rows = piece.rows.cpu().numpy()
            ledger.spend(prover.method, rows, piece.seconds)
            if isinstance(piece.result, Failure):
                ledger.failed(rows, column, prover.method, piece.result.reason)
                continue
            ledger.float32_changed[rows] += piece.result.changed
            ledger.bounded(rows, column, prover.method, piece.result.least, piece.result.finite)

    @contextmanager
    def _share(self, doing: str, column: int) -> Iterator[None]:
        """One stage at one radius, told as an equal share of the cascade on this batch: two attacks, and the stages."""
        parts = (2 + len(self.provers)) * len(self.cascade.radii)
        with work.part(min(1, self.shares / parts), min(1, (self.shares + 1) / parts)):
            work.tell(0, f"{doing} at {radius_text(self.cascade.radii[column])}")
            yield
        self.shares += 1

    def search(self, tolerance: Fraction) -> None:
        """The largest radius of each correct example, between the grid's and up to the end of the search."""
        ledger = self.ledger
        ends = [Fraction(0), *self.cascade.radii]
        beyond = [*self.cascade.radii, self.cascade.up_to]
        rows = np.flatnonzero(ledger.correct)
        low = [ends[ledger.proved[row] + 1] for row in rows]
        high = [beyond[ledger.proved[row] + 1] for row in rows]
        work.tell(1, f"bisection to {radius_text(tolerance)}")
        found = largest_proved(low, high, tolerance, lambda some, eps: self._probe(rows[some], eps))
        for row, before, radius in zip(rows, low, found):
            # A radius of the grid is logged as its nearest float64, as everywhere; any other is rounded down.
            ledger.largest_eps[row] = float(radius) if radius == before else float_down(radius)

    def _probe(self, rows: NDArray[np.intp], eps: list[Fraction]) -> NDArray[np.bool_]:
        """Whether any stage proves each row at its own radius; a stage that fails proves nothing."""
        radii = np.zeros(len(self.ledger.correct))
        radii[rows] = [float_up(radius) for radius in eps]
        radii_of = torch.from_numpy(radii).to(self.x.device)
        won = np.zeros(len(self.ledger.correct), dtype=bool)
        for prover in self.provers:
            for piece in self.pieces[prover.method].run(
                self._rows(rows[~won[rows]]),
                lambda part, p=prover: p.bound(self.x, self.y, self.logits, radii_of, part),
            ):
                here = piece.rows.cpu().numpy()
                self.ledger.spend(prover.method, here, piece.seconds)
                if not isinstance(piece.result, Failure):
                    self.ledger.float32_changed[here] += piece.result.changed
                    won[here] = piece.result.finite & (piece.result.least > 0)
        return won[rows]

    def _rows(self, rows: NDArray[np.intp]) -> Tensor:
        return torch.as_tensor(rows, device=self.y.device)


def _engine_name(make: MakeEngine) -> str:
    return str(getattr(getattr(make, "func", make), "name", "unnamed"))
