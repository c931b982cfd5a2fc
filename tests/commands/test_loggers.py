"""Several loggers at once: metrics.csv always, TensorBoard's events, wandb with artifacts."""

import json
import time

import pytest

from certtrain import cli


@pytest.fixture
def no_wandb_key(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def test_both_beside_the_csv(in_tmp, tiny, no_wandb_key):
    arguments = [*tiny, "method=standard", "certifier=ibp", "certifier.ibp.attack_steps=2", "falsify.examples=0"]
    arguments += ["logger=[tensorboard,wandb]", "logger.wandb.artifacts=true", "certify_test=true", "name=both"]
    assert cli.main(["train", *arguments]) == 0
    run = in_tmp / "runs" / "both"
    assert "train/loss" in (run / "metrics.csv").read_text().splitlines()[0]
    [events] = (run / "tensorboard").glob("events.out.tfevents.*")
    written = events.read_bytes()
    for tag in (b"train/loss", b"val/clean", b"test/ibp/certified_0.05", b"test/certified_accuracy_plot"):
        assert tag in written, tag
    [folder] = (run / "wandb").glob("offline-run-*")
    [record] = folder.glob("*.wandb")
    deadline = time.monotonic() + 60
    while b"-certificates" not in (log := record.read_bytes()) and time.monotonic() < deadline:
        time.sleep(0.5)  # wandb's own process writes it
    assert b"-model" in log
    assert b"-certificates" in log
    assert json.loads((run / "result.json").read_text())["status"] == "complete"


def test_an_unknown_logger_names_the_known(in_tmp, tiny, capsys):
    assert cli.main(["train", *tiny, "logger=[csv,tensorbord]"]) == 2
    assert "tensorboard" in capsys.readouterr().err
