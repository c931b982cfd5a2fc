"""Where a network can be cut in two parts that are both networks: for methods that treat its parts differently."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from certtrain.bounds.base import Split
from certtrain.bounds.rules import MODULES, Builder

# By their builders, which calls of functions share with the modules.
LAYERS = {MODULES[kind] for kind in (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)}
ACTIVATIONS = {
    MODULES[kind]
    for kind in (nn.ReLU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.GELU, nn.SiLU, nn.ELU, nn.CELU, nn.Softplus)
}


def splits(builders: Mapping[str, Builder], cuts: set[str]) -> tuple[Split, ...]:
    """The cuts that leave a layer and an activation on both sides.

    Args:
        builders: of each operation by name, in the order of execution.
        cuts: see `Graph.cuts`.
    """
    layers = activations = 0
    before = []
    for name, builder in builders.items():
        layers += builder in LAYERS
        activations += builder in ACTIVATIONS
        if name in cuts and layers and activations:
            before.append((name, layers, activations))
    return tuple(Split(name, some / layers) for name, some, few in before if some < layers and few < activations)
