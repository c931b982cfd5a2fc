"""Deterministic certificates by a cascade: attacks, then verifiers from the cheapest to the dearest."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from certtrain.attacks import check_attacks, inner, inside, margin, strongest
from certtrain.bounds.base import METHODS
from certtrain.certificates import FALSIFIED, UNKNOWN, VERIFIED, Certificates
from certtrain.certificates.falsification import Falsification, Progress, silent
from certtrain.certificates.summary import ATTACK
from certtrain.certifiers.base import Certifier
from certtrain.certifiers.bisection import float_down, largest_proved
from certtrain.certifiers.bound_rows import audit_bound_rows
from certtrain.certifiers.bound_verifier import BoundVerifier
from certtrain.certifiers.checks import check_classes, engine_source
from certtrain.certifiers.claims import bounds_claim
from certtrain.certifiers.falsify import falsify_bounds
from certtrain.certifiers.ledger import Ledger
from certtrain.certifiers.pieces import MOST, Failure, Sizes, one_line
from certtrain.certifiers.verifier import Known, MakeEngine, Problems, Subject, Verdicts, Verifier
from certtrain.claim import Claim
from certtrain.data.batch import Batch
from certtrain.errors import UserError, nearest
from certtrain.models.invariance import check_function, check_repeated
from certtrain.radii import float_up, parse_radii, parse_radius, radius_text
from certtrain.system import work
from certtrain.threat import Threat, threat_of
from certtrain.threat.scales import Scales

if TYPE_CHECKING:
    from certtrain.certificates.findings import Audit


Precision = Literal["float64", "float32"]


class CascadeCertifier(Certifier):
    """Decides each example at each radius of a grid by the cheapest means that does.

    1. Misclassified examples are done.
    2. The attacks that come first, from the input itself, at the largest radius, then at each smaller one on what fell:
       a counterexample falsifies its radius and every larger one, and what falls there needs no bound.
    3. Verifiers, stage by stage, each from the largest radius down over what is open there: a proof at R settles every
       r <= R, so that a cheap bound which proves the largest radius spares all else, and a dear one sees only what is
       left above the radii already proved. Bounds need not be monotone in the radius.
    4. All attacks with all restarts, on what is still open, from the smallest radius up, each on what the ones before
       it left standing.
    5. With `bisect`, the largest certified radius between the grid's, by all stages (`largest_proved`).

    In float64, bounds are of the real-arithmetic network with the given float32 weights over the outward-rounded box,
    attacks inside the exact ball. Proofs come before failures: a stage that crashes, whose bounds are not finite or
    whose time is over goes on with the next examples, and the other stages and attacks still try the same radius. Only
    where none of them decides it is the example *error*, with the first reason, *invalid*, or *timeout*; *unknown* says
    that every stage answered and none decided.

    Each example keeps `decided_by` (the stage that proved its radius, `attack` where it has none and was falsified),
    the `margin` of that proof (else the largest bound at the smallest radius), and its share of each stage's time.

    Args:
        stages: in the order of trying: bounds of a bound engine, or names of `verifiers`.
        radii: the grid.
        engine: makes the bound engine of a network.
        engines: the stages that have an engine of their own.
        verifiers: what a stage is that is not a bound of an engine.
        norm: `linf`, `l2` or a threat model.
        attacks: of `certtrain.attacks.ATTACKS`, in the order of trying; none gives no *falsified*.
        attacks_first: how many of them come before the verifiers, too.
        attack_steps: of each start; 0 attacks nothing.
        attack_restarts: random starts beside the one at the input itself, of the attacks that come last.
        precision: `float64` for certificates; `float32` is for validation during training.
        screen: bound in float32 first, and only what that does not rule out in float64.
        bisect: the tolerance of the largest certified radius, in input units; None leaves the grid as it is.
        bisect_up_to: how far beyond the grid is searched; None: not beyond.
        batch_size: examples bounded and attacked at once; None: bounded as many as memory allows, attacked 256.
        scales: sizes of the features of a table, of which the radii are multiples; None: 1 for all inputs.
        name: what its certificates are called.

    Raises:
        UserError: an unknown stage or attack, an engine for a stage that is none, no stage, an empty grid, a tolerance
            or an end of the search that makes none, a number of steps, restarts or examples out of range.
    """

    def __init__(
        self,
        stages: Sequence[str],
        radii: Sequence[object],
        engine: MakeEngine,
        engines: Mapping[str, MakeEngine] | None = None,
        verifiers: Mapping[str, Verifier] | None = None,
        norm: str | Threat = "linf",
        attacks: Sequence[str] = ("pgd_margin", "pgd_ce", "apgd_ce", "apgd_dlr"),
        attacks_first: int = 1,
        attack_steps: int = 40,
        attack_restarts: int = 4,
        precision: Precision = "float64",
        screen: bool = False,
        bisect: object = None,
        bisect_up_to: object = None,
        batch_size: int | None = None,
        scales: Scales | None = None,
        name: str = "cascade",
    ) -> None:
        if isinstance(stages, str) or not stages or len(set(stages)) < len(stages):
            raise UserError(f"stages = {stages!r}", where="certifier.stages", fix="stages=[ibp,crown_ibp], each once")
        own = dict(verifiers or {})
        for stage in engines or {}:
            if stage not in METHODS:
                raise UserError(f"unknown bound {stage!r}", where="certifier.engines", fix=nearest(str(stage), METHODS))
        if precision not in ("float64", "float32"):
            raise UserError(f"unknown precision {precision!r}", where="certifier.precision", fix="float64 or float32")
        for key, number, least in (
            ("attack_steps", attack_steps, 0),
            ("attack_restarts", attack_restarts, 0),
            ("attacks_first", attacks_first, 0),
            ("batch_size", MOST if batch_size is None else batch_size, 1),
        ):
            if isinstance(number, bool) or not isinstance(number, int) or number < least:
                raise UserError(
                    f"{key} = {number!r} is not a whole number >= {least}",
                    where=f"certifier.{key}",
                    fix=f"{key}={max(least, 1)}",
                )
        self.name, self.radii = name, parse_radii(radii, where="certifier.radii")
        self.make_engine = engine  # the card's
        self.stages = tuple(stages)
        self.verifiers = tuple(
            own.get(stage) or _bounds(stage, (engines or {}).get(stage, engine), batch_size, own) for stage in stages
        )
        self.precision = precision
        self.threat = replace(threat_of(norm, scales=scales).check_bounded(), outward=precision == "float64")
        self.attacks = check_attacks(attacks, where="certifier.attacks") if attack_steps > 0 else ()
        self.attack_steps, self.attack_restarts = attack_steps, attack_restarts
        self.first, self.screen = self.attacks[:attacks_first], screen
        # The random starts of an attack depend on the place in its batch, so that memory must not decide that one.
        self.attack_sizes = Sizes(batch_size or MOST)
        self._supported: weakref.ref[nn.Module] | None = None  # the network that every stage is known to verify
        self._subject: Subject | None = None  # of validations in float32, whose engines are traced once
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

    @property
    def dtype(self) -> torch.dtype:
        """The precision of proofs."""
        return torch.float64 if self.precision == "float64" else torch.float32

    def claim(self) -> Claim:
        """Every margin is positive over the whole set."""
        return bounds_claim(self.threat, self.precision, [verifier.proof for verifier in self.verifiers])

    def rehearsal(self, options: Mapping[str, Any], seed: int) -> CascadeCertifier:
        """Bounds in float32 by `options.methods`, without attacks: those of the validation callback do."""
        names = list(options["methods"])
        return CascadeCertifier(
            names, self.radii, self.make_engine, norm=self.threat, attacks=(), precision="float32", name="+".join(names)
        )

    def source(self) -> dict[str, Any]:
        """The bound engine of the stages that have none of their own."""
        return engine_source(self.make_engine)

    @classmethod
    def verify_rows(cls, audit: Audit, rows: Certificates, card: Mapping[str, Any]) -> None:
        """Statuses, radii, margins and what decided them; see `audit_bound_rows`."""
        audit_bound_rows(audit, rows, card)

    def settings(self) -> dict[str, Any]:
        """Plain values for the card: all that decides the outcome."""
        return {
            "stages": [
                {"bound": name, **verifier.settings(), **({"proof": verifier.proof} if verifier.proof else {})}
                for name, verifier in zip(self.stages, self.verifiers)
            ],
            "precision": self.precision,
            "screen": "float32" if self.screen else None,
            "box": "exact radius, rounded outward" if self.threat.outward else "nearest",
            **self.threat.settings(),
            "attack": {
                "name": "+".join(self.attacks),
                "first": "+".join(self.first),
                "steps": self.attack_steps if self.attacks else 0,
                "restarts": self.attack_restarts,
                "dlr": "the margin for fewer than 3 classes",
                "ball": "exact" if self.threat.outward else "nearest",
            },
            "bisect": None if self.bisect is None else radius_text(self.bisect),
            "bisect_up_to": None if self.up_to is None else radius_text(self.up_to),
        }

    def check_network(self, network: nn.Module, batch: Batch) -> None:
        """Refuse a network of which a certificate would say nothing, before the attack and any stage.

        Raises:
            UserError: it is not one function of each input, or a stage's engine cannot bound it.
        """
        check_function(network, batch.x)
        self._check_stages(network, batch)

    def _check_stages(self, network: nn.Module, batch: Batch) -> None:
        subject = self._of(network)
        known = Known(batch.x[:1].to(self.dtype), batch.y[:1], torch.empty(0))
        first = torch.zeros(1, dtype=torch.int64, device=batch.y.device)
        for verifier in self.verifiers:
            verifier.check(subject, Problems(known, first, self.threat.at(self.radii[-1])))
        self._supported = weakref.ref(network)

    def _of(self, network: nn.Module) -> Subject:
        if self._subject is not None and self._subject.original is network:
            return self._subject
        subject = Subject(network, self.dtype, self.screen)
        self._subject = subject if self.precision == "float32" else None
        return subject

    def certify(self, network: nn.Module, batch: Batch) -> Certificates:
        """One certificate per example, in the batch's order.

        Raises:
            UserError: inputs outside [0, 1], labels without logits, a network that is not one function of each input
                (see `certtrain.models.invariance`), an engine that lacks a stage or an operation, or that bounds
                another function than the network computes.
        """
        start = time.perf_counter()
        self.threat.check_range(batch.x, where="certifier")
        if self._supported is None or self._supported() is not network:
            self._check_stages(network, batch)
        check_classes(batch.y, check_function(network, batch.x))
        subject = self._of(network)
        with subject.frozen():
            run = _Run(self, subject, batch)
            run.attack_first()
            run.prove()
            run.attack()
            if self.bisect is not None:
                run.search(self.bisect)
            check_repeated(subject.network, run.known.x, run.known.logits)
        spent = sum(float(seconds.sum()) for seconds in run.ledger.seconds.values())
        rest = max(0.0, time.perf_counter() - start - spent)
        shown = {"screened": self.screen, "bisected": self.bisect is not None}
        return run.ledger.certificates(batch, run.known.logits.argmax(1), rest, **shown)

    def falsify(
        self, network: nn.Module, batch: Batch, certificates: Certificates, *, steps: int, progress: Progress = silent
    ) -> Falsification:
        """Attack certified examples at their radius; see `falsify_bounds`."""
        options = {"steps": steps, "batch_size": self.attack_sizes.size, "progress": progress}
        return falsify_bounds(network, batch, certificates, threat=self.threat, **options)


class _Run:
    """A cascade on one batch."""

    def __init__(self, cascade: CascadeCertifier, subject: Subject, batch: Batch) -> None:
        self.cascade, self.subject = cascade, subject
        x = batch.x.to(subject.precision)
        with torch.no_grad():
            logits = subject.network(x)
        again = len(cascade.radii) > 1 or cascade.bisect is not None
        self.known = Known(x, batch.y, logits, again)
        correct = (logits.argmax(1) == batch.y) & torch.isfinite(logits).all(1)
        names = ((ATTACK,) if cascade.attacks else ()) + cascade.stages
        self.ledger = Ledger(correct.cpu().numpy(), cascade.radii, names)
        self.shares = 0  # of the work that is done
        self.attacked = cascade.attack_sizes.of(ATTACK, subject.original, x)

    def attack_first(self) -> None:
        """From the largest radius down: what stands there hardly falls in a smaller ball, which it holds."""
        first = self.cascade.first
        rows = self.ledger.open(len(self.cascade.radii) - 1)
        for column in reversed(range(len(self.cascade.radii) if first else 0)):
            with self._share("attack", column):
                self._attack(first, rows, column, 1)
            rows = rows[self.ledger.fallen[rows] == column]

    def attack(self) -> None:
        """From the smallest radius up: what falls there lies in every larger ball."""
        names = self.cascade.attacks
        for column in range(len(self.cascade.radii) if names else 0):
            with self._share("attack", column):
                self._attack(names, self.ledger.open(column), column, self.cascade.attack_restarts + 1)

    def _attack(self, names: tuple[str, ...], rows: NDArray[np.intp], column: int, starts: int) -> None:
        ledger, cascade, known = self.ledger, self.cascade, self.known
        threat = self._attacked_set(column)
        options = {"steps": cascade.attack_steps, "restarts": starts}
        for piece in self.attacked.run(
            self._rows(rows),
            lambda part: strongest(names, self.subject.network, known.x[part], known.y[part], threat, **options).margin,
        ):
            here = piece.rows.cpu().numpy()
            ledger.spend(ATTACK, here, piece.seconds)
            if isinstance(piece.result, Failure):
                ledger.failed(here, column, ATTACK, piece.result.reason)
            else:
                ledger.fell(here[(piece.result <= 0).cpu().numpy()], column)

    def _attacked_set(self, column: int) -> Threat:
        """The exact ball in float64, where not even a rounding of eps leaves it."""
        threat, radius = self.cascade.threat, self.cascade.radii[column]
        return inner(threat, inside(radius)) if threat.outward else threat.at(radius)

    def prove(self) -> None:
        """Stage by stage, from the largest radius down."""
        for stage, verifier in zip(self.cascade.stages, self.cascade.verifiers):
            for column in reversed(range(len(self.cascade.radii))):
                with self._share(stage, column):
                    self._stage(stage, verifier, column)

    def _stage(self, stage: str, verifier: Verifier, column: int) -> None:
        rows = self.ledger.open(column)
        if not len(rows):
            return
        problems = Problems(self.known, self._rows(rows), self.cascade.threat.at(self.cascade.radii[column]))
        try:
            for verdicts in verifier.verify(self.subject, problems):
                verdicts.check_among(rows)
                self.ledger.record(column, stage, self._confirmed(verdicts, column))
                rows = np.setdiff1d(rows, verdicts.rows)
        except UserError:
            raise
        except Exception as error:  # of a verifier; its time is nobody's
            self.ledger.failed(rows, column, stage, one_line(error))

    def _confirmed(self, verdicts: Verdicts, column: int) -> Verdicts:
        """Counterexamples count where the network itself, inside the exact set, gives another class."""
        claimed = np.flatnonzero(verdicts.status == FALSIFIED)
        if not len(claimed):
            return verdicts
        status = verdicts.status.copy()
        status[claimed] = UNKNOWN
        if verdicts.points is not None:
            rows = self._rows(verdicts.rows[claimed])
            points = verdicts.points[torch.as_tensor(claimed)].to(self.known.x)
            fell = torch.zeros(len(rows), dtype=torch.bool, device=points.device)
            for x, threat in self._attacked_set(column).parts(self.known.x[rows]):
                moves = threat.moves(x)
                inside_ = moves.project(points)
                if moves.admissible is not None:
                    inside_ = moves.admissible(inside_)
                with torch.no_grad():
                    fell |= margin(self.subject.network(inside_), self.known.y[rows]) <= 0
            self.ledger.fell(verdicts.rows[claimed[fell.cpu().numpy()]], column)
        return replace(verdicts, status=status)

    @contextmanager
    def _share(self, doing: str, column: int) -> Iterator[None]:
        """One stage at one radius, told as an equal share of the cascade on this batch: two attacks, and the stages."""
        attacks = bool(self.cascade.first) + bool(self.cascade.attacks)
        parts = (attacks + len(self.cascade.stages)) * len(self.cascade.radii)
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
        radii = torch.tensor([float_up(radius) for radius in eps], dtype=torch.float64, device=self.known.x.device)
        everything = Problems(self.known, self._rows(rows), self.cascade.threat.at(radii))
        won = np.zeros(len(self.ledger.correct), dtype=bool)
        for stage, verifier in zip(self.cascade.stages, self.cascade.verifiers):
            open_ = np.flatnonzero(~won[rows])
            if not len(open_):
                break
            try:
                for verdicts in verifier.verify(self.subject, everything.at(self._rows(open_))):
                    verdicts.check_among(rows[open_])
                    self.ledger.spend(stage, verdicts.rows, verdicts.seconds)
                    if verdicts.changed is not None:
                        self.ledger.float32_changed[verdicts.rows] += verdicts.changed
                    won[verdicts.rows] = verdicts.status == VERIFIED
            except UserError:
                raise
            except Exception:
                continue
        return won[rows]

    def _rows(self, rows: NDArray[np.intp]) -> Tensor:
        return torch.as_tensor(rows, device=self.known.y.device)


def _bounds(stage: str, engine: MakeEngine, batch_size: int | None, verifiers: Mapping[str, Verifier]) -> BoundVerifier:
    """A stage that is a bound of an engine.

    Raises:
        UserError: it is not, with the nearest stage that there is.
    """
    if stage not in METHODS:
        names = (*METHODS, *verifiers)
        raise UserError(f"unknown bound {stage!r}", where="certifier.stages", fix=nearest(str(stage), names))
    return BoundVerifier(stage, engine, batch_size)
