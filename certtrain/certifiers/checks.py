"""What must hold before a bound is called a certificate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from certtrain.bounds.base import BoundEngine
from certtrain.errors import UserError
from certtrain.threat import Threat


def check_classes(y: Tensor, classes: int) -> None:
    """Refuse labels that are not classes of the network, which would index beyond its logits.

    Raises:
        UserError: with the number of logits.
    """
    if len(y) and (int(y.min()) < 0 or int(y.max()) >= classes):
        raise UserError(
            f"labels between {int(y.min())} and {int(y.max())} for a network of {classes} logits",
            where="certifier",
            fix=f"the network of these classes; labels from 0 to {classes - 1}",
        )


def engine_source(make: Callable[..., Any]) -> dict[str, Any]:
    """What computes bounds, for the card: the class that makes an engine, and the package whose bounds they are."""
    target: Any = getattr(make, "func", make)
    name = f"{target.__module__}.{target.__qualname__}"
    package = name.split(".")[0]
    return {"name": name, "package": "auto_LiRPA" if package == "certtrain" and "lirpa" in name else package}


def try_engine(engine: BoundEngine, method: str, x: Tensor, y: Tensor, threat: Threat) -> None:
    """Have an engine bound one example, so that a network which it cannot bound is refused before any work is done.

    By intervals where it has them: what an engine refuses does not hang on the bound, and theirs cost next to nothing.
    A crash is no refusal: it is found again, and recorded, where it concerns an example.

    Args:
        engine: of the network, which is in eval mode.
        method: the bound that is wanted.
        x, y: one example.
        threat: with a radius.

    Raises:
        UserError: of the engine.
    """
    cheapest = "ibp" if "ibp" in engine.methods else method
    try:
        with torch.no_grad():
            engine.bounds(x, y, threat, (cheapest,))
    except UserError:
        raise
    except Exception:
        return


def check_same(clean: Tensor, logits: Tensor) -> None:
    """The function that was bounded is the network: what tracing cannot see must not end in a certificate.

    Raises:
        UserError: the bound engine's clean logits are not the network's.
    """
    tolerance = 1e-3 if clean.dtype == torch.float32 else 1e-6
    if not (clean - logits).abs().max() <= tolerance * logits.abs().max():
        raise UserError(
            "the network's logits are not those of the operations that the bound engine saw in it",
            where="bounds",
            fix="a forward that depends on nothing but its input, the parameters and the buffers, without hooks",
        )
