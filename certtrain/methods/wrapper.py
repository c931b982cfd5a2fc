"""A method around another one."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from torch import Tensor, nn

from certtrain.bounds.base import BoundEngine
from certtrain.data.batch import Batch
from certtrain.errors import UserError
from certtrain.methods.base import Context, Inputs, Method, Objective, Streams, Value
from certtrain.schedules import Ramp


class Wrapper(Method):
    """Does what its base method does; a subclass changes how.

    Inputs, objective, phases, schedules, hooks and state are the base's own.

    Args:
        base: the method.

    Raises:
        UserError: it is none.
    """

    def __init__(self, base: Method) -> None:
        if not isinstance(base, Method):
            fix = "a method of its own: method@method.base=crown_ibp"
            raise UserError(f"base = {base!r} is not a training method", where="method.base", fix=fix)
        self.base = base

    @property
    def needs_engine(self) -> bool:  # type: ignore[override]
        """Whether the base may ask for bounds."""
        return self.base.needs_engine

    @property
    def ramp(self) -> Ramp:  # type: ignore[override]
        """The base's."""
        return self.base.ramp

    @property
    def ramp_end(self) -> int:
        """The base's."""
        return self.base.ramp_end

    def prepare(
        self, network: nn.Module, engine: BoundEngine | None, batch: Batch, step: int, streams: Streams
    ) -> Inputs:
        """See `Method.prepare`."""
        return self.base.prepare(network, engine, batch, step, streams)

    def objective(
        self,
        network: nn.Module,
        engine: BoundEngine | None,
        inputs: Inputs,
        phase: Hashable,
        values: Mapping[str, Value],
    ) -> Objective:
        """See `Method.objective`."""
        return self.base.objective(network, engine, inputs, phase, values)

    def batch_norm_at(self, inputs: Inputs, phase: Hashable) -> tuple[Tensor, ...]:
        """See `Method.batch_norm_at`."""
        return self.base.batch_norm_at(inputs, phase)

    def figures(
        self, network: nn.Module, engine: BoundEngine | None, batch: Batch, streams: Streams
    ) -> dict[str, float]:
        """See `Method.figures`."""
        return self.base.figures(network, engine, batch, streams)

    def phase(self, step: int, *, sparing: bool = True) -> Hashable:
        """See `Method.phase`."""
        return self.base.phase(step, sparing=sparing)

    def values(self, step: int) -> dict[str, float]:
        """See `Method.values`."""
        return self.base.values(step)

    def scheduled(self, step: int) -> dict[str, float]:
        """See `Method.scheduled`."""
        return self.base.scheduled(step)

    def initialise(self, network: nn.Module) -> None:
        """See `Method.initialise`."""
        self.base.initialise(network)

    def begin(self, context: Context) -> None:
        """See `Method.begin`."""
        self.base.begin(context)

    def before_step(self, context: Context, batch: Batch) -> None:
        """See `Method.before_step`."""
        self.base.before_step(context, batch)

    def epoch_end(self, context: Context) -> None:
        """See `Method.epoch_end`."""
        self.base.epoch_end(context)

    def state_dict(self) -> dict[str, Any]:
        """See `Method.state_dict`."""
        return self.base.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Method.load_state_dict`."""
        self.base.load_state_dict(state)
