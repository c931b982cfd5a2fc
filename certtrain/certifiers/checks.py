"""What must hold before a bound is called a certificate."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from certtrain.bounds.base import BoundEngine
from certtrain.errors import UserError
from certtrain.threat import ThreatModel


def check_inputs(x: Tensor, threat: ThreatModel) -> None:
    """Refuse inputs outside the range that balls are clipped to.

    Raises:
        UserError: clipped to the range, a box around such an input would not hold it, and could hold next to nothing.
    """
    low = -math.inf if threat.lower is None else threat.lower
    high = math.inf if threat.upper is None else threat.upper
    if bool(((x < low) | (x > high)).any()):
        raise UserError(
            f"inputs between {float(x.min()):.6g} and {float(x.max()):.6g}",
            where="certifier",
            fix="give inputs in [0, 1]; normalisation is the network's first layer",
        )


def try_engine(engine: BoundEngine, method: str, x: Tensor, y: Tensor, threat: ThreatModel) -> None:
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
