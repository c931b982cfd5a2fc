"""Several attacks in a row, each on the examples that the ones before it left standing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from certtrain.attacks.apgd import apgd_margins
from certtrain.attacks.pgd import pgd_margins
from certtrain.attacks.search import Attack, AttackFunction
from certtrain.errors import UserError, nearest
from certtrain.system.work import part
from certtrain.threat import Threat

ATTACKS: dict[str, AttackFunction] = {
    "pgd_margin": partial(pgd_margins, loss="margin"),
    "pgd_ce": partial(pgd_margins, loss="cross_entropy"),
    "apgd_ce": partial(apgd_margins, loss="cross_entropy"),
    "apgd_dlr": partial(apgd_margins, loss="dlr"),
}


def check_attacks(names: Sequence[str], *, where: str) -> tuple[str, ...]:
    """The names, which must all be attacks.

    Raises:
        UserError: not a list, or an unknown name, with the nearest.
    """
    if isinstance(names, str):
        raise UserError(f"{names!r} is not a list of attacks", where=where, fix=f"[{names}]")
    for name in names:
        if name not in ATTACKS:
            raise UserError(f"unknown attack {name!r}", where=where, fix=nearest(str(name), ATTACKS))
    return tuple(names)


def strongest(
    names: Sequence[str],
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int,
    restarts: int,
    generator_seed: int = 0,
) -> Attack:
    """The smallest margin that the attacks find, one after the other, each on what has not fallen yet.

    Args:
        names: of `ATTACKS`, in this order.
        network, x, y, steps, restarts, generator_seed: as in `pgd_margins`.
        threat: norm, eps (scalar or (B,)) and input range.
    """
    best = Attack(x.new_full((len(x),), torch.inf), x)
    for number, name in enumerate(names):
        standing = (best.margin > 0).nonzero().flatten()
        if not len(standing):
            break
        eps = threat.eps
        here = threat.at(eps[standing.to(eps.device)]) if isinstance(eps, Tensor) and eps.dim() else threat
        options = {"steps": steps, "restarts": restarts, "generator_seed": generator_seed}
        with part(number / len(names), (number + 1) / len(names)):
            found = ATTACKS[name](network, x[standing], y[standing], here, **options)
        better = ~(found.margin >= best.margin[standing])
        rows = standing[better]
        best = Attack(
            best.margin.index_copy(0, rows, found.margin[better]), best.x.index_copy(0, rows, found.x[better])
        )
    return best
