"""Backward bounds of single convolution neurons: coefficients only where the receptive field is.

A neuron of a convolutional layer depends on a small window of each earlier map. Going back from it, coefficients are
(N, S, C, h, w) windows, each with its corner (row, column) in the whole map, zero outside of the map. A window grows by
the kernel at every convolution; when it has grown to the size of the map, or at an operation that has no windowed form
(sums, flattening, pooling, padding), it is put into the whole map and the dense backward pass goes on from there.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from certtrain.bounds.affine import ConvMap, ScaleShift
from certtrain.bounds.forward import Pass
from certtrain.bounds.interval import InputSet
from certtrain.bounds.nonlinear import Activation, LinePairs
from certtrain.bounds.relaxation import Lines
from certtrain.bounds.rules import Operation, Relu
from certtrain.bounds.transposed import TransposedConv
from certtrain.system.work import pause


@dataclass(frozen=True)
class Plan:
    """How far back from a step windows are worth it.

    Attributes:
        steps: the steps to undo, in that order; none where windows are of no use.
        end: the step whose output the windows are then about; 0 is the input.
        elements: the largest number of coefficients of one window.
    """

    steps: list[int]
    end: int
    elements: int


def plan(run: Pass, step: int) -> Plan:
    """Follow the windows' sizes back from one neuron of the output of `step`."""
    steps: list[int] = []
    height = width = 1
    elements = 1
    while step > 0 and run.regions[step].clean.dim() == 4:
        op, shape = run.steps[step].op, run.regions[step].example_shape
        elements = max(elements, shape[0] * height * width)
        if isinstance(op, ConvMap):
            height, width = (
                (size - 1) * s + d * (k - 1) + 1
                for size, s, d, k in zip((height, width), op.stride, op.dilation, op.weight.shape[-2:])
            )
        elif not isinstance(op, Relu | Activation) and not _per_channel(op):
            break
        source = run.steps[step].sources[0]
        before = run.regions[source].example_shape
        if height * width >= before[-2] * before[-1]:
            break
        elements = max(elements, before[0] * height * width)
        steps.append(step)
        step = source
    return Plan(steps, step, elements)


def walk(
    run: Pass,
    lines: Mapping[int, Lines | LinePairs],
    way: Plan,
    rows: Tensor,
    position: tuple[Tensor, Tensor, Tensor],
    channels: int,
) -> tuple[Tensor, Tensor]:
    """Take `z` and `-z` of one neuron each back along the plan.

    Args:
        run: the interval pass.
        lines: the relaxation of every activation on the way.
        way: a plan with at least one step.
        rows: (N,) the example of each neuron.
        position: channel, row and column of each neuron, (N,) each.
        channels: how many channels the neurons' map has.

    Returns:
        Coefficients (N, 2, *shape) for the output of `way.end` and constants (N, 2); when that is the input, the
        coefficients are empty (N, 2, 0) and the constants are the finished lower bounds.
    """
    channel, *corner = position
    dtype = run.inputs.x.dtype
    a = torch.nn.functional.one_hot(channel, channels).to(dtype)[:, None, :, None, None]
    a = torch.cat([a, -a], 1)
    constant = a.new_zeros(a.shape[:2])
    for step in way.steps:
        pause()
        op, source = run.steps[step].op, run.steps[step].sources[0]
        if isinstance(op, ConvMap):
            if op.bias is not None:
                constant = constant + a.sum((-2, -1)) @ op.bias
            args = (op.weight, op.stride, [0, 0], [0, 0], op.groups, op.dilation)
            a = TransposedConv.apply(a.flatten(0, 1), *args).unflatten(0, a.shape[:2])
            corner = [at * s - b for at, s, b in zip(corner, op.stride, op.before)]
            a = a * _inside(a, corner, run.regions[source].example_shape).to(dtype)
        elif isinstance(op, ScaleShift):
            if op.shift is not None:
                constant = constant + a.sum((-2, -1)) @ op.shift.expand(a.shape[2], 1, 1).flatten()
            a = op.transpose(a)
        else:
            near = lines[step].map(functools.partial(_cut, a, corner, rows))
            a, offset = near.backward(a)
            constant = constant + offset
    if way.end == 0:
        return a.new_zeros(*a.shape[:2], 0), constant + _minimum(run, a, corner, rows)
    return _place(a, corner, run.regions[way.end].example_shape), constant


def _per_channel(op: Operation | None) -> bool:
    """A scale and shift that do not depend on the place in the map."""
    return isinstance(op, ScaleShift) and all(
        value is None or (value.dim() < 2 and value.numel() == 1) or (value.dim() >= 2 and value.shape[-2:] == (1, 1))
        for value in (op.scale, op.shift)
    )


def _places(a: Tensor, corner: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows (N, h, 1) and columns (N, 1, w) of a window's places in the whole map."""
    height, width = a.shape[-2:]
    ys = corner[0][:, None] + torch.arange(height, device=a.device)
    xs = corner[1][:, None] + torch.arange(width, device=a.device)
    return ys[:, :, None], xs[:, None, :]


def _inside(a: Tensor, corner: list[Tensor], shape: torch.Size) -> Tensor:
    """(N, 1, 1, h, w) which places lie in the map."""
    ys, xs = _places(a, corner)
    inside = (ys >= 0) & (ys < shape[-2]) & (xs >= 0) & (xs < shape[-1])
    return inside[:, None, None]


def _flat(a: Tensor, corner: list[Tensor], height: int, width: int) -> Tensor:
    """(N, h * w) places as positions in the flat map; those outside, whose coefficients are 0, are moved in."""
    ys, xs = _places(a, corner)
    return (ys.clamp(0, height - 1) * width + xs.clamp(0, width - 1)).flatten(1)


def _cut(a: Tensor, corner: list[Tensor], rows: Tensor, values: Tensor) -> Tensor:
    """The windows (N, C, h, w) of values (B, C, H, W)."""
    height, width = values.shape[-2:]
    places = rows[:, None] * (height * width) + _flat(a, corner, height, width)
    found = values.permute(0, 2, 3, 1).reshape(-1, values.shape[1])[places]  # (N, h * w, C)
    return found.transpose(1, 2).reshape(len(rows), values.shape[1], *a.shape[-2:])


def _place(a: Tensor, corner: list[Tensor], shape: torch.Size) -> Tensor:
    """The windows (N, S, C, h, w) put into the whole map (N, S, *shape)."""
    places = _flat(a, corner, *shape[-2:])[:, None, None].expand(*a.shape[:3], -1)
    whole = a.new_zeros(*a.shape[:3], shape[-2] * shape[-1])
    return whole.scatter_add(3, places, a.flatten(3)).unflatten(3, shape[-2:])


def _minimum(run: Pass, a: Tensor, corner: list[Tensor], rows: Tensor) -> Tensor:
    """min of <a, x'> over the input set, (N, S)."""
    inputs = run.inputs
    centre = _cut(a, corner, rows, inputs.centre)
    radius = None if inputs.radius is None else _cut(a, corner, rows, inputs.radius)
    eps = inputs.eps[rows] if inputs.eps is not None and inputs.eps.dim() else inputs.eps
    return InputSet(centre, centre, radius, eps).minimum(a)
