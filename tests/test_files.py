"""Files are replaced whole or not at all, and JSON is strict."""

import json
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from certtrain.errors import UserError
from certtrain.files import write_json_atomic, write_text_atomic


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
