"""A data set's files are fetched once, whoever asks for them at the same time."""

import threading
import time

import pytest

from certtrain.data.files import DOWNLOADING, require_files
from certtrain.errors import UserError

NAMES = ("a", "b")


def test_one_fetches_and_the_others_wait_for_the_whole(tmp_path):
    folder, fetched, found = tmp_path / "set" / "raw", [], []

    def download():
        fetched.append(True)
        for name in NAMES:
            (folder / name).touch()  # there, and not whole yet
        time.sleep(0.3)
        for name in NAMES:
            (folder / name).write_text("whole")

    def ask():
        require_files(folder, NAMES, data="x", download=download)
        found.append([(folder / name).read_text() for name in NAMES])

    first, *others = [threading.Thread(target=ask) for _ in range(4)]
    first.start()
    while not (folder / "b").exists():
        time.sleep(0.01)
    for other in others:
        other.start()
    for thread in (first, *others):
        thread.join()
    assert fetched == [True]
    assert found == [["whole"] * 2] * 4
    assert not (folder / DOWNLOADING).exists()


def test_a_download_that_was_killed_or_failed_is_in_nobodys_way(tmp_path):
    (tmp_path / DOWNLOADING).touch()
    (tmp_path / "a").touch()
    with pytest.raises(UserError, match="download failed: OSError: no network"):
        require_files(tmp_path, NAMES, data="x", download=lambda: (_ for _ in ()).throw(OSError("no network")))
    require_files(tmp_path, NAMES, data="x", download=(tmp_path / "b").touch)
    assert {path.name for path in tmp_path.iterdir()} == set(NAMES)
