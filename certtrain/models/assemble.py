"""A network of any class, told what its constructor takes of the data, behind a normalisation where it has none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from certtrain.errors import UserError
from certtrain.models.contract import InputContract
from certtrain.models.normalize import Normalize, normalising_layer
from certtrain.system.signatures import parameter_names

# What constructors may take of the data.
OFFERED = ("input_shape", "num_classes", "mean", "std")


class Normalized(nn.Sequential):
    """A network behind a normalisation that it does not bring itself."""


def offered(make: Callable[..., Any], contract: InputContract) -> dict[str, Any]:
    """What a class or function takes by name of shape, classes, mean and std of the data.

    Args:
        make: the class or function, or a partial of it, whose own arguments stay as they are.
        contract: of the data.
    """
    target, given = getattr(make, "func", make), getattr(make, "keywords", {})
    values = {"input_shape": contract.shape, "num_classes": contract.num_classes}
    values |= {"mean": contract.mean, "std": contract.std}
    taken = parameter_names(target)
    return {name: values[name] for name in OFFERED if name in taken and name not in given}


def assembled(network: Any, contract: InputContract, told: Iterable[str], where: str = "model") -> nn.Module:
    """The network, behind a `Normalize` where the data state one and the network neither has one nor was told of it.

    Args:
        network: inputs in [0, 1] to (B, K) logits; normalised ones where it has no normalisation itself.
        contract: of the data.
        told: what it was constructed with of `OFFERED`.
        where: names its place in the configuration.

    Raises:
        UserError: it is no nn.Module.
    """
    if not isinstance(network, nn.Module):
        raise UserError(
            f"what was built is a {type(network).__name__}, not a torch.nn.Module", where=where, fix="name its class"
        )
    itself = {"mean", "std"} <= set(told) or normalising_layer(network) is not None
    if itself or not contract.normalised:
        return network
    return Normalized(Normalize(contract.mean, contract.std, contract.shape), network)
