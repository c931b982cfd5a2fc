"""Gaussian loss smoothing (Balauca et al. 2025, arXiv 2403.07095): a method's loss under noise on the weights."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call

from certtrain.bounds.base import BoundEngine
from certtrain.data.batch import Batch
from certtrain.errors import UserError, nearest
from certtrain.methods.base import Inputs, Method, Objective, Streams, Value, non_negative, whole
from certtrain.methods.wrapper import Wrapper

Estimator = Literal["rgs", "pgpe"]


class Smoothed(NamedTuple):
    """What the base prepared, with the noise.

    Attributes:
        x, y: of the batch.
        base: the base's own inputs.
        noise: by draw, (1, ...) for each weight of the network: it has no row for each example.
    """

    x: Tensor
    y: Tensor
    base: Inputs
    noise: tuple[tuple[Tensor, ...], ...]


def pgpe(weights: Sequence[Tensor], noise: Sequence[Sequence[Tensor]], gains: Sequence[Tensor], std: float) -> Tensor:
    """A scalar of value 0 whose gradient is the antithetic estimate of that of `E L(w + d)`,

        1 / (2 n std^2) sum_i d_i (L(w + d_i) - L(w - d_i)).

    Args:
        weights: w.
        noise: the n draws d_i ~ N(0, std^2 I), each with a tensor for each weight.
        gains: `L(w + d_i) - L(w - d_i)`, scalars without gradient.
        std: > 0.
    """
    draws = zip(gains, noise, strict=True)
    along = [gain * sum((w * d).sum() for w, d in zip(weights, draw, strict=True)) for gain, draw in draws]
    total = torch.stack(along).sum() / (2 * len(noise) * std**2)
    return total - total.detach()


class GLS(Wrapper):
    """`E L(w + d)` over `d ~ N(0, std^2 I)`, L the loss of another method and w all weights of the network.

    Tight relaxations give losses that jump and are rough in the weights; their mean over a neighbourhood is smooth.

    - `rgs`: the mean of the gradients at n perturbed weights; costs n times the base.
    - `pgpe`: antithetic differences, see `pgpe`; 2n losses and no gradient, for bounds that have none.

    The base prepares its inputs with the unperturbed weights: its attacks are on them. At std 0 this is the base.
    BatchNorm's running statistics see the perturbed networks.

    Args:
        base: the method whose loss is smoothed.
        std: of the noise, in units of the weights.
        samples: n, draws at each step.
        estimator: `rgs` or `pgpe`.

    Raises:
        UserError: a negative std, no sample, an unknown estimator, a base that is no method.
    """

    def __init__(self, base: Method, std: float = 1e-3, samples: int = 1, estimator: Estimator = "rgs") -> None:
        super().__init__(base)
        self.std = non_negative(std, "method.std")
        if estimator not in get_args(Estimator):
            fix = nearest(str(estimator), get_args(Estimator))
            raise UserError(f"unknown estimator {estimator!r}", where="method.estimator", fix=fix)
        self.samples, self.estimator = whole(samples, "method.samples"), estimator
        self._call: _Call | None = None  # a compiler follows it only where it is there already

    def prepare(
        self, network: nn.Module, engine: BoundEngine | None, batch: Batch, step: int, streams: Streams
    ) -> Inputs:
        """What the base prepares, and the noise: the same for all of several processes."""
        inputs = self.base.prepare(network, engine, batch, step, streams)
        if not self.std:
            return inputs
        weights = [weight for _, weight in _weights(network)]
        draws = [streams.weights(weights, step, number, self.std) for number in range(self.samples)]
        return Smoothed(inputs.x, inputs.y, inputs, tuple(tuple(one[None] for one in draw) for draw in draws))

    def batch_norm_at(self, inputs: Inputs, phase: Hashable) -> tuple[Tensor, ...]:
        """See `Method.batch_norm_at`.

        Raises:
            UserError: under noise on the weights, whose statistics are others in each draw.
        """
        if not self.std:
            return super().batch_norm_at(inputs, phase)
        raise UserError(
            "a batch in parts with BatchNorm under noise on the weights",
            where="trainer.accumulate_grad_batches",
            fix="trainer.accumulate_grad_batches=1, or a model without BatchNorm",
        )

    def objective(
        self,
        network: nn.Module,
        engine: BoundEngine | None,
        inputs: Inputs,
        phase: Hashable,
        values: Mapping[str, Value],
    ) -> Objective:
        """Parts: the base's, means over the draws."""
        if not self.std:
            return self.base.objective(network, engine, inputs, phase, values)
        names, weights = zip(*_weights(network), strict=True)
        if self._call is None or self._call.network is not network:
            self._call = _Call(network, self.base.objective)
        call = self._call

        def at(perturbed: Sequence[Tensor]) -> Objective:
            moved = {f"network.{name}": weight for name, weight in zip(names, perturbed, strict=True)}
            return functional_call(call, moved, (engine, inputs.base, phase, values))

        noise = [[d[0] for d in draw] for draw in inputs.noise]
        if self.estimator == "rgs":
            return _mean([at([w + d for w, d in zip(weights, draw, strict=True)]) for draw in noise])
        still = [weight.detach() for weight in weights]  # no graph is built
        pairs = [[at([w + sign * d for w, d in zip(still, draw, strict=True)]) for sign in (1, -1)] for draw in noise]
        mean = _mean([one for pair in pairs for one in pair])
        gains = [up.loss.detach() - down.loss.detach() for up, down in pairs]
        return mean._replace(loss=mean.loss.detach() + pgpe(weights, noise, gains, self.std))


class _Call(nn.Module):
    """The objective as a module's forward, which `functional_call` runs with other weights in the network's place."""

    def __init__(self, network: nn.Module, objective: Callable[..., Objective]) -> None:
        super().__init__()
        self.network, self.function = network, objective

    def forward(self, *given: Any) -> Objective:
        """The objective with the weights that the network has now."""
        return self.function(self.network, *given)


def _weights(network: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """What is trained, in its order."""
    return [(name, weight) for name, weight in network.named_parameters() if weight.requires_grad]


def _mean(found: Sequence[Objective]) -> Objective:
    """The mean of objectives with the same parts."""
    parts = {name: torch.stack([one.parts[name] for one in found]).mean(0) for name in found[0].parts}
    return Objective(torch.stack([one.loss for one in found]).mean(), parts)
