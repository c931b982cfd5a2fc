"""Evaluates examples in pieces: as large as memory allows, smaller ones once it runs out."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from certtrain.certifiers.memory import Peak, budget
from certtrain.errors import UserError
from certtrain.system import work

T = TypeVar("T")


@dataclass(frozen=True)
class Failure:
    """Why a piece has no result, in one line."""

    reason: str
    out_of_memory: bool = False


@dataclass(frozen=True)
class Piece(Generic[T]):
    """Some of the rows, what came of them, and the seconds it took (attempts that ran out of memory included)."""

    rows: Tensor
    result: T | Failure
    seconds: float


# Rows of the first piece, whose memory is measured; how many times as many the next may have, and must have to be worth
# measuring again at once; the most of all: on a processor more gain nothing, and a log is written after as many rows;
# pieces before the next measurement where the size did not grow, twice as many each time: memory may be free again.
FIRST, GROWTH, WORTH, MOST, PAUSE = 4, 4, 1.25, 256, 8


class Pieces:
    """Evaluates rows in pieces.

    A piece that runs out of memory is tried again in halves, and later pieces are no larger. One row that still runs
    out of memory, and a piece whose evaluation raises anything else, is a `Failure`; the rest goes on.

    Where no size is given, pieces grow from 4 rows to 256, fourfold at most, while what the last one took at its peak
    says that the next will fit: on a host, memory that runs out is no exception but the end of the process.

    Args:
        size: rows of a piece at most; None: by memory.
        free: bytes that a piece may take on a device, None where unknown; `budget` by default.
    """

    def __init__(self, size: int | None, free: Callable[[torch.device], int | None] | None = None) -> None:
        self.size = FIRST if size is None else size
        self._grows, self._free = size is None, free or budget
        self._pause, self._left = 0, 0  # pieces without measurement: of the last pause, and still to come

    def run(self, rows: Tensor, evaluate: Callable[[Tensor], T]) -> Iterator[Piece[T]]:
        """The pieces of the rows, in their order.

        Raises:
            UserError: of the evaluation; a user's mistake is no failure of some examples.
        """
        at, began = 0, time.perf_counter()
        while at < len(rows):
            part = rows[at : at + self.size]
            measured = self._grows and len(part) == self.size and self._left == 0
            self._left = max(0, self._left - 1)
            work.tell(at / len(rows))
            here = work.part(at / len(rows), (at + len(part)) / len(rows))
            with here, Peak() if measured else nullcontext() as peak:
                result = _attempt(evaluate, part)
            if isinstance(result, Failure) and result.out_of_memory and len(part) > 1:
                self.size, self._grows = len(part) // 2, False
                _release()
                continue
            if peak is not None and not isinstance(result, Failure):
                self._grow(peak.most, rows.device)
            yield Piece(part, result, time.perf_counter() - began)
            at, began = at + len(part), time.perf_counter()

    def _grow(self, taken: int, device: torch.device) -> None:
        """The next size: what a row takes falls with their number, as some of it is all rows' together."""
        free, before = self._free(device), self.size
        fit = MOST if free is None else before * free // max(1, taken)
        self.size = max(1, min(fit, GROWTH * before, MOST))
        self._grows = self.size < MOST
        self._pause = 0 if self.size >= before * WORTH else max(PAUSE, 2 * self._pause)
        self._left = self._pause


class Sizes:
    """The pieces of several kinds of work, such as a cascade's stages, whose sizes are found once for each network.

    Args:
        size: as of `Pieces`.
    """

    def __init__(self, size: int | None) -> None:
        self.size = size
        self._network: weakref.ref[nn.Module] | None = None
        self._known: dict[tuple[str, torch.Size, torch.dtype, torch.device], Pieces] = {}

    def of(self, work: str, network: nn.Module, x: Tensor) -> Pieces:
        """The pieces of some work on inputs like x of a network."""
        if self._network is None or self._network() is not network:
            self._network, self._known = weakref.ref(network), {}
        key = (work, x.shape[1:], x.dtype, x.device)
        return self._known.setdefault(key, Pieces(self.size))


def _attempt(evaluate: Callable[[Tensor], T], part: Tensor) -> T | Failure:
    try:
        return evaluate(part)
    except UserError:
        raise
    except Exception as error:  # only its text leaves: the traceback would keep what filled the memory
        return Failure(one_line(error), _is_out_of_memory(error))


def one_line(error: Exception) -> str:
    """An exception as the reason of a row: the first line of its text."""
    return " ".join(f"{type(error).__name__}: {error}".split("\n")[0].split())


def _is_out_of_memory(error: Exception) -> bool:
    """The accelerator's exception, Python's, or the RuntimeError of torch's allocator of a CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in str(error) or "not enough memory" in str(error)
    )


def _release() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
