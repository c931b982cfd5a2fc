"""Examples in pieces: memory that runs out halves them, a crash costs one piece, times are told."""

import pytest
import torch

from certtrain.certifiers.pieces import Failure, Pieces, Sizes
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


def taking(each, together=0):
    """An evaluation that takes so many bytes a row, and so many whatever their number; it gives the number of rows."""

    def evaluate(part):
        assert torch.empty(len(part) * each + together, dtype=torch.uint8).numel() >= 0
        return len(part)

    return evaluate


@pytest.mark.parametrize(
    ("free", "found"),
    [
        (None, [4, 16, 64, 256, 256, 104]),  # nobody knows: up to the most
        (10**9, [4, 16, 64, 256, 256, 104]),
        (100 * 1000, [4, 16, 64, *[100] * 6, 16]),
        (20 * 1000, [4, 16, *[20] * 34]),
        (3 * 1000, [4, *[3] * 232]),
        (5, [4, *[1] * 696]),
    ],
)
def test_pieces_grow_while_they_fit(free, found):
    pieces = Pieces(None, free=lambda device: free)
    assert [rows for rows, _ in sizes(pieces, 700, taking(1000))] == found
    assert [rows for rows, _ in sizes(pieces, 3, taking(1000))] == ([3] if free != 5 else [1] * 3)  # it is known now


def test_what_all_rows_take_together_is_learned_by_and_by():
    """20.4 kB of 4 rows seem to be 5.1 kB a row."""
    found = [rows for rows, _ in sizes(Pieces(None, free=lambda device: 40_000), 999, taking(100, together=20_000))]
    assert found[:7] == [4, 7, 13, 24, 42, 69, 102]
    assert found[-2] == 161  # of 200 that fit; a little more is not worth another look
    found = [rows for rows, _ in sizes(Pieces(None, free=lambda device: 400_000), 300, taking(100, together=20_000))]
    assert found == [4, 16, 64, 216]


def test_pieces_grow_again_once_memory_is_free_again():
    free = [10]  # ten bytes are left: one row at a time
    pieces = Pieces(None, lambda device: free[0])
    first = [size for size, _ in sizes(pieces, 8, taking(10))]
    assert first == [4, 1, 1, 1, 1]
    free[0] = 10**9
    later = [size for size, _ in sizes(pieces, 600, taking(10))]
    assert later[: later.index(4)] == [1] * (later.index(4))
    assert later.index(4) <= 16
    assert max(later) == 256


def test_a_size_of_the_users_is_not_measured():
    pieces = Pieces(50, free=lambda device: 1)
    assert [rows for rows, _ in sizes(pieces, 120, taking(1000))] == [50, 50, 20]


def test_pieces_that_ran_out_of_memory_grow_no_more():
    def evaluate(part):
        if len(part) > 20:
            raise MemoryError
        return len(part)

    assert [rows for rows, _ in sizes(Pieces(None, free=lambda device: None), 120, evaluate)] == [4, 16] + [16] * 6 + [
        4
    ]


def test_sizes_are_those_of_the_work_the_network_and_the_kind_of_input():
    found, network, x = Sizes(None), torch.nn.Identity(), torch.zeros(2, 3)
    pieces = found.of("ibp", network, x)
    assert found.of("ibp", network, torch.zeros(5, 3)) is pieces
    assert found.of("crown", network, x) is not pieces
    assert found.of("ibp", network, x.double()) is not pieces
    assert found.of("ibp", network, torch.zeros(2, 4)) is not pieces
    assert found.of("ibp", torch.nn.Identity(), x) is not pieces
