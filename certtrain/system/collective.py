"""What the processes of a distributed training compute together; a process on its own gets back what it gives.

Nothing here happens unless the training has said `together()`: a library function that waited for processes that never
call it would hang. All processes must call the same functions in the same order.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
POLL_SECONDS = 1.0  # how soon a signal or the clock is noticed
MOST_STEPS = 1000  # between two polls

_together = False


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Within it, and once a process group of several is there, the functions below span all processes."""
    global _together
    before, _together = _together, True
    try:
        yield
    finally:
        _together = before


def processes() -> int:
    """How many processes train together; 1 for a process on its own."""
    return dist.get_world_size() if _together and dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if processes() > 1 else 0


class _GlobalSum(torch.autograd.Function):
    """A sum over the processes. Each one's loss depends on every term, so gradients are summed on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def global_sum(x: Tensor) -> Tensor:
    """The elementwise sum of the processes' tensors of one shape; differentiable."""
    return _GlobalSum.apply(x) if processes() > 1 else x


def global_sums(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The sum of the elements of each tensor over all processes, scalars; differentiable. One message for all."""
    sums = [tensor.sum() for tensor in tensors]
    return list(global_sum(torch.stack(sums)).unbind()) if sums and processes() > 1 else sums


def global_means(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The mean of the elements of each tensor over all processes, scalars; differentiable.

    The tensors may have different numbers of elements on different processes.
    """
    if processes() == 1 or not tensors:
        return [tensor.mean() for tensor in tensors]
    counts = torch.tensor([tensor.numel() for tensor in tensors], dtype=torch.float64, device=tensors[0].device)
    dist.all_reduce(counts)
    return [total / count for total, count in zip(global_sums(tensors), counts.to(tensors[0].dtype))]


def shares(counts: Sequence[int], like: Tensor) -> Tensor | None:
    """(n,) what part of all processes' elements this one's are, of each of n tensors; None where it is alone.

    The mean over all processes is the sum of their own means, each times its share.

    Args:
        counts: elements of this process' tensors.
        like: dtype and device.
    """
    if processes() == 1:
        return None
    own = torch.tensor(counts, dtype=torch.float64, device=like.device)
    return (own / global_sum(own).clamp_min(1)).to(like.dtype)


def global_max(value: int) -> int:
    """The largest of the processes' whole numbers. Waits for all of them, not for their accelerators."""
    if processes() == 1:
        return value
    number = torch.tensor(value)
    dist.all_reduce(number, op=dist.ReduceOp.MAX)
    return int(number)


def gather(value: T) -> list[T]:
    """What every process gives, in the order of their numbers, on every process. Any picklable object."""
    if processes() == 1:
        return [value]
    found: list[Any] = [None] * processes()
    dist.all_gather_object(found, value)
    return found


class Poll:
    """A question about the clock or about signals, which processes would answer differently at the same step.

    Alone, it is asked at every call. Together, all processes call at the same steps, and agree about once a second on
    the largest answer any of them has; in between the answer is 0.

    Args:
        question: gives a whole number, 0 for nothing.
    """

    def __init__(self, question: Callable[[], int]) -> None:
        self.question = question
        self._calls, self._left, self._since = 0, 1, time.monotonic()

    def __call__(self, now: bool = False) -> int:
        """The agreed answer; `now`: ask whatever the time."""
        if processes() == 1:
            return self.question()
        self._calls += 1
        self._left -= 1
        if self._left > 0 and not now:
            return 0
        answer = global_max(self.question())
        per_call = (time.monotonic() - self._since) / self._calls
        self._left = global_max(max(1, min(MOST_STEPS, int(POLL_SECONDS / max(per_call, 1e-6)))) if rank() == 0 else 0)
        self._calls, self._since = 0, time.monotonic()
        return answer
