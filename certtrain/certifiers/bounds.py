"""Deterministic certificates from bounds of the margins alone: a cascade of bounds, with one attack after them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from certtrain.certificates import Certificates
from certtrain.certifiers.bound_rows import audit_bound_rows, stated_bounds
from certtrain.certifiers.cascade import CascadeCertifier, Precision
from certtrain.certifiers.verifier import MakeEngine
from certtrain.threat import Threat
from certtrain.threat.scales import Scales

if TYPE_CHECKING:
    from certtrain.certificates.findings import Audit


class BoundCertifier(CascadeCertifier):
    """Proves each example at the largest radius of a grid that it can: every margin's lower bound finite and > 0.

    Correct examples that stay unproved at a radius are attacked there, from the smallest radius up, so that *falsified*
    means that an attack succeeded and *unknown* that none did. See `CascadeCertifier`.

    Args:
        methods: bounds to try, cheapest first; an example is verified when any of them verifies it.
        radii: the grid.
        engine: makes a bound engine of a network.
        norm: `linf`, `l2` or a threat model.
        precision: `float64` for certificates; `float32` is for validation during training.
        attack_steps: PGD steps on unproved examples; 0 attacks nothing.
        attack_restarts: random restarts beside the one at the input itself.
        batch_size: examples bounded and attacked at once; None: bounded as many as memory allows, attacked 256.
        scales: sizes of the features of a table, of which the radii are multiples; None: 1 for all inputs.

    Raises:
        UserError: as `CascadeCertifier`.
    """

    def __init__(
        self,
        methods: Sequence[str],
        radii: Sequence[object],
        engine: MakeEngine,
        norm: str | Threat = "linf",
        precision: Precision = "float64",
        attack_steps: int = 40,
        attack_restarts: int = 1,
        batch_size: int | None = None,
        scales: Scales | None = None,
    ) -> None:
        super().__init__(
            methods,
            radii,
            engine,
            norm=norm,
            attacks=("pgd_margin",),
            attacks_first=0,
            attack_steps=attack_steps,
            attack_restarts=attack_restarts,
            precision=precision,
            batch_size=batch_size,
            scales=scales,
            name="+".join(methods),
        )

    @classmethod
    def verify_rows(cls, audit: Audit, rows: Certificates, card: Mapping[str, Any]) -> None:
        """Its name, then as of every cascade."""
        audit.compare("certifier of the settings", card["certifier"], "+".join(stated_bounds(card["settings"])))
        audit_bound_rows(audit, rows, card)
