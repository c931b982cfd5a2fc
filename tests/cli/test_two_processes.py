"""Two commands on one run directory: the second is refused, and what only reads is not."""

import json
import os
import socket

import pytest

from certtrain.cli.main import main
from certtrain.runs.directory import RunDirectory

pytestmark = pytest.mark.ops

CERTIFY = ["certify", "run=noise", "indices=first_5"]


@pytest.mark.parametrize(
    "second", [["train", "resume=noise", "epochs=3"], CERTIFY, [*CERTIFY, "name=other"], [*CERTIFY, "processes=2"]]
)
def test_the_second_is_refused_and_names_the_first(runs, snapshot, capsys, second):
    """Whatever the first does: training, or certifying the same or another certificate."""
    with RunDirectory(runs / "noise") as first:
        first.lock()
        before = snapshot(runs)
        assert main(second) == 2
        shown = capsys.readouterr().err
        assert f"another process (pid {os.getpid()} on {socket.gethostname()} since 2" in shown
        assert shown.count("certtrain: ") == 1
        assert snapshot(runs) == before
    assert main(second) == 0


def test_certifying_a_run_whose_training_has_no_checkpoint_yet(runs, capsys):
    (runs / "noise" / "checkpoints" / "last.ckpt").unlink()
    with RunDirectory(runs / "noise") as first:
        first.lock()
        assert main(CERTIFY) == 2
        assert f"another process (pid {os.getpid()} on" in capsys.readouterr().err
    assert main(CERTIFY) == 2
    assert "there is no checkpoint" in capsys.readouterr().err


def test_the_same_training_is_not_begun_twice(in_tmp, tiny, capsys):
    arguments = ["train", *tiny, "method=standard", "epochs=1", "name=run"]
    assert main(arguments) == 0
    with RunDirectory(in_tmp / "runs" / "run") as first:
        first.lock()
        assert main([*arguments, "epochs=2"]) == 2
        assert "is working in runs/run" in capsys.readouterr().err
    assert main([*arguments, "epochs=2"]) == 0
    assert json.loads((in_tmp / "runs" / "run" / "result.json").read_text())["epochs"] == 2


def test_reading_goes_on_meanwhile_and_changes_nothing(runs, snapshot, capsys):
    """A log whose last row is being written, too."""
    log = runs / "noise" / "certificates" / "smoothing_n100.tsv"
    card = json.loads(log.with_suffix(".json").read_text())
    log.with_suffix(".json").write_text(json.dumps(card | {"status": "running"}))
    with log.open("a") as file:
        file.write("360\t1")
    with RunDirectory(runs / "noise") as first:
        first.lock()
        before = snapshot(runs)
        outputs = runs.parent / "out"
        assert main(["report", "noise", "--output", str(outputs / "report.html"), "--images", "2"]) == 0
        assert main(["plot", str(log), "--output", str(outputs / "curve.png")]) == 2  # of a part no curve is drawn
        assert main(["audit", str(runs / "noise")]) in (0, 1)
        assert main(["export", "run=noise", "vnnlib=false", f"output={outputs}/export"]) == 0
        assert snapshot(runs) == before
    assert "another process" not in capsys.readouterr().err
