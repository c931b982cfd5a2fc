"""The native bound engine: IBP, CROWN-IBP, CROWN and alpha-CROWN on the traced network, without state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from certtrain._version import __version__
from certtrain.bounds import rules
from certtrain.bounds.affine import LinearMap
from certtrain.bounds.alpha import AlphaCrown
from certtrain.bounds.ascent import Search
from certtrain.bounds.base import (
    METHODS,
    Bounds,
    Features,
    FusedLoss,
    NodeBounds,
    PreActivation,
    Split,
    margin_matrix,
    other_classes,
)
from certtrain.bounds.crown import Refined, interval_lines, lower_bounds, refine
from certtrain.bounds.features import features, no_features
from certtrain.bounds.forward import Pass, propagate, resume, rough
from certtrain.bounds.graph import Graph, unsupported
from certtrain.bounds.intermediates import Box, Intermediates, weights_of
from certtrain.bounds.interval import InputSet
from certtrain.bounds.loss_fusion import fused_upper_bound
from certtrain.bounds.margins import combined, margin_interval, margin_rows
from certtrain.bounds.nonlinear import Activation
from certtrain.bounds.rules import Relu
from certtrain.bounds.splits import splits
from certtrain.errors import UserError, nearest
from certtrain.models.invariance import refuse_one_logit
from certtrain.threat import Threat

# Convolutions from which it pays to lay images out for them in an interval pass that no backward pass follows: IBP of 7
# takes 0.94 of the time, of 5 wide ones 0.98; of 2 nothing is gained, and the backward pass copies bounds back.
SEVERAL_CONVOLUTIONS = 3


class NativeEngine:
    """Bounds of a network's margins by IBP, CROWN-IBP, CROWN and alpha-CROWN, over l-inf and l2 balls.

    Traces the network once; parameters, buffers and the training mode are read at each call. Registers nothing with
    the network, and keeps only a weak reference to it. Bounds are differentiable but for those of `crown_zero` and
    `alpha_crown`.

    Args:
        network: (B, ...) inputs to (B, K) logits, from the operations in `supported`.
        iterations: of `alpha_crown`; these and the others see `ascent.Search`.
        rate: of its first step.
        intermediates: whether it optimises the neurons inside, too.
        shared: whether the neurons of a layer share lines.
        stop: whether an example is left alone once it is proved; else its bounds are made as tight as the others'.

    Raises:
        UserError: an operation without a rule, named by its path in the network; settings that make no sense.
    """

    name = "native"
    version = __version__
    methods: tuple[str, ...] = METHODS

    def __init__(
        self,
        network: nn.Module,
        *,
        iterations: int = Search.iterations,
        rate: float = Search.rate,
        intermediates: bool = Search.intermediates,
        shared: bool = Search.shared,
        stop: bool = Search.stop,
    ) -> None:
        self.search = Search(iterations, rate, intermediates=intermediates, shared=shared, stop=stop)
        self.graph = Graph(network)
        convolutions = 0
        builders: dict[str, rules.Builder] = {}
        for node, key, module in self.graph.calls():
            name = self.graph.names[node]
            builders[name] = rules.check(name, key, module)
            convolutions += isinstance(module, nn.Conv2d)
        self._several = convolutions >= SEVERAL_CONVOLUTIONS
        self._splits = splits(builders, self.graph.cuts())
        self._features = features(self.graph)

    @classmethod
    def settings(cls, method: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """What a method's bounds depend on, of what the engine is made with, for cards."""
        return asdict(Search(**given)) if method == "alpha_crown" else {}

    @property
    def supported(self) -> tuple[str, ...]:
        """The operations that the engine can bound."""
        return rules.supported()

    def bounds(
        self,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        methods: tuple[str, ...] = ("ibp", "crown_ibp"),
        at: tuple[str, ...] = (),
        closest: int | None = None,
    ) -> Bounds:
        """Lower bounds of the margins of class y over the threat model around x; see `BoundEngine.bounds`.

        One interval pass serves all methods. A last linear layer is merged with the specification. In training mode
        BatchNorm takes its statistics from the clean activations and updates its running ones once.

        Raises:
            UserError: an unknown method, an operation that in its live form cannot be bounded, or a name in `at` that
                the network does not have.
        """
        for method in methods:
            self._check(method)
        output = self._propagate(x, y, threat, alone=tuple(methods) == ("ibp",))
        found = output.bounds(methods, closest)
        return replace(found, at={name: output.node(name) for name in at}) if at else found

    def splits(self) -> tuple[Split, ...]:
        """Where the network can be cut in two, in the order of execution; see `BoundEngine.splits`."""
        return self._splits

    def features(self) -> Features:
        """Where the network's features are; see `BoundEngine.features`."""
        if self._features is None:
            raise no_features()
        return self._features

    def bounds_inside(
        self,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        methods: tuple[str, ...] = ("crown",),
        outer: Intermediates | None = None,
    ) -> tuple[Bounds, Intermediates]:
        """As `bounds`, and with them CROWN's bounds of the neurons inside, for balls inside of this one.

        Args:
            x, y, threat, methods: as of `bounds`.
            outer: what this method gave for balls that hold these: neurons that are settled there are settled here, and
                are not bounded again; the others get the intersection.

        Raises:
            UserError: as `bounds`.
            ValueError: an `outer` of something else: see `Intermediates.over`.
        """
        for method in methods:
            self._check(method)
        output, weights = self._propagate(x, y, threat), weights_of(self.graph.network)
        if outer is not None:
            output = replace(output, known=outer.over(x, threat, output.clean, weights))
        found = output.bounds(methods)
        return found, Intermediates.of(x, threat, output.clean, output.refined.boxes, weights)

    def fused_loss(self, x: Tensor, y: Tensor, threat: Threat, method: str = "crown_ibp") -> FusedLoss:
        """Upper bounds of the cross-entropy over the threat model around x; see `BoundEngine.fused_loss`.

        Raises:
            UserError: as `bounds`.
        """
        self._check(method)
        output = self._propagate(x, y, threat)
        lower, upper = output.interval()
        loss = fused_upper_bound(lower, upper, lambda weights: output.least(method, combined(weights, y)))
        return FusedLoss(output.clean, {"ibp": lower}, output.pre_activations(), loss)

    def _check(self, method: str) -> None:
        if method not in self.methods:
            raise UserError(
                f"the native engine has no method {method!r}",
                where="bounds=native",
                fix=nearest(method, self.methods),
            )

    def _propagate(self, x: Tensor, y: Tensor, threat: Threat, alone: bool = False) -> _Output:
        """The interval pass; `alone`: no backward pass follows it."""
        run = propagate(self.graph, InputSet.of(x, threat), channels_last=alone and self._several)

        region, step, layer = run.regions[-1], len(run.steps) - 1, None
        if isinstance(run.steps[-1].op, LinearMap) and region.clean.dim() == 2:
            step, layer = run.steps[-1].sources[0], run.steps[-1].op
        clean = region.clean
        if clean.dim() != 2:
            raise unsupported(f"the network's output has shape {tuple(clean.shape)}", "logits (B, K)")
        refuse_one_logit(clean.shape[1])
        return _Output(run, clean, y, step, layer, self.search, partial(rough, self.graph, run))


