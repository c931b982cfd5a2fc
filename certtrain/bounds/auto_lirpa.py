"""The field's library auto_LiRPA (Xu et al. 2020, arXiv 2002.12920) as a bound engine: a cross-check."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from certtrain.bounds import lirpa_compat
from certtrain.bounds.base import (
    Bounds,
    Features,
    FusedLoss,
    PreActivation,
    Split,
    margin_matrix,
    no_bounds_inside,
    unsupported_set,
)
from certtrain.bounds.graph import Graph
from certtrain.bounds.lirpa_network import CleanInputs, Conversion, PrivateNetwork, unsupported
from certtrain.bounds.loss_fusion import fused_upper_bound
from certtrain.errors import UserError, nearest
from certtrain.threat import Box, L2Ball, Threat

ALPHA_ITERATIONS = 20  # the library's default
CACHED_SHAPES = 8

BOUND_OPTIONS = {
    "relu": "adaptive",  # lower slope 1 where u > |l|, else 0
    "sparse_features_alpha": False,
    "optimize_bound_args": {
        "iteration": ALPHA_ITERATIONS,
        "early_stop_patience": ALPHA_ITERATIONS,  # stopping early would depend on the rest of the batch, and prints
    },
}


class AutoLirpaEngine:
    """Bounds of a network's margins by auto_LiRPA, over l-inf and l2 balls.

    The library sees a private copy of the network in operations that it bounds correctly (see `lirpa_network`), with
    weights computed from the network's own at each call: gradients reach the network's parameters, and updates are seen
    at the next call. The network itself is not changed; the copy is built once per input shape, dtype, device and
    training mode, and keeps nothing of a batch.

    `crown` and `alpha_crown` intersect the bounds of intermediate neurons with the interval ones, as `native` does.
    `alpha_crown` optimises the lower slopes for the margins (Xu et al. 2021, arXiv 2011.13824) and leaves the
    intermediate bounds at CROWN's, whose slopes would need memory times the unstable neurons; its margins carry no
    gradient. For images or kernels that are not square CROWN's bounds take a slow way (`Conversion.is_square`).

    Not for several threads at once: the library takes its dtype from torch's global default, which is set meanwhile.

    Args:
        network: (B, ...) inputs to (B, K) logits; kept by weak reference.

    Raises:
        UserError: auto_LiRPA is not installed, or the network cannot be traced.
    """

    name = "auto_lirpa"
    methods: tuple[str, ...] = ("ibp", "crown_ibp", "crown", "alpha_crown")

    def __init__(self, network: nn.Module) -> None:
        lirpa_compat.load()
        self.version = lirpa_compat.version()
        self._graph = Graph(network)
        self._copies: dict[tuple[Any, ...], _Copy] = {}

    def bounds(
        self,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        methods: tuple[str, ...] = ("ibp", "crown_ibp"),
        at: tuple[str, ...] = (),
        closest: int | None = None,
    ) -> Bounds:
        """Lower bounds of the margins of class y over the threat model around x, all of them; see `BoundEngine.bounds`.

        One interval pass serves all methods. In training mode BatchNorm takes its statistics from the clean
        activations and updates its running ones once.

        Raises:
            UserError: an unknown method, an operation that auto_LiRPA cannot bound, by its path in the network, or
                bounds inside the network are asked for.
        """
        if at:
            self.splits()
        for method in methods:
            self._check(method)
        with self._interval_pass(x, y, threat) as run:
            margins = {"ibp": run.lower, **run.backward(run.functions, methods)}
            return Bounds(run.clean, {method: margins[method] for method in methods}, run.pre_activations())

    def splits(self) -> tuple[Split, ...]:
        """None; see `BoundEngine.splits`.

        Raises:
            UserError: always.
        """
        raise no_bounds_inside("bounds=auto_lirpa")

    def features(self) -> Features:
        """None; see `BoundEngine.features`.

        Raises:
            UserError: always.
        """
        raise no_bounds_inside("bounds=auto_lirpa")

    def fused_loss(self, x: Tensor, y: Tensor, threat: Threat, method: str = "crown_ibp") -> FusedLoss:
        """Upper bounds of the cross-entropy over the threat model around x; see `BoundEngine.fused_loss`.

        The library bounds the margins' intervals and the one linear function; the chords are `loss_fusion`'s. (Its own
        bounds of exp would be over intervals of the margins that do not know that both terms share the last layer.)
        With `alpha_crown` the loss carries no gradient.

        Raises:
            UserError: as `bounds`.
        """
        self._check(method)
        with self._interval_pass(x, y, threat) as run:
            loss = fused_upper_bound(run.lower, run.upper, lambda weights: run.least(weights @ run.functions, method))
            loss = loss.detach() if method == "alpha_crown" else loss
            return FusedLoss(run.clean, {"ibp": run.lower}, run.pre_activations(), loss)

    def _check(self, method: str) -> None:
        if method not in self.methods:
            raise UserError(
                f"the auto_lirpa engine has no method {method!r}",
                where="bounds=auto_lirpa",
                fix=nearest(method, self.methods),
            )

    @contextlib.contextmanager
    def _interval_pass(self, x: Tensor, y: Tensor, threat: Threat) -> Iterator[_Run]:
        own = (_ordinary_tensors(), torch.autocast(x.device.type, enabled=False), _default_dtype(x.dtype))
        with own[0], own[1], own[2], lirpa_compat.deep_recursion():
            x = x.clone() if x.is_inference() else x
            clean, inputs = self._clean(x)
            copy, found = self._copy(x, inputs), threat.region(x.detach())
            if not isinstance(found, (Box, L2Ball)):
                raise unsupported_set(threat, self.name)
            boxed = isinstance(found, Box)
            with copy.loaded(inputs, boxed, clean, x):
                functions = margin_matrix(y, clean.shape[1], clean.dtype)
                perturbed = copy.perturbed(found)
                lower, upper = copy.bounded.compute_bounds(x=(perturbed,), C=functions, method=None, IBP=True)
                boxes = [relu.inputs[0].interval for relu in copy.bounded.relus]
                reload = functools.partial(copy.load, inputs, boxed, detach=True)
                yield _Run(copy, clean, functions, perturbed, lower, upper, boxes, reload)

    def _clean(self, x: Tensor) -> tuple[Tensor, CleanInputs]:
        """The network's own logits, and what its BatchNorms in training mode saw on the way."""
        inputs: CleanInputs = {}
        handles = []
        for module in self._graph.network.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) and module.training:
                inputs[module] = []
                handles.append(module.register_forward_pre_hook(lambda m, args: inputs[m].append(args[0])))
        try:
            return self._graph.network(x), inputs
        finally:
            for handle in handles:
                handle.remove()

    def _copy(self, x: Tensor, inputs: CleanInputs) -> _Copy:
        training = tuple(module.training for module in self._graph.network.modules())
        key = (x.shape[1:], x.dtype, x.device, training)
        if key not in self._copies:
            while len(self._copies) >= CACHED_SHAPES:
                del self._copies[next(iter(self._copies))]
            with _disable_current_modes():  # under which torch's trace of the copy is another one
                self._copies[key] = _Copy(Conversion(self._graph, x.shape[1:]), x, inputs)
        return self._copies[key]


