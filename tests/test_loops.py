"""Compiled loops are for plain tensors, share elements among threads, and are used only where they are right."""

import pytest
import torch

from certtrain import loops

PROGRAM = """
void NAME(add)(int64_t count, const REAL *left, const REAL *right, REAL *sum, const REAL *more)
{
    for (int64_t i = 0; i < count; i++)
        sum[i] = left[i] + (right == NULL ? 0 : right[i]) + *more;
}
"""


@pytest.fixture
def library(monkeypatch):
    monkeypatch.setattr(loops, "source", lambda *_: PROGRAM)
    found = loops.library("any", "any.c")
    if found is None:
        pytest.skip("this machine has no C compiler")
    loops.declare(found, {"add": (1, 4)})
    return found


@pytest.mark.parametrize("dtype", loops.NAMES)
@pytest.mark.parametrize("threads", [1, 3])
def test_every_element_once_in_either_dtype(library, monkeypatch, dtype, threads):
    monkeypatch.setattr(loops, "SEVERAL", 7)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        left, right, more = torch.rand(5, 20, dtype=dtype), torch.rand(5, 20, dtype=dtype), torch.rand(1, dtype=dtype)
        found = torch.zeros_like(left)
        loops.over_elements(library, "add", [left, right, found], [more])
        assert torch.equal(found, left + right + more)
        loops.over_elements(library, "add", [left, None, found], [more])
        assert torch.equal(found, left + 0 + more)
    finally:
        torch.set_num_threads(before)


def test_suitable_tensors_are_contiguous_and_of_one_dtype():
    plain = torch.zeros(4, 4)
    assert loops.suitable([None, plain, plain[1:]])
    for other in (plain.t(), plain[:, 1:], plain.half(), plain.long(), plain.to("meta")):
        assert not loops.suitable([other])
    assert not loops.suitable([plain, plain.double()])


def test_what_does_not_agree_is_not_used():
    with pytest.warns(UserWarning, match=r"^the sums differ from the tensors' and are not used$"):
        assert loops.if_it_agrees(1, lambda kernel: kernel == 2, "the sums") is None
    with torch.inference_mode():
        assert loops.if_it_agrees(2, lambda kernel: torch.zeros(1, requires_grad=True).requires_grad, "the sums") == 2
    assert loops.if_it_agrees(None, lambda kernel: pytest.fail("nothing to compare"), "the sums") is None


def test_without_a_compiler_there_is_no_library():
    assert loops.library("certtrain.bounds", "relu.c", {"CERTTRAIN_COMPILER": ""}) is None
