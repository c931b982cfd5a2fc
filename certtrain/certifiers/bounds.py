"""Deterministic certificates from bounds of the margins, over a grid of radii."""

from __future__ import annotations

import copy
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from certtrain import work
from certtrain.attacks import inner, inside, pgd_margins
from certtrain.bounds.base import METHODS, BoundEngine
from certtrain.bounds.united import united
from certtrain.certificates import Certificates
from certtrain.certifiers.base import Certifier, frozen
from certtrain.certifiers.bound_rows import audit_bound_rows
from certtrain.certifiers.checks import check_classes, check_same, engine_source, try_engine
from certtrain.certifiers.claims import bounds_claim
from certtrain.certifiers.falsify import falsify_bounds
from certtrain.certifiers.pieces import MOST, Failure, Piece, Sizes
from certtrain.certifiers.reuse import Reuse
from certtrain.claim import Claim
from certtrain.data.batch import Batch
from certtrain.errors import UserError, nearest
from certtrain.falsification import Falsification, Progress, silent
from certtrain.invariance import check_function, check_repeated
from certtrain.radii import parse_radii, radius_text
from certtrain.threat import Threat, threat_of
from certtrain.threat.scales import Scales

if TYPE_CHECKING:
    from certtrain.certificates.findings import Audit

Precision = Literal["float64", "float32"]


