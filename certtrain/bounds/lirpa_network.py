"""A network rewritten in the few operations that auto_LiRPA bounds correctly.

Its release 0.3 is wrong or fails on normalisation before an l2 ball's first layer, on normalisation, grouped or dilated
convolutions and average pooling in patches mode, and on BatchNorm without affine parameters. So the private copy has
only dense convolutions and linear layers, ReLU, sums, differences and flattening. Everything else that is linear
becomes a convolution or a linear layer, or joins the one before it. The copy owns no weights: they are computed from
the network's own parameters at each call, so that gradients reach these and an optimiser's updates are seen.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from certtrain.bounds.batchnorm import batch_statistics
from certtrain.bounds.graph import Graph, runs_unchanged
from certtrain.errors import UserError
from certtrain.models.normalize import Normalize
from certtrain.models.two_logits import TwoLogits

SUPPORTED = (
    "Linear, Conv2d, BatchNorm1d, BatchNorm2d, ReLU, sums and differences of tensors, AvgPool2d, AdaptiveAvgPool2d,"
    " mean over both image dimensions, Flatten, ZeroPad2d, Normalize, Identity, Dropout in eval mode"
)

FUNCTIONAL_LAYERS = {F.avg_pool2d: nn.AvgPool2d, F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d}

# Inputs of each use of a BatchNorm that takes batch statistics, in the order of execution.
CleanInputs = dict[nn.Module, list[Tensor]]
Weights = Callable[[CleanInputs], tuple[Tensor, Tensor]]
ScaleShift = Callable[[CleanInputs], tuple[Tensor, Tensor]]


def unsupported(what: str, fix: str | None = None) -> UserError:
    """The one form in which this engine refuses a network."""
    fix = fix or (
        f"supported: {SUPPORTED}; or use the other engine, bounds=native"
        " (certifier=cascade: with certifier.cascade.stages=[ibp,crown_ibp,crown])"
    )
    return UserError(what, where="bounds=auto_lirpa", fix=fix)


@dataclass(frozen=True)
class Step:
    """One operation of the private network.

    Attributes:
        kind: `input`, `conv`, `linear`, `relu`, `add`, `sub` or `flatten`.
        sources: the steps that its arguments come from.
        shape: of one example after it.
        weights: for `conv` and `linear`: computes weight and bias.
        kernel, stride, padding: for `conv`, (height, width).
        name: path in the network.
    """

    kind: str
    sources: tuple[int, ...]
    shape: tuple[int, ...]
    name: str
    weights: Weights | None = None
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)


class PrivateNetwork(nn.Module):
    """Runs the steps on placeholder weights; auto_LiRPA traces it. The placeholders are buffers `w3`, `b3`."""

    def __init__(self, steps: Sequence[Step], like: Tensor, inputs: CleanInputs) -> None:
        super().__init__()
        self.steps = tuple(steps)
        for index, step in enumerate(steps):
            if step.weights is not None:
                for letter, value in zip("wb", step.weights(inputs)):
                    self.register_buffer(f"{letter}{index}", value.detach().to(like).clone())

    def forward(self, x: Tensor) -> Tensor:
        """(B, *input) to (B, K)."""
        values = [x]
        for index, step in enumerate(self.steps[1:], 1):
            args = [values[source] for source in step.sources]
            if step.kind == "conv":
                weight, bias = getattr(self, f"w{index}"), getattr(self, f"b{index}")
                values.append(F.conv2d(args[0], weight, bias, step.stride, step.padding))
            elif step.kind == "linear":
                values.append(F.linear(args[0], getattr(self, f"w{index}"), getattr(self, f"b{index}")))
            elif step.kind == "relu":
                values.append(F.relu(args[0]))
            elif step.kind == "flatten":
                values.append(torch.flatten(args[0], 1))
            else:
                values.append(args[0] + args[1] if step.kind == "add" else args[0] - args[1])
        return values[-1]


class Conversion:
    """The network's operations as `Step`s.

    Args:
        graph: the traced network.
        shape: of one input example.

    Attributes:
        steps: in the order of execution; step 0 is the private network's input, normalised when `normalize` is set.
        normalize: the first layer, when it is a `Normalize` and nothing else reads the raw input.

    Raises:
        UserError: an operation that is not supported, named by its path in the network.
    """

    def __init__(self, graph: Graph, shape: Sequence[int]) -> None:
        self.graph = graph
        self.normalize: Normalize | None = None
        self.steps = [Step("input", (), tuple(shape), "input")]
        self._where: dict[fx.Node, int] = {graph.input: 0}
        self._values: dict[fx.Node, Any] = {}
        self._uses: dict[nn.Module, int] = {}
        for node, instruction in zip(graph.nodes, graph.instructions):
            if node is graph.input:
                continue
            if not graph.is_abstract(node):
                self._values[node] = instruction.value(graph.network, lambda place: self._size(graph.nodes[place]))
                continue
            if node.op == "call_module":
                source = self._where[node.all_input_nodes[0]]
                self._where[node] = self._layer(node, source, self.graph.network.get_submodule(node.target))
            else:
                self._where[node] = self._call(node)
        last = self.steps[self._where[graph.result]]
        if self._where[graph.result] != len(self.steps) - 1 or len(last.shape) != 1:
            raise unsupported(f"the network's output {last.name} has shape {('B', *last.shape)}, not (B, K)")

    def is_square(self) -> bool:
        """Whether images, kernels, strides and paddings all are: else auto_LiRPA's patches give wrong CROWN bounds."""
        images = [step for step in self.steps if len(step.shape) == 3]
        return all(
            step.shape[1] == step.shape[2]
            and len(set(step.kernel)) == len(set(step.stride)) == len(set(step.padding)) == 1
            for step in images
        )

    def first_layers(self) -> set[int]:
        """The steps that read the input itself, flattened or not."""
        flat = {index for index, step in enumerate(self.steps) if step.kind == "flatten" and step.sources == (0,)}
        return {index for index, step in enumerate(self.steps) if {0, *flat} & set(step.sources) and index not in flat}

    def _size(self, node: fx.Node) -> Any:
        """A node's value, for a batch of two without data: sizes are all that depends on the input here."""
        if node in self._where:
            return torch.empty(2, *self.steps[self._where[node]].shape, device="meta")
        return self._values[node]

    def _only_reader(self, node: fx.Node, source: int) -> bool:
        """Whether nothing but the node reads the step, under any of the step's names."""
        names = {other for other, where in self._where.items() if where == source}
        return {reader for name in names for reader in name.users} - names == {node}

    def _add(self, kind: str, sources: Sequence[int], shape: Sequence[int], name: str, **options: Any) -> int:
        self.steps.append(Step(kind, tuple(sources), tuple(shape), name, **options))
        return len(self.steps) - 1

    def _layer(self, node: fx.Node, source: int, layer: nn.Module) -> int:
        name, shape = self.graph.names[node], self.steps[source].shape
        kind = type(layer)  # exactly these classes: a subclass may compute something else
        if not runs_unchanged(layer):
            raise unsupported(f"{name} ({kind.__name__}) has a forward of its own or forward hooks")
        if kind in (nn.Identity, nn.Dropout, nn.Dropout2d):
            if kind is not nn.Identity and layer.training and layer.p > 0:
                raise unsupported(f"{name} ({kind.__name__}) is in training mode")
            return source
        if kind is nn.ReLU:
            return self._relu(source, name)
        if kind is nn.Flatten and layer.start_dim == 1 and layer.end_dim in (-1, len(shape)):
            return self._flatten(source, name)
        if kind in (nn.Linear, TwoLogits) and len(shape) == 1:
            return self._add("linear", [source], [len(layer.weight)], name, weights=lambda _: _with_bias(layer))
        if kind is nn.Conv2d:
            return self._conv(source, layer, name)
        if kind in (nn.BatchNorm1d, nn.BatchNorm2d):
            return self._batch_norm(node, source, layer, name)
        if kind is Normalize:
            if source == 0 and self._only_reader(node, source):
                self.normalize = layer
                return 0
            mean, std = (values.flatten().expand(shape[0]) for values in (layer.mean, layer.std))
            return self._scale_shift(node, source, name, lambda _: (1 / std, -mean / std))
        if kind is nn.AvgPool2d and layer.divisor_override is None:
            stride = _pair(layer.stride if layer.stride is not None else layer.kernel_size)
            window = _pair(layer.kernel_size), stride, _pair(layer.padding)
            return self._pool(source, name, *window, layer.ceil_mode, layer.count_include_pad)
        if kind is nn.AdaptiveAvgPool2d:
            return self._adaptive_pool(source, name, layer.output_size)
        if kind in (nn.ZeroPad2d, nn.ConstantPad2d) and layer.value == 0 and min(layer.padding) >= 0:
            return self._pad(source, name, layer.padding)
        raise unsupported(f"{name} ({kind.__name__}: {layer.extra_repr()}) is not supported on {('B', *shape)}")

    def _call(self, node: fx.Node) -> int:
        name, call = self.graph.names[node], node.target
        operands = [self._where.get(parent) for parent in node.args if isinstance(parent, fx.Node)]
        plain = not node.kwargs or set(node.kwargs) <= {"inplace"}
        if call in (operator.add, operator.iadd, torch.add, "add", "add_"):
            kind = "add"
        elif call in (operator.sub, operator.isub, torch.sub, "sub", "sub_"):
            kind = "sub"
        else:
            kind = ""
        if kind and plain and len(node.args) == len(operands) == 2 and None not in operands:
            left, right = (self.steps[source].shape for source in operands)
            if left == right:
                return self._add(kind, operands, left, name)
        elif operands and operands[0] is not None and operands.count(None) == len(operands) - 1:
            source, shape = operands[0], self.steps[operands[0]].shape
            if call in (F.relu, torch.relu, torch.relu_, "relu", "relu_") and plain:
                return self._relu(source, name)
            if call in (torch.flatten, torch.reshape, "flatten", "reshape", "view", torch.mean, "mean"):
                args, kwargs = fx.map_arg((node.args[1:], node.kwargs), lambda parent: self._values[parent])
                like = torch.empty(2, *shape, device="meta")
                out = getattr(like, call if isinstance(call, str) else call.__name__)(*args, **kwargs)
                if call in (torch.mean, "mean"):
                    if len(shape) == 3 and out.shape in ((2, shape[0]), (2, shape[0], 1, 1)):
                        pooled = self._adaptive_pool(source, name, 1)
                        return pooled if out.dim() == 4 else self._flatten(pooled, name)
                elif out.shape == like.shape:
                    return source
                elif out.shape == like.flatten(1).shape:
                    return self._flatten(source, name)
                raise unsupported(f"{name} makes {('B', *out.shape[1:])} of {('B', *shape)}")
            if call in FUNCTIONAL_LAYERS:
                args, kwargs = fx.map_arg((node.args[1:], node.kwargs), lambda parent: self._values[parent])
                return self._layer(node, source, FUNCTIONAL_LAYERS[call](*args, **kwargs))
        what = call if isinstance(call, str) else getattr(call, "__name__", repr(call))
        raise unsupported(f"{name} ({what}) is not supported with these arguments" if kind else f"{name} ({what})")

    def _relu(self, source: int, name: str) -> int:
        for index, step in enumerate(self.steps):  # auto_LiRPA's graph merges equal operations: so do we, by intent
            if step.kind == "relu" and step.sources == (source,):
                return index
        return self._add("relu", [source], self.steps[source].shape, name)

    def _flatten(self, source: int, name: str) -> int:
        shape = self.steps[source].shape
        return source if len(shape) == 1 else self._add("flatten", [source], [_product(shape)], name)

    def _conv(self, source: int, layer: nn.Conv2d, name: str) -> int:
        if layer.padding_mode != "zeros":
            raise unsupported(f"{name} (Conv2d) pads by {layer.padding_mode!r}")
        reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size)]
        padding = [0, 0] if layer.padding == "valid" else layer.padding
        front = [0, 0]
        if padding == "same":  # torch puts the odd one at the end; auto_LiRPA wants as much at the front
            padding = [r - r // 2 for r in reach]
            front = [r % 2 for r in reach]

        def weights(_: CleanInputs) -> tuple[Tensor, Tensor]:
            weight, bias = _with_bias(layer)
            dense = _dense(weight, layer.groups, layer.dilation)
            return F.pad(dense, (front[1], 0, front[0], 0)), bias

        kernel = [r + 1 + f for r, f in zip(reach, front)]
        return self._add_conv(source, name, layer.out_channels, kernel, layer.stride, padding, weights)

    def _add_conv(
        self,
        source: int,
        name: str,
        channels: int,
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        weights: Weights,
    ) -> int:
        sizes = self.steps[source].shape[1:]
        out = [(n + 2 * p - k) // s + 1 for n, p, k, s in zip(sizes, padding, kernel, stride)]
        window = {"kernel": tuple(kernel), "stride": tuple(stride), "padding": tuple(padding)}
        return self._add("conv", [source], [channels, *out], name, weights=weights, **window)

    def _diagonal(self, source: int, name: str, kernel: Tensor, stride: Sequence[int], padding: Sequence[int]) -> int:
        """The same kernel (h, w) on every channel by itself."""
        channels = self.steps[source].shape[0]
        eye = torch.eye(channels, dtype=torch.float64)[:, :, None, None]

        def weights(_: CleanInputs) -> tuple[Tensor, Tensor]:
            return eye * kernel, torch.zeros(channels)

        return self._add_conv(source, name, channels, kernel.shape, stride, padding, weights)

    def _pool(
        self,
        source: int,
        name: str,
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        ceil_mode: bool,
        count_include_pad: bool,
    ) -> int:
        sizes = self.steps[source].shape[1:]
        ragged = any((n + 2 * p - k) % s for n, p, k, s in zip(sizes, padding, kernel, stride))
        if (ceil_mode and ragged) or (any(padding) and not count_include_pad):
            raise unsupported(f"{name} (average pooling) divides by less at the border", "ceil_mode=False, no padding")
        mean = torch.full(tuple(kernel), 1 / _product(kernel), dtype=torch.float64)
        return self._diagonal(source, name, mean, stride, padding)

    def _adaptive_pool(self, source: int, name: str, size: Any) -> int:
        shape = self.steps[source].shape
        wanted = [now if out is None else out for out, now in zip(_pair(size), shape[-2:])]
        if any(now % out for out, now in zip(wanted, shape[-2:])):
            raise unsupported(f"{name} pools {shape[-2:]} to {tuple(wanted)}", "output sizes that divide the input's")
        kernel = [now // out for out, now in zip(wanted, shape[-2:])]
        return self._pool(source, name, kernel, kernel, (0, 0), False, True)

    def _pad(self, source: int, name: str, amounts: Sequence[int]) -> int:
        left, right, top, bottom = amounts
        # auto_LiRPA pads both ends alike: a kernel with a single 1 moves the image to where it belongs.
        kernel = torch.zeros(1 + abs(top - bottom), 1 + abs(left - right), dtype=torch.float64)
        padding = max(top, bottom), max(left, right)
        kernel[padding[0] - top, padding[1] - left] = 1
        return self._diagonal(source, name, kernel, (1, 1), padding)

    def _batch_norm(self, node: fx.Node, source: int, layer: nn.BatchNorm1d | nn.BatchNorm2d, name: str) -> int:
        if layer.running_mean is None and not layer.training:
            raise unsupported(f"{name} ({type(layer).__name__}) has no running statistics in eval mode")
        if len(self.steps[source].shape) != (1 if isinstance(layer, nn.BatchNorm1d) else 3):
            raise unsupported(f"{name} ({type(layer).__name__}) on {('B', *self.steps[source].shape)}")
        use = self._uses[layer] = self._uses.get(layer, -1) + 1

        def scale_shift(inputs: CleanInputs) -> tuple[Tensor, Tensor]:
            if layer.training:
                clean = inputs[layer][use]
                mean, var, _ = batch_statistics(clean)
            else:
                mean, var = layer.running_mean, layer.running_var
            scale = (var + layer.eps).rsqrt()
            scale = scale if layer.weight is None else scale * layer.weight
            return scale, (-mean * scale if layer.bias is None else layer.bias - mean * scale)

        return self._scale_shift(node, source, name, scale_shift)

    def _scale_shift(self, node: fx.Node, source: int, name: str, scale_shift: ScaleShift) -> int:
        """`scale * z + shift` per channel or feature: into the layer before, where nothing else reads that one."""
        step = self.steps[source]
        before = step.weights
        if before is not None and self._only_reader(node, source):

            def joined(inputs: CleanInputs) -> tuple[Tensor, Tensor]:
                (weight, bias), (scale, shift) = before(inputs), scale_shift(inputs)
                return weight * scale.reshape(-1, *([1] * (weight.dim() - 1))), bias * scale + shift

            self.steps[source] = replace(step, weights=joined)
            return source

        def diagonal(inputs: CleanInputs) -> tuple[Tensor, Tensor]:
            scale, shift = scale_shift(inputs)
            weight = torch.diag(scale)
            return (weight if len(step.shape) == 1 else weight[:, :, None, None]), shift

        if len(step.shape) == 1:
            return self._add("linear", [source], step.shape, name, weights=diagonal)
        return self._add_conv(source, name, step.shape[0], (1, 1), (1, 1), (0, 0), diagonal)


def _with_bias(layer: nn.Linear | nn.Conv2d) -> tuple[Tensor, Tensor]:
    bias = layer.bias if layer.bias is not None else layer.weight.new_zeros(len(layer.weight))
    return layer.weight, bias


def _dense(weight: Tensor, groups: int, dilation: Sequence[int]) -> Tensor:
    """A grouped, dilated kernel as one with zeros in it."""
    if groups > 1:
        out, per_group = weight.shape[:2]
        rows = torch.arange(out, device=weight.device)
        blocks = weight.new_zeros(out, groups, *weight.shape[1:])
        blocks = blocks.index_put((rows, rows // (out // groups)), weight)
        weight = blocks.reshape(out, groups * per_group, *weight.shape[2:])
    if max(dilation) > 1:
        height, width = ((k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilation))
        spread = weight.new_zeros(*weight.shape[:2], height, width)
        spread[:, :, :: dilation[0], :: dilation[1]] = weight
        weight = spread
    return weight


def _pair(value: Any) -> tuple[Any, Any]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)  # type: ignore[return-value]


def _product(sizes: Sequence[int]) -> int:
    product = 1
    for size in sizes:
        product *= size
    return product
