"""CROWN-IBP (Zhang, Chen, Xiao, Gowal, Stanforth, Li, Boning and Hsieh 2020, arXiv 1906.06316)."""

from __future__ import annotations

from fractions import Fraction
from typing import Unpack

from certtrain.methods.bound_training import BoundTraining, Options
from certtrain.methods.mixture import CLOSEST, Mixture
from certtrain.schedules import Ramp, Schedule, Weight

KAPPA, BETA = Weight(1.0, 0.5, "eps"), Weight(1.0, 0.0, "eps")


class CrownIBP(BoundTraining):
    """`kappa CE(z(x), y) + (1 - kappa) CE([0, -m], 0)` with the margins `m = beta m_crown_ibp + (1 - beta) m_ibp`.

    beta moves from the tight bound, which trains well early, to the one that the network will be certified with. With
    `loss_fusion` (Xu et al. 2020, arXiv 2002.12920) CROWN-IBP bounds the loss itself; see `Mixture`.

    Args:
        train_eps, ramp, options: see `BoundTraining`. kappa of the paper: from 1 to 0.5 by eps, the default, or 0
            throughout.
        beta: weight of CROWN-IBP. Theirs: from 1 to 0 by eps; 1 throughout for small radii such as 2/255.
        loss_fusion: bound the loss instead of the margins.
        closest: without loss fusion, how many margins of an example CROWN-IBP bounds, those least by IBP; the others
            keep IBP's bounds. None for all, at a cost that grows with the classes.

    Raises:
        UserError: as `BoundTraining`.
    """

    def __init__(
        self,
        train_eps: Fraction | float | str,
        ramp: Ramp,
        beta: Schedule = BETA,
        loss_fusion: bool = False,
        closest: int | None = CLOSEST,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(train_eps, ramp, Mixture(beta, loss_fusion, closest), **{"kappa": KAPPA, **options})