@dataclass(frozen=True)
class _Run:
    """An interval pass of the private copy, which is still loaded and remembers it.

    Attributes:
        copy: the private copy.
        clean: (B, K) the network's logits.
        functions: (B, K-1, K) the margins as functions of the logits.
        perturbed: the perturbed input, for auto_LiRPA.
        lower: (B, K-1) interval bounds of the margins; upper: likewise.
        boxes: lower and upper bounds of every ReLU's input.
        reload: loads the weights again, detached.
    """

    copy: _Copy
    clean: Tensor
    functions: Tensor
    perturbed: Tensor
    lower: Tensor
    upper: Tensor
    boxes: list[tuple[Tensor, Tensor]]
    reload: Callable[[], None]

    def least(self, functions: Tensor, method: str) -> Tensor:
        """Lower bounds (B, S) of functions (B, S, K) of the logits. To be called once: it uses up the pass."""
        if method != "ibp":
            return self.backward(functions, (method,))[method]
        return self.copy.bounded.compute_bounds(x=(self.perturbed,), C=functions, method=None, IBP=True)[0]

    def backward(self, functions: Tensor, methods: tuple[str, ...]) -> dict[str, Tensor]:
        """Lower bounds of functions (B, S, K) by those of the methods that go backward (and perhaps by `crown`)."""
        bounded, margins = self.copy.bounded, {}
        by_name = {relu.inputs[0].name: box for relu, box in zip(bounded.relus, self.boxes)}
        if "crown_ibp" in methods:  # before the interval pass is forgotten
            margins["crown_ibp"] = _backward(bounded, functions)
        if {"crown", "alpha_crown"} & set(methods):
            margins["crown"] = _backward(bounded, functions, self.perturbed, by_name)
        if "alpha_crown" in methods and not self.boxes:  # no slope to choose
            margins["alpha_crown"] = margins["crown"].detach()
        elif "alpha_crown" in methods:
            refined = {name: (bounded[name].lower.detach(), bounded[name].upper.detach()) for name in by_name}
            self.reload()
            margins["alpha_crown"] = _optimised(bounded, functions.detach(), self.perturbed, refined)
        return margins

    def pre_activations(self) -> tuple[PreActivation, ...]:
        """The interval bounds of every ReLU's input."""
        return tuple(PreActivation(name, *box) for name, box in zip(self.copy.relu_names, self.boxes, strict=True))