class BoundCertifier(Certifier):
    """Proves each example at the largest radius of a grid that it can: every margin's lower bound finite and > 0.

    Goes from the largest radius down: a certificate at R proves every r <= R, while the bounds themselves need not be
    monotone in the radius. Correct examples that stay unproved at a radius are attacked there, from the smallest radius
    up, so that *falsified* means that an attack succeeded and *unknown* that none did.

    Args:
        methods: bounds to try, cheapest first; an example is verified when any of them verifies it.
        radii: the grid.
        norm: `linf`, `l2` or a threat model.
        engine: makes a bound engine of a network.
        precision: `float64` proves the real-arithmetic network with the given float32 weights over an outward-rounded
            box (final certificates); `float32` is for validation during training.
        attack_steps: PGD steps on unproved examples; 0 attacks nothing.
        attack_restarts: random restarts beside the one at the input itself.
        batch_size: examples bounded and attacked at once; None: bounded as many as memory allows, attacked 256.
        scales: sizes of the features of a table, of which the radii are multiples; None: 1 for all inputs.

    Raises:
        UserError: an unknown method, or one that the engine does not have; an empty grid; scales of an l2 ball.
    """

    def __init__(
        self,
        methods: Sequence[str],
        radii: Sequence[object],
        engine: Callable[[nn.Module], BoundEngine],
        norm: str | Threat = "linf",
        precision: Precision = "float64",
        attack_steps: int = 40,
        attack_restarts: int = 1,
        batch_size: int | None = None,
        scales: Scales | None = None,
    ) -> None:
        for method in methods:
            if method not in METHODS:
                raise UserError(f"unknown bound {method!r}", where="certifier.methods", fix=nearest(method, METHODS))
        if precision not in ("float64", "float32"):
            raise UserError(f"unknown precision {precision!r}", where="certifier.precision", fix="float64 or float32")
        self.methods, self.radii = tuple(methods), parse_radii(radii, where="certifier.radii")
        self.threat = replace(threat_of(norm, scales=scales).check_bounded(), outward=precision == "float64")
        self.make_engine, self.precision = engine, precision
        self.attack_steps, self.attack_restarts = attack_steps, attack_restarts
        self.sizes, self.attacked_at_once = Sizes(batch_size), batch_size or MOST
        self.name = "+".join(self.methods)
        self._prepared: tuple[weakref.ref[nn.Module], nn.Module, BoundEngine] | None = None

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64 if self.precision == "float64" else torch.float32

    def claim(self) -> Claim:
        """Every margin is positive over the whole set."""
        return bounds_claim(self.threat, self.precision)

    def rehearsal(self, options: Mapping[str, Any], seed: int) -> BoundCertifier:
        """Bounds in float32 by `options.methods`, without attacks: those of the validation callback do."""
        methods, threat = options["methods"], self.threat
        return BoundCertifier(methods, self.radii, self.make_engine, threat, precision="float32", attack_steps=0)

    def source(self) -> dict[str, Any]:
        """The bound engine."""
        return engine_source(self.make_engine)

    @classmethod
    def verify_rows(cls, audit: Audit, rows: Certificates, card: Mapping[str, Any]) -> None:
        """Statuses, radii, margins and what decided them; see `audit_bound_rows`."""
        audit.compare("certifier of the settings", card["certifier"], "+".join(card["settings"].get("methods", ())))
        audit_bound_rows(audit, rows, card)

    def settings(self) -> dict[str, Any]:
        """Plain values for the card: all that decides the outcome."""
        return {
            "methods": list(self.methods),
            "precision": self.precision,
            "box": "exact radius, rounded outward" if self.threat.outward else "nearest",
            **self.threat.settings(),
            "attack": {"name": "PGD on the margin", "steps": self.attack_steps, "restarts": self.attack_restarts},
            "engine": getattr(getattr(self.make_engine, "func", self.make_engine), "name", "unnamed"),
        }

    def prepare(self, network: nn.Module) -> tuple[nn.Module, BoundEngine]:
        """The network in the proof's precision and its engine.

        In float64 both are made anew at each call: a copy that is kept would miss changes of the network that its
        state_dict does not show. In float32 it is the network itself, traced once.
        """
        if self.precision == "float64":
            own = copy.deepcopy(network).to(self.dtype)
            self._prepared = (weakref.ref(network), own, self._engine(own))
        elif self._prepared is None or self._prepared[0]() is not network:
            self._prepared = (weakref.ref(network), network, self._engine(network))
        return self._prepared[1:]

    def _engine(self, own: nn.Module) -> BoundEngine:
        with frozen(own):  # a forward may look at its training mode while it is traced
            engine = self.make_engine(own)
        for method in self.methods:
            if method not in engine.methods:
                raise UserError(
                    f"the bound engine {engine.name!r} has no {method!r}",
                    where="bounds and certifier.methods",
                    fix="bounds=auto_lirpa has it" if engine.name == "native" else nearest(method, engine.methods),
                )
        return united(engine, self.threat)

    def check_network(self, network: nn.Module, batch: Batch) -> None:
        """Refuse a network of which a certificate would say nothing, before any work is done.

        Raises:
            UserError: it is not one function of each input, or the engine cannot bound it.
        """
        check_function(network, batch.x)
        own, engine = self.prepare(network)
        with frozen(own):
            threat = self.threat.at(self.radii[-1])
            try_engine(engine, self.methods[0], batch.x[:1].to(self.dtype), batch.y[:1], threat)

    def certify(self, network: nn.Module, batch: Batch) -> Certificates:
        """One certificate per example, in the batch's order; `seconds` is the batch's time shared equally.

        Raises:
            UserError: inputs outside [0, 1], labels without logits, a network that is not one function of each input
                (see `certtrain.invariance`), or an engine that bounds another function than the network computes.
        """
        start = time.perf_counter()
        self.threat.check_range(batch.x, where="certifier")
        check_classes(batch.y, check_function(network, batch.x))
        own, engine = self.prepare(network)
        with frozen(own):
            x, y = batch.x.to(self.dtype), batch.y
            with torch.no_grad():
                logits = own(x)
            predict = logits.argmax(1)
            correct = (predict == y) & torch.isfinite(logits).all(1)
            table = _Table(len(y), self.radii)
            table.status[~correct.cpu().numpy(), :] = "misclassified"
            self._prove(network, engine, x, y, logits, correct, table)
            self._attack(own, x, y, table)
            check_repeated(own, x, logits)
        seconds = (time.perf_counter() - start) / max(1, len(y))
        return table.certificates(batch, predict, correct, seconds)

    def falsify(
        self, network: nn.Module, batch: Batch, certificates: Certificates, *, steps: int, progress: Progress = silent
    ) -> Falsification:
        """Attack certified examples at their radius; see `falsify_bounds`."""
        options = {"steps": steps, "batch_size": self.attacked_at_once, "progress": progress}
        return falsify_bounds(network, batch, certificates, threat=self.threat, **options)

    def _prove(
        self,
        network: nn.Module,
        engine: BoundEngine,
        x: Tensor,
        y: Tensor,
        logits: Tensor,
        correct: Tensor,
        table: _Table,
    ) -> None:
        pieces, remaining = self.sizes.of("bounds", network, x), correct.nonzero().flatten()
        reuse = Reuse(engine, x, logits, again=len(self.radii) > 1)
        for done, column in enumerate(reversed(range(len(self.radii)))):
            threat = self.threat.at(self.radii[column])

            def margins(part: Tensor, threat: Threat = threat) -> dict[str, Tensor]:
                with torch.no_grad():
                    bounds = reuse.bounds(part, y[part], threat, self.methods)
                check_same(bounds.clean, logits[part])
                return bounds.margins

            with self._at(self.name, column, done):
                remaining = self._prove_at(pieces.run(remaining, margins), column, table, remaining)

    def _prove_at(self, pieces: Iterator[Piece[dict[str, Tensor]]], column: int, table: _Table, rows: Tensor) -> Tensor:
        """Records the bounds of `rows` at one radius; those that none of them proves."""
        still = [rows[:0]]
        for piece in pieces:
            part, found = piece.rows, piece.result
            if isinstance(found, Failure):  # neither a proof nor a failure to prove: it gets its own status
                table.failed(part, column, found.reason)
                still.append(part)
                continue
            least = torch.stack([found[m].min(1).values for m in self.methods])  # (methods, B); min keeps NaN
            finite = torch.stack([torch.isfinite(found[m]).all(1) for m in self.methods])
            proved = finite & (least > 0)
            table.record(part, column, least, finite, proved, self.methods)
            still.append(part[~proved.any(0)])
        return torch.cat(still)

    @contextmanager
    def _at(self, doing: str, column: int, before: int) -> Iterator[None]:
        """The work at one radius, told as an equal share beside that at the other radii."""
        share = 1 / (2 if self.attack_steps > 0 else 1) / len(self.radii)
        with work.part(before * share, (before + 1) * share):
            work.tell(0, f"{doing} at {radius_text(self.radii[column])}")
            yield

    def _attack(self, own: nn.Module, x: Tensor, y: Tensor, table: _Table) -> None:
        if self.attack_steps <= 0:
            return
        fallen = np.zeros(len(y), dtype=bool)
        for column, radius in enumerate(self.radii):
            # An adversarial input of a smaller ball lies in every larger one.
            open_ = ~np.isin(table.status[:, column], ("verified", "misclassified"))
            table.status[open_ & fallen, column] = "falsified"
            todo = torch.as_tensor(np.flatnonzero(open_ & ~fallen), device=x.device)
            # The exact ball, without the outward rounding; in float64 not even a rounding of eps leaves it.
            exact = self.precision == "float64"
            threat = inner(self.threat, inside(radius)) if exact else self.threat.at(radius)
            for part in _parts(todo, self.attacked_at_once):
                with self._at("attack", column, len(self.radii) + column):
                    attack = pgd_margins(
                        own, x[part], y[part], threat, steps=self.attack_steps, restarts=self.attack_restarts + 1
                    )
                hit = part[attack.margin <= 0].cpu().numpy()
                fallen[hit] = True
                table.status[hit, column] = "falsified"


