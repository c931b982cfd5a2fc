"""A method's objective, which torch.compile has turned into a few fused kernels.

For accelerators, where the many small operations of a step otherwise each travel through memory, and take longer to
start than to run.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from certtrain.bounds.base import BoundEngine
from certtrain.data.batch import Batch
from certtrain.errors import UserError
from certtrain.methods.base import Inputs, Method, Objective, Streams

CompileMode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]
COMPILE_MODES: tuple[str, ...] = get_args(CompileMode)
TOLERANCE = 0.1  # of a gradient's length: rounding in TF32 and bf16 stays below, a wrong derivative does not
T = TypeVar("T")
WITH_GRAPHS = ("reduce-overhead", "max-autotune")  # replay CUDA graphs, whose results live until the next replay


class Compiled:
    """Called as a method is, with its values but for the last bits: a compiler adds up in another order.

    Compiled once for each phase of the method, when the first step of the phase comes, and compared with the method
    there. What changes at every step (eps, kappa, beta) enters as tensors on the device: nothing is compiled again, and
    no CUDA graph holds an old value. What a method prepares, noise above all, is made outside, where no compiler can
    change its bits; but the network that it attacks for it is compiled, too, by itself.

    Args:
        method: the objective.
        examples: of a whole batch. Smaller ones, such as an epoch's last, are not worth a compilation and run as they
            are, always, so that a resumed training computes what one that never stopped does.
        mode: of torch.compile.
        backend: of torch.compile.

    Attributes:
        tell: is told of each compilation, which may take a minute.
    """

    def __init__(
        self,
        method: Method,
        examples: int,
        mode: CompileMode = "default",
        backend: str | Callable[..., object] = "inductor",
    ) -> None:
        self.method, self.examples, self.mode, self.backend = method, examples, mode, backend
        self.tell: Callable[[str], object] = lambda text: None
        self._made: dict[Hashable, Callable[..., Objective]] = {}
        self._attacked: Attacked | None = None

    def __call__(
        self, network: nn.Module, engine: BoundEngine | None, batch: Batch, step: int, streams: Streams
    ) -> Objective:
        """See `Method.__call__`. Network and engine are the same at every call.

        Raises:
            UserError: torch.compile cannot follow the network, finds no compiler, or gives a wrong gradient.
        """
        if len(batch.y) < self.examples:
            return self.method(network, engine, batch, step, streams)
        phase = self.method.phase(step, sparing=False)  # fused, what is only logged costs next to nothing
        numbers = {
            name: torch.full((), value, dtype=batch.x.dtype, device=batch.x.device)
            for name, value in self.method.values(step).items()
        }
        if self._attacked is None:
            self._attacked = Attacked(network, self)
        inputs = self.method.prepare(self._attacked, engine, batch, step, streams)
        if phase not in self._made:
            self.tell(f"compiling the objective from step {step} on")
            self._make(network, engine, phase, inputs, numbers)
        if self.mode not in WITH_GRAPHS:
            return self._run(phase, inputs, numbers)
        torch.compiler.cudagraph_mark_step_begin()
        found = self._run(phase, inputs, numbers)
        return Objective(found.loss.clone(), {name: part.clone() for name, part in found.parts.items()})

    def _make(
        self,
        network: nn.Module,
        engine: BoundEngine | None,
        phase: Hashable,
        inputs: Inputs,
        values: dict[str, Tensor],
    ) -> None:
        """Compile a phase, and compare with the objective itself: releases of torch had compilers that err silently."""
        plain = partial(_objective, self.method, network, engine, phase)
        expected = _gradients(plain, network, inputs, values)
        self._made[phase] = self.compiled(plain)
        found = _gradients(partial(self._run, phase), network, inputs, values)
        off = _difference(found, expected)
        # A network that draws random numbers never gives the same twice.
        if (
            not off <= TOLERANCE
            and _difference(_gradients(plain, network, inputs, values, seed=1), expected) <= TOLERANCE
        ):
            raise _wrong("objective", off)

    def compiled(self, function: Callable[..., T]) -> Callable[..., T]:
        """The function, compiled at its first call.

        Raises:
            UserError: at the first call, torch.compile cannot follow it or finds no compiler.
        """
        options = {"mode": self.mode} if self.backend == "inductor" else {}
        made = torch.compile(function, fullgraph=True, dynamic=False, backend=self.backend, **options)
        return partial(_told, made)

    def _run(self, phase: Hashable, inputs: Inputs, values: dict[str, Tensor]) -> Objective:
        return self._made[phase](inputs, values)


class Attacked(nn.Module):
    """The network as attacks see it: compiled by itself when the first one calls it, and compared with itself there.

    Args:
        network: in the state of `frozen` when it is called.
        compiler: compiles it.
    """

    def __init__(self, network: nn.Module, compiler: Compiled) -> None:
        super().__init__()
        self.network, self.compiler = network, compiler
        self._made: Callable[[Tensor], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, K) logits."""
        if self._made is None:
            self.compiler.tell("compiling the network that is attacked")
            self._made = self.compiler.compiled(self.network.forward)
            with torch._C.DisableTorchFunction():
                plain, found = (_slopes(function, x) for function in (self.network, self._made))
            if not _difference(found, plain) <= TOLERANCE:
                raise _wrong("attack", _difference(found, plain))
        with torch._C.DisableTorchFunction():  # the compiler's own kernels
            return self._made(x)


