"""C programs are compiled where there is a compiler, run in threads, and leave nothing behind."""

import os
import tempfile

import pytest
import torch

from certtrain.compiled import VARIABLE, compiled, in_threads

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
