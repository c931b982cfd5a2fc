"""A batch's objective computed in parts, one after another: the same step in less memory."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from certtrain.bounds.base import BoundEngine
from certtrain.bounds.batchnorm import Use, given_statistics, observed_statistics, training_norms
from certtrain.bounds.native import NativeEngine
from certtrain.data.batch import Batch
from certtrain.errors import UserError
from certtrain.methods.base import Inputs, Method, Objective, Streams
from certtrain.system.collective import global_max


class InParts:
    """Called as a method is, with its values and gradients; in memory is one part of the batch at a time.

    The loss is the mean of the parts' losses L_k, weighted by their examples. BatchNorm takes its statistics s of the
    whole batch in a pass without bounds, and all parts are normalised by them. With w the weights, the gradient

        sum_k dL_k/dw + (sum_k dL_k/ds) ds/dw

    is that of the whole batch: each part's is taken as soon as its loss is there, and that of the statistics goes back
    through the pass that they come from. Attacks see the whole batch.

    A term that is not a mean over examples is computed of each part: Shi et al.'s regularisers, and the products of two
    means in Exp-IBP and TAPS.

    Args:
        method: the objective.
        parts: how many; a batch with fewer examples has one part for each.
    """

    def __init__(self, method: Method, parts: int) -> None:
        self.method, self.parts = method, parts

    def __call__(
        self, network: nn.Module, engine: BoundEngine | None, batch: Batch, step: int, streams: Streams
    ) -> Objective:
        """See `Method.__call__`. The loss's graph holds the gradients, which its backward pass hands on.

        Raises:
            UserError: BatchNorm with an engine that takes its statistics by itself; a method whose objective runs the
                network on other inputs than its `batch_norm_at` says.
        """
        method, examples = self.method, len(batch.y)
        inputs = method.prepare(network, engine, batch, step, streams)
        phase, values = method.phase(step), method.values(step)
        # Of several processes each goes through its share in as many parts as the others do: they meet in each.
        parts = min(self.parts, -global_max(-examples))
        if parts <= 1:
            return method.objective(network, engine, inputs, phase, values)
        uses = self._statistics(network, engine, inputs, phase)
        weights = [weight for weight in network.parameters() if weight.requires_grad]
        statistics = [tensor for use in uses for tensor in (use.mean, use.var)]
        loss = torch.zeros((), device=batch.y.device)
        logged: dict[str, Tensor] = {}
        gradients: list[Tensor | None] = [None] * (len(weights) + len(statistics))
        ends = [examples * (part + 1) // parts for part in range(parts)]
        for start, end in zip([0, *ends], ends):
            leaves = [tensor.detach().requires_grad_() for tensor in statistics]
            given = [use._replace(mean=m, var=v) for use, m, v in zip(uses, leaves[::2], leaves[1::2])]
            with given_statistics(network, given):
                found = method.objective(network, engine, rows(inputs, start, end, examples), phase, values)
            share = (end - start) / examples
            with torch.autocast(batch.x.device.type, enabled=False):
                more = torch.autograd.grad(share * found.loss, [*weights, *leaves], allow_unused=True)
            gradients = [_sum(one, other) for one, other in zip(gradients, more)]
            loss = loss + share * found.loss.detach()
            for name, part in found.parts.items():
                logged[name] = logged.get(name, 0) + share * part
        return Objective(_Known.apply(loss, gradients, *weights, *statistics), logged)

    def _statistics(
        self, network: nn.Module, engine: BoundEngine | None, inputs: Inputs, phase: Hashable
    ) -> Sequence[Use]:
        """What each BatchNorm normalises by in the objective of the whole batch, in the order of its passes."""
        if not training_norms(network):
            return []
        if engine is not None and not isinstance(engine, NativeEngine):
            raise UserError(
                f"a batch in parts with BatchNorm and bounds={engine.name}, which takes each part's own statistics",
                where="trainer.accumulate_grad_batches",
                fix="bounds=native, or trainer.accumulate_grad_batches=1",
            )
        with observed_statistics(network) as uses:
            for x in self.method.batch_norm_at(inputs, phase):
                network(x)
        return uses


def rows(inputs: Any, start: int, end: int, examples: int) -> Any:
    """Some examples of what a method prepared: of every tensor in it with one row for each example."""
    if isinstance(inputs, Tensor):
        return inputs[start:end] if inputs.dim() and len(inputs) == examples else inputs
    if isinstance(inputs, tuple):
        found = [rows(one, start, end, examples) for one in inputs]
        return type(inputs)(*found) if hasattr(inputs, "_fields") else tuple(found)
    return inputs


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return other if one is None else one
    return one.add_(other)


class _Known(torch.autograd.Function):
    """A loss whose gradients with respect to the leaves are known already."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: Sequence[Tensor | None], *leaves: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(None if one is None else outputs[0] * one for one in ctx.gradients)
