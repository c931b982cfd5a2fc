"""C programs are compiled where there is a compiler, run in threads, and leave nothing behind."""

import os
import tempfile

import pytest
import torch

from certtrain.kernels import loader
from certtrain.kernels.loader import VARIABLE, compiled, in_threads

PROGRAM = "int twice(int x) { return 2 * x; }"
needs_compiler = pytest.mark.skipif(compiled(PROGRAM) is None, reason="this machine has no C compiler")


@needs_compiler
def test_a_program_runs_and_its_file_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert compiled(PROGRAM).twice(21) == 42
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", "a compiler that is not there", "false"])
def test_without_a_compiler_that_works_there_is_none(name):
    assert compiled(PROGRAM, {VARIABLE: name}) is None


@needs_compiler
def test_without_a_folder_for_temporary_files_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    assert compiled(PROGRAM) is None


@needs_compiler
def test_a_folder_that_cannot_be_emptied_costs_nothing(tmp_path, monkeypatch):
    """As on NFS, where a loaded library's file lives on under another name."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "rmdir", lambda *given, **more: (_ for _ in ()).throw(OSError("not empty")))
    assert compiled(PROGRAM).twice(21) == 42


def test_a_program_that_is_none_is_none():
    assert compiled("int twice(") is None


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("count", [0, 1, 5, 100])
def test_threads_share_the_work(threads, count):
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        seen = []
        in_threads(lambda start, stop: seen.extend(range(start, stop)), count, threads)
        assert sorted(seen) == list(range(count))
    finally:
        torch.set_num_threads(before)


@pytest.mark.filterwarnings("ignore:.*fork")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_has_threads_of_its_own():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        in_threads(lambda start, stop: None, 8, 8)
        child = os.fork()
        if child == 0:
            in_threads(lambda start, stop: None, 8, 8)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        torch.set_num_threads(before)


SUMS = """
void NAME(add)(int64_t count, const REAL *left, const REAL *right, REAL *sum, const REAL *more)
{
    for (int64_t i = 0; i < count; i++)
        sum[i] = left[i] + (right == NULL ? 0 : right[i]) + *more;
}
"""


@pytest.fixture
def library():
    found = compiled(loader.in_both_types(SUMS))
    if found is None:
        pytest.skip("this machine has no C compiler")
    loader.declare(found, {"add": (1, 4)})
    return found


@pytest.mark.parametrize("dtype", loader.NAMES)
@pytest.mark.parametrize("threads", [1, 3])
def test_every_element_once_in_either_dtype(library, monkeypatch, dtype, threads):
    monkeypatch.setattr(loader, "SEVERAL", 7)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        left, right, more = torch.rand(5, 20, dtype=dtype), torch.rand(5, 20, dtype=dtype), torch.rand(1, dtype=dtype)
        found = torch.zeros_like(left)
        loader.over_elements(library, "add", [left, right, found], [more])
        assert torch.equal(found, left + right + more)
        loader.over_elements(library, "add", [left, None, found], [more])
        assert torch.equal(found, left + 0 + more)
    finally:
        torch.set_num_threads(before)


def test_suitable_tensors_are_contiguous_and_of_one_dtype():
    plain = torch.zeros(4, 4)
    assert loader.suitable([None, plain, plain[1:]])
    for other in (plain.t(), plain[:, 1:], plain.half(), plain.long(), plain.to("meta")):
        assert not loader.suitable([other])
    assert not loader.suitable([plain, plain.double()])


class Empty:
    """Loops without a function."""

    def __init__(self, library):
        pass


@needs_compiler
def test_loops_that_do_not_agree_are_not_used():
    never = loader.Loader(Empty, lambda: PROGRAM, lambda loops: False, "the sums")
    with pytest.warns(UserWarning, match=r"^the sums differ from the tensors' and are not used"):
        assert never.get() is None
    assert never.get() is None  # asked and warned once
    with torch.inference_mode():  # the comparison takes gradients, whatever the first call is in
        always = loader.Loader(
            Empty, lambda: PROGRAM, lambda loops: torch.zeros(1, requires_grad=True).requires_grad, "the sums"
        )
        assert isinstance(always.get(), Empty)


def test_without_a_compiler_there_is_nothing_to_compare():
    none = loader.Loader(Empty, lambda: PROGRAM, lambda loops: pytest.fail("nothing to compare"), "the sums")
    assert none.build({VARIABLE: ""}) is None
