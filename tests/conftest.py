"""Fixtures that many tests share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def certtrain_data() -> Path:
    """The folder with the real MNIST and CIFAR-10; the test is skipped where there is none."""
    folder = os.environ.get("CERTTRAIN_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("CERTTRAIN_DATA names no folder with the unpacked data sets")
    return Path(folder)


@pytest.fixture
def in_tmp(tmp_path, monkeypatch) -> Path:
    """A fresh working directory, so that runs/ lands there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
