"""Examples in pieces: memory that runs out halves them, a crash costs one piece, times are told."""

import pytest
import torch

from certtrain.certifiers.pieces import Failure, Pieces
from certtrain.errors import UserError

CPU = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"


def sizes(pieces, n, evaluate):
    return [(len(piece.rows), piece.result) for piece in pieces.run(torch.arange(n), evaluate)]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError(CPU), MemoryError()])
def test_out_of_memory_halves_and_stays_halved(error):
    def evaluate(part):
        if len(part) > 3:
            raise error
        return part.sum().item()

    pieces = Pieces(16)
    found = list(pieces.run(torch.arange(10), evaluate))
    assert [piece.rows.tolist() for piece in found] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert [piece.result for piece in found] == [1, 5, 9, 13, 17]
    assert pieces.size == 2


def test_one_row_that_runs_out_of_memory_is_a_failure_and_the_rest_goes_on():
    def evaluate(part):
        if 2 in part:
            raise RuntimeError(CPU)
        return len(part)

    found = list(Pieces(4).run(torch.arange(6), evaluate))
    failed = [piece for piece in found if isinstance(piece.result, Failure)]
    assert [piece.rows.tolist() for piece in failed] == [[2]]
    assert failed[0].result.out_of_memory
    assert "can't allocate memory" in failed[0].result.reason
    assert sorted(row for piece in found for row in piece.rows.tolist()) == list(range(6))


def test_a_crash_is_a_failure_of_its_piece_in_one_line():
    def evaluate(part):
        if 0 in part:
            raise ValueError("a\tb\nc")
        return "fine"

    found = sizes(Pieces(2), 4, evaluate)
    assert found == [(2, Failure("ValueError: a b")), (2, "fine")]


def test_a_users_mistake_is_no_failure():
    def evaluate(part):
        raise UserError("no such layer")

    with pytest.raises(UserError, match="no such layer"):
        sizes(Pieces(2), 4, evaluate)


def test_nothing_is_no_piece():
    assert sizes(Pieces(2), 0, len) == []