@dataclass(frozen=True)
class _Output:
    """The end of an interval pass; a last linear layer is not part of the steps but merged with what is asked.

    Attributes:
        run: the interval pass.
        clean: (B, K) logits.
        y: (B,) classes.
        step: index of the last step that is not merged.
        layer: the last linear layer, from that step's output to the logits; None when the step gives the logits.
        search: of alpha-CROWN.
        rough: makes the same pass in float32.
        known: see `refine`.
    """

    run: Pass
    clean: Tensor
    y: Tensor
    step: int
    layer: LinearMap | None
    search: Search
    rough: Callable[[], Pass]
    known: Mapping[int, Box] | None = None
    # Not functools.cached_property, whose lock in Python 3.11 torch.compile cannot follow.
    made: dict[str, Any] = field(default_factory=dict, init=False)

    def bounds(self, methods: tuple[str, ...], closest: int | None = None) -> Bounds:
        """What the engine answers."""
        places = None
        if closest is not None and closest < self.clean.shape[1] - 1 and tuple(methods) != ("ibp",):
            places = self.interval()[0].detach().topk(closest, largest=False).indices
        margins = {method: self.margins(method, places) for method in methods}
        return Bounds(self.clean, margins, self.pre_activations(), bounded=places)

    @property
    def refined(self) -> Refined:
        """CROWN's lines and boxes, made once."""
        if "refined" not in self.made:
            self.made["refined"] = refine(self.run, self.known)
        return self.made["refined"]

    def margins(self, method: str, places: Tensor | None) -> Tensor:
        """(B, K-1) lower bounds of the margins; those that `places` (B, S) leaves out, if there are any, by IBP."""
        if method == "ibp":
            return self.interval()[0]
        others = other_classes(self.y, self.clean.shape[1])
        others = others if places is None else others.gather(1, places)
        if self.layer is None:
            found = self._lower(method, margin_matrix(self.y, self.clean.shape[1], self.clean.dtype, others))
        else:
            functions, constant = margin_rows(self.layer, self.y, others)
            found = self._lower(method, functions, constant)
        return found if places is None else self.interval()[0].scatter(1, places, found)

    def interval(self) -> tuple[Tensor, Tensor]:
        """Interval bounds (B, K-1) of the margins, made once."""
        if "interval" not in self.made:
            region = self.run.regions[self.step]
            if self.layer is None:
                found = region.range(margin_matrix(self.y, self.clean.shape[1], self.clean.dtype))
            else:
                found = margin_interval(region, self.layer, self.y)
            self.made["interval"] = found
        return self.made["interval"]

    def least(self, method: str, functions: Tensor) -> Tensor:
        """Lower bounds (B, S) of functions (B, S, K) of the logits."""
        if self.layer is None:
            return self._lower(method, functions)
        return self._lower(method, self.layer.transpose(functions), self.layer.offset(functions))

    def _lower(self, method: str, functions: Tensor, constant: Tensor | None = None) -> Tensor:
        """Lower bounds (B, S) of functions (B, S, n) of the last step's output, plus constants (B, S)."""
        if method in ("crown_zero", "alpha_crown"):
            return self._optimised(method, functions, functions.new_zeros(()) if constant is None else constant)
        if method == "ibp":
            found = self.run.regions[self.step].range(functions)[0]
        else:
            lines = self.refined.lines if method == "crown" else interval_lines(self.run)
            found = lower_bounds(self.run, lines, self.step, functions)
        return found if constant is None else found + constant

    def _optimised(self, method: str, functions: Tensor, constant: Tensor) -> Tensor:
        """As `_lower`, by lines that are chosen for each function; without gradient."""
        search = replace(self.search, iterations=0) if method == "crown_zero" else self.search
        with torch.inference_mode(False), torch.no_grad():  # the search takes gradients of its own
            crown = lower_bounds(self.run, self.refined.lines, self.step, functions) + constant
            alpha = AlphaCrown(self.run, self.rough(), self.refined, search)
            return alpha.least(self.step, functions, constant, crown).bounds

    def node(self, name: str) -> NodeBounds:
        """The box of an operation's output, and the network from there on."""
        names = [step.name for step in self.run.steps]
        if name not in names:
            raise UserError(
                f"the network has no operation {name!r}: it has {', '.join(names[1:])}",
                where="bounds=native",
                fix=nearest(name, names[1:]),
            )
        step = names.index(name)
        region = self.run.regions[step]
        centre, radius = region.centre, region.box_radius()
        return NodeBounds(centre - radius, centre + radius, region.clean, partial(resume, self.run, step))

    def pre_activations(self) -> tuple[PreActivation, ...]:
        """The interval bounds of every activation's input."""
        steps, found = self.run.steps, []
        for index, box in self.run.boxes.items():
            op = steps[index].op
            if isinstance(op, Relu | Activation):
                found.append(PreActivation(steps[index].name, *box, kink=isinstance(op, Relu) or op.kink))
        return tuple(found)
