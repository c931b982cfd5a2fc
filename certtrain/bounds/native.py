"""The native bound engine: IBP, CROWN-IBP and CROWN on the traced network, differentiable, without state."""

from __future__ import annotations

from torch import Tensor, nn

import certtrain
from certtrain.bounds import rules
from certtrain.bounds.affine import LinearMap
from certtrain.bounds.base import Bounds, PreActivation, margin_matrix
from certtrain.bounds.crown import interval_lines, lower_bounds, refine
from certtrain.bounds.forward import propagate
from certtrain.bounds.graph import Graph, unsupported
from certtrain.bounds.interval import InputSet
from certtrain.errors import UserError, nearest
from certtrain.threat import ThreatModel


class NativeEngine:
    """Bounds of a network's margins by IBP, CROWN-IBP and CROWN, over l-inf and l2 balls.

    Traces the network once; parameters, buffers and the training mode are read at each call. Registers nothing with
    the network, and keeps only a weak reference to it.

    Args:
        network: (B, ...) inputs to (B, K) logits, from the operations in `supported`.

    Raises:
        UserError: an operation without a rule, named by its path in the network.
    """

    name = "native"
    version = certtrain.__version__
    methods: tuple[str, ...] = ("ibp", "crown_ibp", "crown")

    def __init__(self, network: nn.Module) -> None:
        self.graph = Graph(network)
        for node, key, module in self.graph.calls():
            rules.check(self.graph.names[node], key, module)

    @property
    def supported(self) -> tuple[str, ...]:
        """The operations that the engine can bound."""
        return rules.supported()

    def bounds(
        self, x: Tensor, y: Tensor, threat: ThreatModel, methods: tuple[str, ...] = ("ibp", "crown_ibp")
    ) -> Bounds:
        """Lower bounds of the margins of class y over the threat model around x; see `BoundEngine.bounds`.

        One interval pass serves all methods. A last linear layer is merged with the specification. In training mode
        BatchNorm takes its statistics from the clean activations and updates its running ones once.

        Raises:
            UserError: an unknown method, or an operation that in its live form cannot be bounded.
        """
        for method in methods:
            if method not in self.methods:
                raise UserError(
                    f"the native engine has no method {method!r}",
                    where="bounds=native",
                    fix=f"{nearest(method, self.methods)}; alpha_crown is in bounds=auto_lirpa",
                )
        run = propagate(self.graph, InputSet.of(x, threat))
        region, step, layer = run.regions[-1], len(run.steps) - 1, None
        if isinstance(run.steps[-1].op, LinearMap) and region.both.dim() == 2:
            step, layer = run.steps[-1].sources[0], run.steps[-1].op
        clean = region.clean
        if clean.dim() != 2:
            raise unsupported(f"the network's output has shape {tuple(clean.shape)}", "logits (B, K)")
        functions = margin_matrix(y, clean.shape[1], clean.dtype)
        constant: Tensor | float = 0.0
        if layer is not None:
            if layer.bias is not None:
                constant = functions @ layer.bias
            functions = functions @ layer.weight
        margins = {}
        for method in methods:
            if method == "ibp":
                margins[method] = run.regions[step].minimum(functions) + constant
            else:
                lines = refine(run) if method == "crown" else interval_lines(run)
                margins[method] = lower_bounds(run, lines, step, functions) + constant
        boxes = (PreActivation(run.steps[index].name, *box) for index, box in run.boxes.items())
        return Bounds(clean, margins, tuple(boxes))