def _parts(rows: Tensor, size: int) -> tuple[Tensor, ...]:
    """Pieces of at most `size`; none of nothing, where `split` would give an empty one."""
    return rows.split(size) if len(rows) else ()


class _Table:
    """The status of every example at every radius, while it is being decided."""

    def __init__(self, n: int, radii: tuple[Fraction, ...]) -> None:
        self.radii = radii
        self.status = np.full((n, len(radii)), "unknown", dtype=object)
        self.reason = np.full(n, "", dtype=object)
        self.decided_by = np.full(n, "", dtype=object)
        self.margin = np.full(n, np.nan)
        self.radius = np.zeros(n)

    def failed(self, part: Tensor, column: int, reason: str) -> None:
        self.status[part.cpu().numpy(), column] = "error"
        self.reason[part.cpu().numpy()] = reason

    def record(
        self, part: Tensor, column: int, least: Tensor, finite: Tensor, proved: Tensor, methods: tuple[str, ...]
    ) -> None:
        rows = part.cpu().numpy()
        any_proved, any_finite = proved.any(0).cpu().numpy(), finite.any(0).cpu().numpy()
        first = proved.double().argmax(0)  # the cheapest that proved it, else the first
        usable = torch.where(finite, least, -torch.inf).max(0).values
        margin = torch.where(proved.any(0), least.gather(0, first[None])[0], usable).double().cpu().numpy()
        self.margin[rows] = np.where(np.isfinite(margin), margin, np.nan)
        self.status[rows[~any_finite], column] = "invalid"
        won = rows[any_proved]
        self.status[won, : column + 1] = "verified"
        self.radius[won] = float(self.radii[column])
        self.decided_by[won] = np.array(methods, dtype=object)[first.cpu().numpy()[any_proved]]

    def certificates(self, batch: Batch, predict: Tensor, correct: Tensor, seconds: float) -> Certificates:
        n = len(self.radius)
        columns: dict[str, Any] = {"margin": self.margin, "decided_by": self.decided_by}
        columns |= {f"status@{radius_text(r)}": self.status[:, i] for i, r in enumerate(self.radii)}
        if (self.reason != "").any():
            columns["reason"] = self.reason
        return Certificates(
            index=batch.index.cpu().numpy(),
            label=batch.y.cpu().numpy(),
            predict=predict.cpu().numpy(),
            radius=self.radius,
            correct=correct.cpu().numpy(),
            seconds=np.full(n, seconds),
            columns=columns,
        )