class _Copy:
    """The private copy of the network, and auto_LiRPA's graph of it."""

    def __init__(self, conversion: Conversion, x: Tensor, inputs: CleanInputs) -> None:
        self.steps, self.normalize = conversion.steps, conversion.normalize
        self.first_layers = conversion.first_layers()
        self.relu_names = [step.name for step in self.steps if step.kind == "relu"]
        self.checked = False
        private = PrivateNetwork(self.steps, x, inputs).eval()
        # Two examples: the library takes a dimension of size one for one to broadcast.
        like = torch.zeros(2, *x.shape[1:], dtype=x.dtype, device=x.device)
        options = BOUND_OPTIONS | {"conv_mode": "patches" if conversion.is_square() else "matrix"}
        with torch.no_grad(), contextlib.redirect_stdout(None):
            self.bounded = lirpa_compat.bounded_module_class()(private, like, options)
        self.bounded.eval()
        if len(self.bounded.relus) != len(self.relu_names):
            raise RuntimeError("auto_LiRPA's graph has other ReLUs than the network")
        self._slots = {
            node.ori_name: node for node in self.bounded._modules.values() if "buffer" in getattr(node, "_buffers", {})
        }
        self._fresh = [(module, dict(vars(module))) for module in (self.bounded, *self.bounded._modules.values())]
        self._placeholders = {name: node.buffer for name, node in self._slots.items()}

    @contextlib.contextmanager
    def loaded(self, inputs: CleanInputs, boxed: bool, clean: Tensor, x: Tensor) -> Iterator[None]:
        """With the network's present weights; afterwards as if never used."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the size of matrices, which we asked for
            try:
                self.load(inputs, boxed)
                if not self.checked:
                    self._check(clean, x, boxed)
                    self.checked = True
                yield
            finally:
                for module, fresh in self._fresh:
                    vars(module).clear()
                    vars(module).update(fresh)
                for name, node in self._slots.items():
                    node.buffer = self._placeholders[name]

    def load(self, inputs: CleanInputs, boxed: bool, detach: bool = False) -> None:
        """Compute every weight from the network's parameters and buffers."""
        std = None if boxed else self.uneven_std()
        for index, step in enumerate(self.steps):
            if index in self.first_layers and not boxed and step.weights is None:
                raise unsupported(
                    f"{step.name} ({step.kind}) reads the input itself, whose l2 ball is no interval",
                    "a Conv2d or Linear first, norm=linf, or bounds=native",
                )
            if step.weights is None:
                continue
            weight, bias = step.weights(inputs)
            if std is not None and index in self.first_layers:
                # W ((x - mean) / std) = (W / std) (x - mean): the ball stays a ball, zeros of the padding stay zeros.
                weight = weight / (std.expand(self.steps[0].shape).flatten() if weight.dim() == 2 else std)
            for letter, value in zip("wb", (weight, bias)):
                name = f"{letter}{index}"
                value = value.to(self._placeholders[name])
                # A view, because the library's nodes would register a Parameter as their own.
                self._slots[name].buffer = value.detach() if detach else value.view_as(value)

    def uneven_std(self) -> Tensor | None:
        """The normalisation's standard deviations when they differ between channels or features."""
        if self.normalize is None or bool((self.normalize.std == self.normalize.std.flatten()[0]).all()):
            return None
        return self.normalize.std

    def normalized(self, x: Tensor, boxed: bool) -> tuple[Tensor, Tensor | float]:
        """Where x is in the coordinates of the private network, and the factor that radii are divided by."""
        if self.normalize is None:
            return x, 1.0
        if boxed:
            return (x - self.normalize.mean) / self.normalize.std, 1.0
        if self.uneven_std() is not None:
            return x - self.normalize.mean, 1.0
        std = self.normalize.std.flatten()[0]
        return (x - self.normalize.mean) / std, std

    def perturbed(self, found: Box | L2Ball) -> Tensor:
        """x with its perturbation, for auto_LiRPA."""
        from auto_LiRPA import BoundedTensor, PerturbationLpNorm

        # Under a dispatch mode, such as one that counts memory, torch makes no subclass of a tensor of ours.
        def bounded(centre: Tensor, perturbation: Any) -> Tensor:
            with _disable_current_modes():
                return BoundedTensor(centre, perturbation)

        boxed = isinstance(found, Box)
        centre, scale = self.normalized(found.x, boxed)
        if isinstance(found, Box):
            lower, upper = (self.normalized(corner, boxed)[0] for corner in (found.lower, found.upper))
            return bounded(centre, PerturbationLpNorm(norm=float("inf"), x_L=lower, x_U=upper))
        # (B, 1) broadcasts rightly wherever the library multiplies an l2 radius, which it takes for a number.
        eps = (found.eps.reshape(-1, 1) / scale).expand(len(found.x), 1)
        return bounded(centre, PerturbationLpNorm(norm=2, eps=eps))

    def _check(self, clean: Tensor, x: Tensor, boxed: bool) -> None:
        """The private network must compute what the network does."""
        with torch.no_grad():
            ours = self.bounded(self.normalized(x.detach(), boxed)[0])
        scale = clean.detach().abs().max()
        tolerance = 1e-3 if clean.dtype == torch.float32 else 1e-8
        if torch.isfinite(scale) and not (ours - clean).abs().max() <= tolerance * scale.clamp_min(1e-6):
            raise unsupported("the network's logits are not those of the operations that torch.fx saw in it")


def _backward(bounded: Any, functions: Tensor, perturbed: Tensor | None = None, boxes: Any = None) -> Tensor:
    """CROWN through the intermediate bounds at hand, or, when `perturbed` is given, through CROWN's own within boxes.

    `reference_bounds` are intersected with; `aux_reference_bounds` say which neurons are unstable and need bounds.
    """
    x = None if perturbed is None else (perturbed,)
    given = {"reference_bounds": boxes, "aux_reference_bounds": boxes}
    lower, _ = bounded.compute_bounds(x=x, C=functions, method="backward", IBP=False, bound_upper=False, **given)
    return lower


def _optimised(bounded: Any, functions: Tensor, perturbed: Tensor, boxes: dict[str, Any]) -> Tensor:
    with torch.enable_grad(), contextlib.redirect_stdout(None):
        lower, _ = bounded.compute_bounds(
            x=(perturbed,), C=functions, method="alpha-crown", bound_upper=False, intermediate_layer_bounds=boxes
        )
    return lower.detach()


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def _ordinary_tensors() -> Iterator[None]:
    """Out of inference mode, under which nothing can be optimised."""
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():
        yield
