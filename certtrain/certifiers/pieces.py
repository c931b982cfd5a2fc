"""Evaluates examples in pieces, smaller ones once memory runs out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from certtrain.errors import UserError

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


class Pieces:
    """Evaluates rows in pieces of at most `size`.

    A piece that runs out of memory is tried again in halves, and later pieces are no larger. One row that still runs
    out of memory, and a piece whose evaluation raises anything else, is a `Failure`; the rest goes on.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def run(self, rows: Tensor, evaluate: Callable[[Tensor], T]) -> Iterator[Piece[T]]:
        """The pieces of the rows, in their order.

        Raises:
            UserError: of the evaluation; a user's mistake is no failure of some examples.
        """
        at, began = 0, time.perf_counter()
        while at < len(rows):
            part = rows[at : at + self.size]
            result = _attempt(evaluate, part)
            if isinstance(result, Failure) and result.out_of_memory and len(part) > 1:
                self.size = len(part) // 2
                _release()
                continue
            yield Piece(part, result, time.perf_counter() - began)
            at, began = at + len(part), time.perf_counter()


def _attempt(evaluate: Callable[[Tensor], T], part: Tensor) -> T | Failure:
    try:
        return evaluate(part)
    except UserError:
        raise
    except Exception as error:  # only its text leaves: the traceback would keep what filled the memory
        text = " ".join(f"{type(error).__name__}: {error}".split("\n")[0].split())
        return Failure(text, _is_out_of_memory(error))


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
