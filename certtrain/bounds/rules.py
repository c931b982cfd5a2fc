"""The registry: which calls the native engine understands, and the operation each one is.

A builder looks at one live call and returns an `Operation`. Most are affine; a sum of two tensors is `Sum`, tensors
that are joined are a `Concat`, and the nonlinearities are `Relu` and those of `nonlinear`. The same object serves the
interval pass and the backward pass, so that both see the same weights and the same batch statistics.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from certtrain.bounds.activations import Elu, Gelu, LeakyRelu, Sigmoid, Silu, Softplus, Tanh, TanhGelu
from certtrain.bounds.affine import (
    Affine,
    AvgPool,
    ConvMap,
    LinearMap,
    Mean,
    Pad,
    Reshape,
    ScaleShift,
    TransposedConvMap,
)
from certtrain.bounds.batchnorm import batch_norm
from certtrain.bounds.graph import IN_PLACE_OPERATORS, Call, runs_unchanged, unsupported
from certtrain.bounds.interval import Region
from certtrain.bounds.nonlinear import Nonlinear
from certtrain.bounds.pooling import MaxPool
from certtrain.models.normalize import Normalize
from certtrain.models.two_logits import TwoLogits


@dataclass(frozen=True)
class Relu:
    """max(z, 0)."""


@dataclass(frozen=True)
class Sum:
    """The sum (sign 1) or difference (-1) of two tensors that depend on the input."""

    sign: int


@dataclass(frozen=True)
class Concat:
    """Tensors that depend on the input, joined along a dimension; `sizes` are theirs there."""

    dim: int
    sizes: tuple[int, ...]


Operation = Affine | Relu | Nonlinear | Sum | Concat
Builder = Callable[[Call], Operation]

# What is met often and has no rule for a reason, by module and by function.
_STATISTICS = (
    "it divides by a deviation of the very input that is perturbed; BatchNorm in eval mode has frozen statistics"
)
_SELU = "its slope falls at 0, where it is not convex; ELU with alpha <= 1 and CELU have bounds"
_SLOPES = "its learned slope may leave [0, 1), where its lines are sound; LeakyReLU has a fixed one"
REFUSED: dict[object, str] = {
    **dict.fromkeys((nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.RMSNorm), _STATISTICS),
    **dict.fromkeys((F.layer_norm, F.group_norm, F.instance_norm, F.rms_norm), _STATISTICS),
    **dict.fromkeys((torch.layer_norm, torch.group_norm, torch.rms_norm), _STATISTICS),
    **dict.fromkeys((nn.SELU, F.selu, torch.selu), _SELU),
    **dict.fromkeys((nn.PReLU, F.prelu, torch.prelu), _SLOPES),
}

MODULES: dict[type[nn.Module], Builder] = {}
FUNCTIONS: dict[object, Builder] = {}  # functions, and methods by name


def _rule(*keys: Any) -> Callable[[Builder], Builder]:
    def register(builder: Builder) -> Builder:
        for key in keys:
            (MODULES if isinstance(key, type) else FUNCTIONS)[key] = builder
        return builder

    return register


def supported() -> tuple[str, ...]:
    """The names of all operations with a rule."""
    functions = {key if isinstance(key, str) else key.__name__ for key in FUNCTIONS}  # type: ignore[attr-defined]
    plain = {name for name in functions if not name.endswith("_") and name not in IN_PLACE_OPERATORS}
    return tuple(sorted(cls.__name__ for cls in MODULES)) + tuple(sorted(plain))


def check(name: str, key: object, module: nn.Module | None) -> Builder:
    """The builder for a call, by the module's class or by the function.

    Raises:
        UserError: there is none, or the module overrides its class's forward or carries hooks.
    """
    if module is None:
        builder = FUNCTIONS.get(key)
        what = key if isinstance(key, str) else getattr(key, "__name__", repr(key))
    else:
        # Exactly these classes: a subclass may compute something else. torch itself derives a parametrised layer's.
        base = type(module).__bases__[0] if is_parametrized(module) else type(module)
        builder, what = MODULES.get(base), base.__name__
        if builder is not None and not runs_unchanged(module):
            raise unsupported(f"{name} ({what}) has a forward of its own or forward hooks", ", ".join(supported()))
    if builder is None:
        reason = REFUSED.get(key if module is None else base)
        raise unsupported(f"{name} ({what}) has no bound" + (f": {reason}" if reason else ""), ", ".join(supported()))
    return builder


def _region(call: Call, position: int = 0) -> Region:
    return call.args[position] if call.args else call.kwargs["input"]


@_rule(nn.Linear, TwoLogits)
def _linear(call: Call) -> Operation:
    return LinearMap(call.module)  # type: ignore[arg-type]


@_rule(nn.Conv2d)
def _conv(call: Call) -> Operation:
    layer = call.module
    assert isinstance(layer, nn.Conv2d)
    if layer.padding_mode != "zeros":
        raise unsupported(f"{call.name} (Conv2d) pads by {layer.padding_mode!r}", "padding_mode='zeros'")
    return ConvMap(layer, _region(call).example_shape)


@_rule(nn.ConvTranspose2d)
def _conv_transpose(call: Call) -> Operation:
    if call.kwargs.get("output_size") is not None or len(call.args) > 1:
        raise unsupported(f"{call.name} (ConvTranspose2d) is given an output_size", "output_padding of the layer")
    return TransposedConvMap(call.module, _region(call).example_shape)  # type: ignore[arg-type]


@_rule(nn.BatchNorm1d, nn.BatchNorm2d)
def _batch_norm(call: Call) -> Operation:
    return batch_norm(call.name, call.module, _region(call).clean)  # type: ignore[arg-type]


@_rule(Normalize)
def _normalize(call: Call) -> Operation:
    layer = call.module
    assert isinstance(layer, Normalize)
    return ScaleShift(_region(call).example_shape, 1 / layer.std, -layer.mean / layer.std)


@_rule(nn.Identity)
def _identity(call: Call) -> Operation:
    return ScaleShift(_region(call).example_shape)


@_rule(nn.Dropout, nn.Dropout2d)
def _dropout(call: Call) -> Operation:
    layer = call.module
    assert isinstance(layer, (nn.Dropout, nn.Dropout2d))
    if layer.training and layer.p > 0:
        raise unsupported(f"{call.name} ({type(layer).__name__}) is in training mode", "dropout in eval mode")
    return ScaleShift(_region(call).example_shape)


@_rule(nn.ReLU, F.relu, torch.relu, torch.relu_, "relu", "relu_")
def _relu(call: Call) -> Operation:
    return Relu()


@_rule(nn.LeakyReLU, F.leaky_relu)
def _leaky_relu(call: Call) -> Operation:
    layer = call.module
    alpha = layer.negative_slope if isinstance(layer, nn.LeakyReLU) else call.argument(1, "negative_slope", 0.01)
    if isinstance(alpha, Tensor) or not 0 <= alpha < 1:
        raise unsupported(f"{call.name} has the negative slope {alpha}", "a number of [0, 1)")
    return LeakyRelu(float(alpha))


@_rule(nn.Sigmoid, torch.sigmoid, torch.sigmoid_, "sigmoid", "sigmoid_")
def _sigmoid(call: Call) -> Operation:
    return Sigmoid()


@_rule(nn.Tanh, torch.tanh, torch.tanh_, "tanh", "tanh_")
def _tanh(call: Call) -> Operation:
    return Tanh()


@_rule(nn.GELU, F.gelu)
def _gelu(call: Call) -> Operation:
    layer = call.module
    approximate = layer.approximate if isinstance(layer, nn.GELU) else call.argument(1, "approximate", "none")
    return TanhGelu() if approximate == "tanh" else Gelu()


@_rule(nn.SiLU, F.silu)
def _silu(call: Call) -> Operation:
    return Silu()


@_rule(nn.ELU, F.elu)
def _elu(call: Call) -> Operation:
    layer = call.module
    alpha = layer.alpha if isinstance(layer, nn.ELU) else call.argument(1, "alpha", 1.0)
    if isinstance(alpha, Tensor) or not 0 < alpha <= 1:
        raise unsupported(f"{call.name} has alpha {alpha}: its slope falls at 0", "alpha of (0, 1]")
    return Elu(float(alpha), 1.0)


@_rule(nn.CELU, F.celu, torch.celu)
def _celu(call: Call) -> Operation:
    layer = call.module
    alpha = layer.alpha if isinstance(layer, nn.CELU) else call.argument(1, "alpha", 1.0)
    if isinstance(alpha, Tensor) or not 0 < alpha < float("inf"):
        raise unsupported(f"{call.name} has alpha {alpha}", "a number alpha > 0")
    return Elu(float(alpha), 1 / float(alpha))


@_rule(nn.Softplus, F.softplus)
def _softplus(call: Call) -> Operation:
    layer = call.module
    if isinstance(layer, nn.Softplus):
        beta, threshold = layer.beta, layer.threshold
    else:
        beta, threshold = call.argument(1, "beta", 1), call.argument(2, "threshold", 20)
    if isinstance(beta, Tensor) or not 0 < beta < float("inf") or not -500 < threshold < 500:
        raise unsupported(f"{call.name} has beta {beta} and threshold {threshold}", "beta > 0 and |threshold| < 500")
    return Softplus(float(beta), float(threshold))


@_rule(operator.add, operator.iadd, torch.add, "add", "add_")
def _add(call: Call) -> Operation:
    return _sum(call, 1)


@_rule(operator.sub, operator.isub, torch.sub, "sub", "sub_")
def _sub(call: Call) -> Operation:
    return _sum(call, -1)


def _sum(call: Call, sign: int) -> Operation:
    left, right = call.argument(0, "input"), call.argument(1, "other")
    if call.kwargs.get("alpha", 1) != 1 or call.kwargs.get("out") is not None or len(call.args) > 2:
        # torch still takes the old `add(left, alpha, right)`.
        raise unsupported(f"{call.name} has alpha or out", "plain sums and differences")
    if isinstance(left, Region) and isinstance(right, Region):
        if left.example_shape != right.example_shape:
            raise unsupported(
                f"{call.name} broadcasts {tuple(left.example_shape)} against {tuple(right.example_shape)}",
                "terms of equal shape",
            )
        return Sum(sign)
    if isinstance(left, Region):
        return ScaleShift(left.example_shape, None, sign * _constant(call, left, right))
    constant = _constant(call, right, left)
    return ScaleShift(right.example_shape, None if sign == 1 else -torch.ones_like(constant), constant)


@_rule(torch.cat, torch.concat, torch.concatenate)
def _cat(call: Call) -> Operation:
    parts, dim = call.argument(0, "tensors"), call.argument(1, "dim", 0)
    if not all(isinstance(part, Region) for part in parts):
        raise unsupported(f"{call.name} joins constants to the activations", "tensors that depend on the input")
    dims = parts[0].clean.dim()
    if dim % dims == 0 or any(part.clean.dim() != dims for part in parts):
        raise unsupported(f"{call.name} joins along dim={dim}", "joining dimensions of one example")
    return Concat(dim % dims, tuple(part.clean.shape[dim] for part in parts))


@_rule(operator.mul, operator.imul, torch.mul, "mul", "mul_")
def _mul(call: Call) -> Operation:
    left, right = call.argument(0, "input"), call.argument(1, "other")
    if isinstance(left, Region) and isinstance(right, Region):
        raise unsupported(f"{call.name} multiplies two tensors that depend on the input", "products with constants")
    region, factor = (left, right) if isinstance(left, Region) else (right, left)
    return ScaleShift(region.example_shape, _constant(call, region, factor))


@_rule(operator.truediv, operator.itruediv, torch.div, "div", "div_")
def _div(call: Call) -> Operation:
    left, right = call.argument(0, "input"), call.argument(1, "other")
    if isinstance(right, Region) or call.kwargs.get("rounding_mode") is not None:
        raise unsupported(f"{call.name} is not a division by a constant", "division by constants")
    return ScaleShift(left.example_shape, 1 / _constant(call, left, right))


@_rule(operator.neg, torch.neg, "neg")
def _neg(call: Call) -> Operation:
    region = _region(call)
    return ScaleShift(region.example_shape, _constant(call, region, -1.0))


def _constant(call: Call, region: Region, value: Any) -> Tensor:
    """A constant operand as a tensor that broadcasts to one example."""
    if isinstance(value, Tensor):
        constant = value.to(region.clean)
    else:  # torch.tensor would be sent to an accelerator, and waited for, at every training step
        constant = region.clean.new_full((), value)
    shape = region.example_shape
    if constant.dim() == len(shape) + 1 and len(constant) == 1:
        constant = constant.squeeze(0)
    if constant.dim() > len(shape) or torch.broadcast_shapes(constant.shape, shape) != shape:
        raise unsupported(
            f"{call.name} combines activations {tuple(shape)} with a constant of shape {tuple(constant.shape)}",
            "constants that broadcast to one example",
        )
    return constant


@_rule(nn.Flatten, nn.Unflatten, torch.flatten, torch.reshape, "flatten", "reshape", "view")
def _reshape(call: Call) -> Operation:
    region = _region(call)
    clean = region.clean
    if call.module is not None:
        out = call.module(clean)
    elif isinstance(call.key, str):
        out = getattr(clean, call.key)(*call.args[1:], **call.kwargs)
    else:
        extra = {name: value for name, value in call.kwargs.items() if name != "input"}
        out = call.key(clean, *call.args[1:], **extra)  # type: ignore[operator]
    if out.dim() < 2 or len(out) != len(clean) or out.dtype != clean.dtype:
        raise unsupported(
            f"{call.name} reshapes {tuple(clean.shape)} into {tuple(out.shape)}", "reshaping each example by itself"
        )
    return Reshape(clean.shape[1:], out.shape[1:])


@_rule(nn.ZeroPad2d, nn.ConstantPad2d)
def _pad_module(call: Call) -> Operation:
    layer = call.module
    assert isinstance(layer, nn.ConstantPad2d | nn.ZeroPad2d)
    return Pad(_region(call).example_shape, layer.padding, float(layer.value))


@_rule(F.pad)
def _pad(call: Call) -> Operation:
    region = _region(call)
    amounts = call.argument(1, "pad")
    mode, value = call.argument(2, "mode", "constant"), call.argument(3, "value")
    if mode != "constant" or len(amounts) > 2 * len(region.example_shape):
        raise unsupported(f"{call.name} pads by {mode!r} with {list(amounts)}", "constant padding of one example")
    return Pad(region.example_shape, amounts, float(value or 0))


@_rule(nn.AvgPool2d)
def _avg_pool_module(call: Call) -> Operation:
    layer = call.module
    assert isinstance(layer, nn.AvgPool2d)
    return _pool(
        call,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.ceil_mode,
        layer.count_include_pad,
        layer.divisor_override,
    )


@_rule(F.avg_pool2d)
def _avg_pool(call: Call) -> Operation:
    return _pool(
        call,
        call.argument(1, "kernel_size"),
        call.argument(2, "stride"),
        call.argument(3, "padding", 0),
        call.argument(4, "ceil_mode", False),
        call.argument(5, "count_include_pad", True),
        call.argument(6, "divisor_override"),
    )


@_rule(nn.AdaptiveAvgPool2d, F.adaptive_avg_pool2d)
def _adaptive_pool(call: Call) -> Operation:
    kernel = _adaptive_kernel(call)
    return _pool(call, kernel, kernel, 0, False, True, None)


@_rule(nn.AdaptiveMaxPool2d, F.adaptive_max_pool2d)
def _adaptive_max_pool(call: Call) -> Operation:
    kernel = _adaptive_kernel(call)
    return _max_pool_of(call, kernel, kernel, 0, 1, False)


def _adaptive_kernel(call: Call) -> list[int]:
    size = call.module.output_size if call.module is not None else call.argument(1, "output_size")
    shape = _region(call).example_shape
    wanted = [out if out is not None else now for out, now in zip(_pair(size), shape[-2:])]
    if any(now % out for out, now in zip(wanted, shape[-2:])):
        raise unsupported(
            f"{call.name} pools {tuple(shape[-2:])} to {tuple(wanted)}", "output sizes that divide the input's"
        )
    return [now // out for out, now in zip(wanted, shape[-2:])]


@_rule(nn.MaxPool2d)
def _max_pool_module(call: Call) -> Operation:
    layer = call.module
    assert isinstance(layer, nn.MaxPool2d)
    return _max_pool_of(call, layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.ceil_mode)


@_rule(F.max_pool2d, torch.max_pool2d)
def _max_pool(call: Call) -> Operation:
    return _max_pool_of(
        call,
        call.argument(1, "kernel_size"),
        call.argument(2, "stride"),
        call.argument(3, "padding", 0),
        call.argument(4, "dilation", 1),
        call.argument(5, "ceil_mode", False),
    )


def _max_pool_of(call: Call, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Operation:
    shape = _region(call).example_shape
    if len(shape) != 3 or getattr(call.module, "return_indices", False) or call.argument(6, "return_indices", False):
        raise unsupported(f"{call.name} pools {tuple(shape)} or returns indices", "images (B, C, H, W), one result")
    stride = stride if stride not in (None, (), []) else kernel
    return MaxPool(shape, _pair(kernel), _pair(stride), _pair(padding), _pair(dilation), ceil_mode)


@_rule(torch.mean, "mean")
def _mean(call: Call) -> Operation:
    shape, dims = _region(call).example_shape, call.argument(1, "dim")
    dims = [dims] if isinstance(dims, int) else dims
    places = {dim % (len(shape) + 1) for dim in dims or ()}
    if not places or 0 in places or call.kwargs.get("dtype") is not None:
        raise unsupported(f"{call.name} takes the mean over dim={dims}", "means within each example")
    return Mean(shape, [place - 1 for place in places], bool(call.argument(2, "keepdim", False)))


def _pool(
    call: Call, kernel: Any, stride: Any, padding: Any, ceil_mode: bool, count_include_pad: bool, divisor: int | None
) -> Operation:
    if divisor is not None and divisor < 0:
        raise unsupported(f"{call.name} divides by {divisor}", "a positive divisor_override")
    stride = stride if stride not in (None, (), []) else kernel
    shape = _region(call).example_shape
    return AvgPool(shape, _pair(kernel), _pair(stride), _pair(padding), ceil_mode, count_include_pad, divisor)


def _pair(value: Any) -> tuple[Any, Any]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)  # type: ignore[return-value]
