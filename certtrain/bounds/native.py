"""The native bound engine: IBP, CROWN-IBP and CROWN on the traced network, differentiable, without state."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

import certtrain
from certtrain.bounds import rules
from certtrain.bounds.affine import LinearMap
from certtrain.bounds.base import Bounds, FusedLoss, PreActivation, margin_matrix
from certtrain.bounds.crown import interval_lines, lower_bounds, refine
from certtrain.bounds.forward import Pass, propagate
from certtrain.bounds.graph import Graph, unsupported
from certtrain.bounds.interval import InputSet
from certtrain.bounds.loss_fusion import fused_upper_bound
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
            self._check(method)
        output = self._propagate(x, y, threat)
        margins = {method: output.least(method, output.margins, output.constant) for method in methods}
        return Bounds(output.clean, margins, output.pre_activations())

    def fused_loss(self, x: Tensor, y: Tensor, threat: ThreatModel, method: str = "crown_ibp") -> FusedLoss:
        """Upper bounds of the cross-entropy over the threat model around x; see `BoundEngine.fused_loss`.

        Raises:
            UserError: as `bounds`.
        """
        self._check(method)
        output = self._propagate(x, y, threat)
        lower, upper = output.interval()

        def least(weights: Tensor) -> Tensor:
            return output.least(method, weights @ output.margins, (weights @ output.constant[:, :, None]).squeeze(2))

        loss = fused_upper_bound(lower, upper, least)
        return FusedLoss(output.clean, {"ibp": lower}, output.pre_activations(), loss)

    def _check(self, method: str) -> None:
        if method not in self.methods:
            raise UserError(
                f"the native engine has no method {method!r}",
                where="bounds=native",
                fix=f"{nearest(method, self.methods)}; alpha_crown is in bounds=auto_lirpa",
            )

    def _propagate(self, x: Tensor, y: Tensor, threat: ThreatModel) -> _Output:
        run = propagate(self.graph, InputSet.of(x, threat))
        region, step, layer = run.regions[-1], len(run.steps) - 1, None
        if isinstance(run.steps[-1].op, LinearMap) and region.both.dim() == 2:
            step, layer = run.steps[-1].sources[0], run.steps[-1].op
        clean = region.clean
        if clean.dim() != 2:
            raise unsupported(f"the network's output has shape {tuple(clean.shape)}", "logits (B, K)")
        margins = margin_matrix(y, clean.shape[1], clean.dtype)
        constant = clean.new_zeros(margins.shape[:2])
        if layer is not None:
            if layer.bias is not None:
                constant = margins @ layer.bias
            margins = margins @ layer.weight
        return _Output(run, clean, step, margins, constant)


@dataclass(frozen=True)
class _Output:
    """The end of an interval pass: the margins as linear functions of the last step that is not merged with them.

    Attributes:
        run: the interval pass.
        clean: (B, K) logits.
        step: index of that step.
        margins: (B, K-1, n) coefficients; constant: (B, K-1).
    """

    run: Pass
    clean: Tensor
    step: int
    margins: Tensor
    constant: Tensor

    def interval(self) -> tuple[Tensor, Tensor]:
        """Interval bounds (B, K-1) of the margins."""
        lower, upper = self.run.regions[self.step].range(self.margins)
        return lower + self.constant, upper + self.constant

    def least(self, method: str, functions: Tensor, constant: Tensor) -> Tensor:
        """Lower bounds (B, S) of functions (B, S, n) of the step's output, plus constants (B, S)."""
        if method == "ibp":
            return self.run.regions[self.step].range(functions)[0] + constant
        lines = refine(self.run) if method == "crown" else interval_lines(self.run)
        return lower_bounds(self.run, lines, self.step, functions) + constant

    def pre_activations(self) -> tuple[PreActivation, ...]:
        """The interval bounds of every ReLU's input."""
        return tuple(PreActivation(self.run.steps[index].name, *box) for index, box in self.run.boxes.items())
