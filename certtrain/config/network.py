"""The network that a configuration names: of our builders, or any nn.Module class with arguments of its own."""

from __future__ import annotations

from typing import Any

from torch import nn

from certtrain.config.instantiate import call_partial, instantiate
from certtrain.models.assemble import Normalized, assembled, offered
from certtrain.models.contract import InputContract
from certtrain.models.normalize import normalises_by, normalising_layer


def make_network(node: dict[str, Any], contract: InputContract) -> nn.Module:
    """Build the network of a node `model`, initialised from torch's global generator.

    Its class is told what its constructor takes of `input_shape`, `num_classes`, `mean` and `std`; where it takes no
    normalisation and has none, and the data state one, a `Normalize` comes first.

    Raises:
        UserError: what is named cannot be built, or is no nn.Module.
    """
    make = instantiate({**node, "_partial_": True}, "model")
    told = offered(make, contract)
    return assembled(call_partial(make, "model", **told), contract, told, "configuration key model")


def normalisation_note(network: nn.Module, node: dict[str, Any]) -> str | None:
    """What a card says of a normalisation that is not the network's own `Normalize`; None where it is."""
    target = node["_target_"]
    if any(isinstance(module, Normalized) for module in network.modules()):  # TwoLogits may be behind it
        return f"added in front of {target}, which has none"
    layer = normalising_layer(network)
    if layer is None:
        return f"left to {target}"
    kind = type(layer)
    if kind.__module__.split(".")[0] == "certtrain":
        return None
    mean, std = normalises_by(layer) or ([], [])
    return f"by {target}'s own {kind.__name__}: mean {mean}, std {std}"
