"""Threat models: what an attacker may do to an input, in the units of the input range [0, 1]; one file each."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import fields, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from certtrain.errors import UserError
from certtrain.threat.base import Threat, may_be_asked
from certtrain.threat.l2 import L2
from certtrain.threat.linf import Linf
from certtrain.threat.scaled import Scaled
from certtrain.threat.scales import Scales
from certtrain.threat.sets import Box, L2Ball, PerturbedSet

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "L2",
    "Box",
    "L2Ball",
    "Linf",
    "PerturbedSet",
    "Scaled",
    "Scales",
    "Threat",
    "bounded_norms",
    "may_be_asked",
    "norm_text",
    "norms",
    "stated_threat",
    "threat_of",
]


@functools.cache
def norms() -> Mapping[str, type[Threat]]:
    """By what `norm=` calls it, every threat model of this package that needs no more than a radius."""
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    kinds = (kind for module in modules for kind in vars(module).values() if isinstance(kind, type))
    return {kind.norm: kind for kind in kinds if issubclass(kind, Threat) and "norm" in vars(kind)}


def bounded_norms() -> tuple[str, ...]:
    """What `norm=` may say of bounds."""
    return tuple(name for name, kind in norms().items() if kind.bounded)


def threat_of(
    norm: str | Threat = "linf",
    eps: Fraction | float | Tensor | None = None,
    *,
    scales: Scales | None = None,
    **options: Any,
) -> Threat:
    """The threat model of a norm, with sizes of features a box of them.

    Args:
        norm: a name, or a threat model itself.
        eps: the radius.
        scales: sizes of the features; None for none.
        options: of `Threat`: lower, upper, outward, inward.

    Raises:
        UserError: an unknown norm; sizes of features of what is not a box; a negative radius.
    """
    options |= {} if eps is None else {"eps": eps}
    if isinstance(norm, Threat):
        found = replace(norm, **options)
    elif norm in norms():
        found = norms()[norm](**options)
    else:
        raise UserError(f"unknown norm {norm!r}", where="threat model", fix=f"one of {', '.join(norms())}")
    if scales is None:
        return found
    if type(found) is not Linf:
        raise UserError(
            f"scales with norm={found.norm}: sizes per feature are those of a box, and the {found.symbol} ball is the "
            "same in all directions",
            where="threat model",
            fix="norm=linf, or scales=null",
        )
    return Scaled(**{one.name: getattr(found, one.name) for one in fields(found)}, scales=scales)


def stated_threat(name: str, settings: Mapping[str, Any]) -> Threat:
    """The threat model that a card's claim names, with the sizes that its settings state.

    Raises:
        UserError: there is none of that name here, or its sizes are none.
    """
    stated = settings.get("scales")
    try:
        scales = None if stated is None else Scales.from_dict(stated)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"no sizes of features: {type(error).__name__}: {error}", where="settings.scales") from error
    found = threat_of(name.split(" ")[0], scales=scales)
    if found.name != name:
        raise UserError(f"{name!r} is not the threat model {found.name!r} of the settings", where="certificate card")
    return found


def norm_text(name: str) -> str:
    """The name of a norm, or of a threat model, as it is printed: `l-inf`, `l-inf scaled by NAME`."""
    norm, *rest = name.split(" ", 1)
    return " ".join([norms()[norm]().symbol if norm in norms() else norm, *rest])
