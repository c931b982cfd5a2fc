"""TensorBoard's event files hold what metrics.csv holds."""

import errno
import struct
import subprocess
import sys
import threading

import pytest
from claims import LINF

from certtrain.errors import DiskFull, UserError
from certtrain.training.loggers.tensorboard_logger import TensorBoardMetrics


def events(folder):
    """Every (tag, step, value) of the folder's event files, in the order they were written."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack("<Q", data[at : at + 8])
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            for value in event.summary.value:
                kind = "image" if value.HasField("image") else value.simple_value
                found.append((value.tag, event.step, kind))
            if event.HasField("session_log"):
                found.append(("session start", event.step, None))
    return found


@pytest.fixture
def entry():
    found = {"claim": LINF.to_dict(), "clean": 0.75, "certified": {"2/255": 0.5}, "acr_grid": 0.25, "n": 10}
    return {**found, "abstained": 0, "invalid": 0, "certifier": "ibp", "settings": {}, "indices_sha256": "0"}


def test_scalars_test_results_and_the_figure(tmp_path, entry):
    from PIL import Image

    Image.new("RGB", (8, 4)).save(tmp_path / "figure.png")
    logger = TensorBoardMetrics(tmp_path / "run")
    logger.log_hyperparams({"eps": 0.1})
    logger.resume_from(0)  # as at the start of any run
    logger.log_metrics({"train/loss": 0.5, "epoch": 0}, step=10)
    logger.log_metrics({"train/loss": 0.25}, step=20)
    logger.log_test({"ibp": entry}, tmp_path / "figure.png")
    logger.finalize("success")
    logger.close()
    logger.close()
    found = events(tmp_path / "run" / "tensorboard")
    assert ("train/loss", 10, 0.5) in found
    assert ("train/loss", 20, 0.25) in found
    assert ("test/ibp/certified_2_255", 20, 0.5) in found
    assert ("test/ibp/clean", 20, 0.75) in found
    assert ("test/certified_accuracy_plot", 20, "image") in found
    assert not [tag for tag, _, _ in found if tag == "test/ibp/acr"]
    assert any(tag.startswith("configuration") for tag, _, _ in found)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["tensorboard"]  # and no hparams.yaml beside
    assert not list((tmp_path / "run" / "tensorboard").glob("*.yaml"))


def test_a_resumed_run_hides_what_it_logs_again(tmp_path):
    for resumed in (False, True):
        logger = TensorBoardMetrics(tmp_path)
        if resumed:
            logger.resume_from(10)
        logger.log_metrics({"train/loss": 1.0}, step=20)
        logger.close()
    assert ("session start", 11, None) in events(tmp_path / "tensorboard")


def test_nothing_is_made_when_nothing_is_logged(tmp_path):
    logger = TensorBoardMetrics(tmp_path)
    logger.save()
    logger.finalize("success")
    logger.close()
    assert not (tmp_path / "tensorboard").exists()


def test_a_folder_is_what_it_is_called(tmp_path):
    """Lightning expands `~` and `$` in it."""
    for name in ("~", "$HOME"):
        logger = TensorBoardMetrics(tmp_path / name)
        logger.log_metrics({"train/loss": 1.0}, step=1)
        logger.close()
        assert ("train/loss", 1, 1.0) in events(tmp_path / name / "tensorboard")


def test_without_a_package(tmp_path, monkeypatch):
    for package in ("_TENSORBOARD_AVAILABLE", "_TENSORBOARDX_AVAILABLE"):
        monkeypatch.setattr(f"lightning.fabric.loggers.tensorboard.{package}", False)
    with pytest.raises(UserError, match="neither tensorboard nor tensorboardX"):
        TensorBoardMetrics(tmp_path)


@pytest.mark.parametrize("when", ["add_scalar", "flush", "close"])
def test_no_room_for_the_events(tmp_path, monkeypatch, when):
    logger = TensorBoardMetrics(tmp_path)
    logger.log_metrics({"train/loss": 0.5}, step=1)
    writer = logger.experiment

    def raises(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer, when, raises)
    calls = {"add_scalar": lambda: logger.log_metrics({"train/loss": 1.0}, 2), "flush": lambda: logger.finalize("x")}
    with pytest.raises(DiskFull, match=r"there is no room for .*tensorboard/events"):
        calls.get(when, logger.close)()
    logger.close()  # in the finally of who has it
    monkeypatch.undo()
    writer.file_writer.event_writer.close()  # as tensorboardX does when Python ends
    # tensorboardX has none: one that meets a full disk dies, and training waits for ever before a full queue.
    assert not [thread for thread in threading.enumerate() if type(thread).__module__.startswith("tensorboardX")]


@pytest.mark.ops
def test_a_disk_that_fills_up_while_tensorboardx_writes(tmp_path):
    program = f"""
import resource, threading
from certtrain.training.loggers.tensorboard_logger import TensorBoardMetrics
from certtrain.errors import DiskFull
logger = TensorBoardMetrics({str(tmp_path)!r})
logger.log_metrics({{"loss": 1.0}}, 0)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
try:
    for step in range(100_000):
        logger.log_metrics({{"loss": 1.0}}, step)
except DiskFull as error:
    print(error)
logger.close()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "there is no room for" in done.stdout
    assert done.stderr == ""
