"""Files are replaced whole or not at all, and JSON is strict."""

import errno
import json
import os
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from certtrain.cli.main import main
from certtrain.errors import DiskFull, UserError
from certtrain.system import files
from certtrain.system.files import append_text, check_name, explained, unwritable, write_json_atomic, write_text_atomic


def test_replaces_and_makes_parents(tmp_path):
    path = tmp_path / "a" / "b.txt"
    write_text_atomic(path, "old\n")
    assert write_text_atomic(path, "new sigma σ\n") == path
    assert path.read_text(encoding="utf-8") == "new sigma σ\n"
    assert os.listdir(path.parent) == ["b.txt"]


def test_failure_keeps_the_old_content_and_leaves_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_text_atomic(path, "old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match="No space left"):
        write_text_atomic(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.json"]


def test_unwritable_directory_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        write_text_atomic(tmp_path / "file" / "result.json", "x")


def test_json_values(tmp_path):
    value = {
        Fraction(2, 255): Fraction(3, 10),
        "path": Path("a/b"),
        "nan": float("nan"),
        "inf": [float("inf"), 0.1],
        "numpy": np.float32(0.5),
        "count": np.int64(3),
        "tensor": torch.tensor([1, 2]),
        "flag": True,
        "none": None,
    }
    read = json.loads(write_json_atomic(tmp_path / "x.json", value).read_text())
    assert read == {
        "2/255": "0.3",
        "path": "a/b",
        "nan": None,
        "inf": [None, 0.1],
        "numpy": 0.5,
        "count": 3,
        "tensor": [1, 2],
        "flag": True,
        "none": None,
    }


def test_json_without_a_form_writes_nothing(tmp_path):
    write_json_atomic(tmp_path / "x.json", {"a": 1})
    with pytest.raises(TypeError, match="object"):
        write_json_atomic(tmp_path / "x.json", {"a": object()})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}


def torn(full_after):
    """A disk with room for so many more bytes."""

    def put(file, content):
        file.write(content[:full_after])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return put


def test_what_is_added_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "log.tsv"
    append_text(path, "a\tσ\n")
    append_text(path, "b\n", sync=False)
    assert path.read_text(encoding="utf-8") == "a\tσ\nb\n"
    with monkeypatch.context() as patch:
        patch.setattr(files, "put", torn(3))
        for _ in range(2):
            with pytest.raises(DiskFull, match=r"there is no room for .*log\.tsv: No space left on device"):
                append_text(path, "0123456\n")
    assert path.read_text(encoding="utf-8") == "a\tσ\nb\n"
    append_text(path, "c\n")
    assert path.read_text(encoding="utf-8") == "a\tσ\nb\nc\n"


def test_a_raw_file_that_takes_less_gets_the_rest():
    class Slow:
        content = b""

        def write(self, rest):
            self.content += bytes(rest[:3])
            return min(3, len(rest))

    files.put(slow := Slow(), b"0123456789")
    assert slow.content == b"0123456789"


def test_a_full_disk_says_where_and_how_to_go_on(tmp_path):
    missing = tmp_path / "a" / "b" / "c.json"  # folders that could not be made, either
    found = unwritable(missing, OSError(errno.ENOSPC, "No space left on device"), where="x", fix="y")
    assert isinstance(found, DiskFull)
    assert found.what == f"there is no room for {missing}: No space left on device"
    assert re.fullmatch(rf"the disk at {re.escape(str(tmp_path))}, [\d,]+\.\d MB free of [\d,]+\.\d MB", found.where)
    assert "give the same command again" in found.fix
    quota = unwritable(missing, OSError(errno.EFBIG, "File too large"))
    assert quota.fix.startswith("raise it and give the same command again")
    assert quota.where.startswith("the limit of one file's size (ulimit -f) at ")
    other = unwritable(missing, OSError(errno.EROFS, "Read-only file system"), where="x", fix="y")
    assert (other.what, other.where, other.fix) == (f"cannot write {missing}: Read-only file system", "x", "y")
    assert not isinstance(other, DiskFull)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/a/b"), "there is no room for /a/b"),
        (OSError(errno.ENOSPC, "No space left on device"), "there is no room on a disk"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/a/b"), "Disk quota exceeded"),
        (OSError(errno.EROFS, "Read-only file system", "/a/b"), "cannot write /a/b: Read-only"),
        (PermissionError(errno.EACCES, "Permission denied", "/a/b"), "/a/b: Permission denied"),
        (OSError(errno.EPIPE, "Broken pipe"), None),
        (PermissionError(errno.EACCES, "Permission denied"), None),
    ],
)
def test_errors_that_nobody_expected_where_they_came(error, message, monkeypatch, capsys):
    found = explained(error)
    assert (found is None) == (message is None)

    def raises(*_):
        raise error

    monkeypatch.setattr("certtrain.cli.table.main", raises)
    if message is None:
        with pytest.raises(OSError, match=error.strerror):
            main(["table"])
        return
    assert message in found.what
    assert main(["table"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("certtrain: ")
    assert message in shown
    assert "Traceback" not in shown
    with pytest.raises(OSError, match=error.strerror):
        main(["table", "--traceback"])


@pytest.mark.parametrize("name", ["a", "quickstart-seed0", "eps=0.1,0.2", "été", "mit Leerzeichen", "v1.2", 3, 0.5])
def test_names(name):
    assert check_name(name) == str(name)


@pytest.mark.parametrize(
    "name",
    ["../../x", "a/b/c", "/etc", "a\\b", "..", ".", ".hidden", "", " ", "a\nb", "a\x1b[2J", True, [1], None],
)
def test_what_is_no_name_of_one_folder_or_file(name):
    with pytest.raises(UserError, match="is not a name"):
        check_name(name)