def _slopes(function: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    """A loss of the logits, and its gradient at inputs."""
    with torch.enable_grad():
        point = x.detach().clone().requires_grad_()
        loss = torch.logsumexp(function(point), 1).sum()
        return [loss.detach().clone(), torch.autograd.grad(loss, point)[0].clone()]


def _told(function: Callable[..., T], *arguments: Any) -> T:
    """What a compiled function gives; why it cannot be compiled in one line."""
    try:
        return function(*arguments)
    except Exception as error:
        from torch._dynamo.exc import TorchDynamoException  # a second of importing, for nothing in most trainings

        if not isinstance(error, TorchDynamoException):
            raise
        cause = error.__cause__ or error
        raise UserError(
            f"torch.compile fails: {str(cause).strip().splitlines()[0]}",
            where="configuration key trainer.compile",
            fix="trainer.compile=false; --traceback shows the whole reason",
        ) from error


def _wrong(what: str, off: float) -> UserError:
    return UserError(
        f"torch {torch.__version__} compiles this {what} wrongly: its gradient is off by {100 * off:.3g} %",
        where="configuration key trainer.compile",
        fix="trainer.compile=false, or another release of torch",
    )


def _gradients(
    objective: Callable[[Inputs, dict[str, Tensor]], Objective],
    network: nn.Module,
    inputs: Inputs,
    values: dict[str, Tensor],
    seed: int = 0,
) -> list[Tensor]:
    """The loss and its gradients; buffers and the generators of random numbers are left as they were."""
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    accelerators = [inputs.x.device] if inputs.x.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(accelerators):
            torch.manual_seed(seed)
            loss = objective(inputs, values).loss
            weights = [weight for weight in network.parameters() if weight.requires_grad]
            found = torch.autograd.grad(loss, weights, materialize_grads=True)
    finally:
        with torch.no_grad():
            for name, buffer in network.named_buffers():
                buffer.copy_(before[name])
    return [loss.detach().clone(), *(gradient.clone() for gradient in found)]


def _difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest distance of two tensors of a pair, relative to the expected one; NaN where one is not a number.

    Of a loss near 0, and of a gradient that is nothing beside the others, as that of a bias before BatchNorm, only
    rounding is left: a loss counts as 0.01 at least, a gradient as a thousandth of the longest.
    """
    loss, *lengths = (torch.linalg.vector_norm(one) for one in expected)
    least = max(lengths, default=loss) / 1000
    scales = torch.stack([loss.clamp_min(0.01), *(length.maximum(least) for length in lengths)])
    apart = torch.stack([torch.linalg.vector_norm(one - other) for one, other in zip(found, expected)])
    return float((apart / scales.clamp_min(torch.finfo(scales.dtype).tiny)).max())


def _objective(
    method: Method,
    network: nn.Module,
    engine: BoundEngine | None,
    phase: Hashable,
    inputs: Inputs,
    values: dict[str, Tensor],
) -> Objective:
    return method.objective(network, engine, inputs, phase, values)
