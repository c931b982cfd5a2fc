"""Folders that the user may read and not write: data are used as they are, a run is shown and not changed."""

import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.ops

ROOT = Path(__file__).resolve().parents[2]
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2  # <linux/prctl.h>, <linux/capability.h>
COMMANDS = """
import contextlib, io, json, sys
from certtrain.cli.main import main
for words in json.load(sys.stdin):
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        status = main(words)
    print(json.dumps([status, said.getvalue()]), flush=True)
"""


def mnist(folder: Path) -> None:
    """A few random images in the published files' form."""
    draw, raw = np.random.default_rng(0), folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, n in (("train", 60), ("t10k", 20)):
        images, labels = draw.integers(0, 256, (n, 28, 28), dtype=np.uint8), draw.integers(0, 10, n, dtype=np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
            head = bytes([0, 0, 8, array.ndim]) + sizes
            (raw / f"{part}-{name}-ubyte").write_bytes(head + array.tobytes())


def images(folder: Path) -> None:
    draw = np.random.default_rng(1)
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (folder / "pictures" / part / name).mkdir(parents=True)
            for number in range(10):
                pixels = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "pictures" / part / name / f"{number}.png")


@pytest.fixture
def folders(trained_runs, tmp_path):
    """`theirs`, which nobody may write, and `mine`, the working directory."""
    theirs, mine = tmp_path / "theirs", tmp_path / "mine"
    mnist(theirs)
    images(theirs)
    shutil.copytree(trained_runs / "bounds", theirs / "run")
    mine.mkdir()
    below = [theirs, *theirs.rglob("*")]
    for path in below:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield theirs, mine
    for path in below:
        if path.is_dir():
            path.chmod(0o755)


def give_up_rights() -> None:
    """Root minds modes like everybody else once it may not override them: the program that is started then does."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")


def as_user(words: list[str], mine: Path, text: str = "") -> subprocess.CompletedProcess:
    """A Python program with no rights beyond the files' modes."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    drop = give_up_rights if os.geteuid() == 0 else None
    command = [sys.executable, *words]
    return subprocess.run(
        command, cwd=mine, env=environment, input=text, capture_output=True, text=True, preexec_fn=drop
    )


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="modes are of POSIX")
def test_read_only_folders(folders, tiny, snapshot):
    theirs, mine = folders
    try:
        probe = as_user(["-c", f"open({str(theirs / 'x')!r}, 'w')"], mine)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"root cannot give up its rights here: {error}")
    if "PermissionError" not in probe.stderr:
        pytest.skip("this user may write what nobody may")
    train = ["train", *(word for word in tiny if not word.startswith("data=")), "method=standard", "epochs=1"]
    train += ["val_size=10", "validation.examples=5", f"data_dir={theirs}"]
    no_room_for_a_run = "cannot write the run directory"
    expected = {
        (*train, "data=mnist", "name=digits"): None,
        ("certify", "run=digits", "certifier=ibp", "certifier.ibp.attack_steps=2"): None,
        (*train, "data=image_folder", "data.folder=pictures", "data.image_size=8", "name=pictures"): None,
        (*train, "data=fashion_mnist", "name=clothes"): "set data_dir to a folder that you may write, to fetch them",
        (*train, "data=fashion_mnist", "data.download=false", "name=clothes"): "fashion_mnist is not in",
        (*train, "data=digits", f"runs_dir={theirs}/run"): no_room_for_a_run,
        ("certify", f"run={theirs}/run", "certifier=ibp", "name=new"): no_room_for_a_run,
        ("train", f"resume={theirs}/run", "epochs=3"): no_room_for_a_run,
        ("report", f"{theirs}/run"): "report.html: Permission denied",
        ("export", f"run={theirs}/run", "indices=first_1"): "cannot write",
        ("report", f"{theirs}/run", "--images", "0", "--output", "page.html"): None,
        ("plot", f"{theirs}/run", "--output", "curve.png"): None,
        ("audit", f"{theirs}/run"): None,
        ("export", f"run={theirs}/run", "indices=first_1", "output=exported"): None,
    }
    before = snapshot(theirs)
    done = as_user(["-c", COMMANDS], mine, json.dumps([list(words) for words in expected]))
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(answers) == len(expected), done.stderr
    for (words, message), (status, shown) in zip(expected.items(), answers):
        assert "Traceback" not in shown, words
        assert status == (0 if message is None else 2), (words, shown)
        if message is not None:
            assert shown.count("certtrain: ") == 1
            assert message in shown, words
    assert snapshot(theirs) == before
    assert not (mine / "runs" / "clothes").exists()
    assert (mine / "page.html").stat().st_size > 10_000
