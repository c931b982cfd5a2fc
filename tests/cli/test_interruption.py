"""Signals and kills: what was computed stays, and the same command ends with the weights of an undisturbed run."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from certtrain.certifiers import SmoothingCertifier
from certtrain.cli.main import main
from certtrain.sessions.fitting import other_device
from certtrain.training.checkpoints import network_state, read_checkpoint
from certtrain.training.module import CertifiedTraining

pytestmark = pytest.mark.ops


def result(path) -> dict:
    return json.loads((path / "result.json").read_text())


def weights(path) -> dict[str, torch.Tensor]:
    return network_state(read_checkpoint(path / "checkpoints" / "last.ckpt"))


def same_weights(first, second) -> bool:
    first, second = weights(first), weights(second)
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture
def signal_at(monkeypatch):
    """Sends this process a signal while it computes a given training step, once."""

    def arm(step: int, number: int) -> None:
        step_of = CertifiedTraining.training_step
        sent = []

        def training_step(self, batch, batch_idx):
            if self.global_step == step and not sent:
                sent.append(True)
                os.kill(os.getpid(), number)
            return step_of(self, batch, batch_idx)

        monkeypatch.setattr(CertifiedTraining, "training_step", training_step)

    return arm


# In mid-epoch, at the last batch of the first epoch, in the second epoch.
@pytest.mark.parametrize(
    ("number", "status", "step"), [(signal.SIGINT, 130, 5), (signal.SIGTERM, 143, 10), (signal.SIGINT, 130, 14)]
)
def test_a_signal_saves_and_the_same_command_goes_on_bit_for_bit(in_tmp, tiny, signal_at, capsys, number, status, step):
    arguments = ["train", *tiny, "method=gaussian", "sigma=0.1", "data.augment.crop_padding=1"]
    assert main([*arguments, "name=whole"]) == 0
    before = signal.getsignal(number)
    signal_at(step, number)
    assert main([*arguments, "name=stopped"]) == status
    assert signal.getsignal(number) is before
    run = in_tmp / "runs" / "stopped"
    assert result(run)["status"] == "interrupted"
    assert signal.Signals(number).name in result(run)["reason"]
    assert read_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"] == step + 1
    assert "goes on from here" in capsys.readouterr().out
    assert main([*arguments, "name=stopped"]) == 0
    assert f"from step {step + 1} of" in capsys.readouterr().out
    assert result(run)["status"] == "complete"
    assert "reason" not in result(run)
    assert result(run)["validation"]["certified"] == result(in_tmp / "runs" / "whole")["validation"]["certified"]
    assert same_weights(run, in_tmp / "runs" / "whole")


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_a_run_that_goes_on_with_other_threads_says_that_its_sums_round_otherwise(
    in_tmp, tiny, signal_at, threads, capsys
):
    arguments = ["train", *tiny, "method=standard", "name=run"]
    for count, step in ((1, 3), (1, 7), (2, 9)):
        threads(count)
        signal_at(step, signal.SIGTERM)
        assert main(arguments) == 143
        said = capsys.readouterr().out
        assert ("computed on 1 thread(s), and this is on 2" in said) is (count == 2)
        assert ("OMP_NUM_THREADS=1 avoids that" in said) is (count == 2)


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ("cuda", "cpu", True),
        ("cpu", "cuda", True),
        ("cpu", "cpu", False),
        ("cuda", "cuda", False),
        (None, "cpu", False),
    ],
)
def test_a_run_that_goes_on_on_another_kind_of_device_says_that_it_rounds_otherwise(before, now, said):
    told = other_device({"certtrain": {} if before is None else {"device": before}}, now)
    assert (told is not None) == said
    assert not said or (f"computed on {before}" in told and f"goes on on {now}" in told)


def test_a_signal_ends_a_whole_multirun(in_tmp, tiny, signal_at):
    signal_at(3, signal.SIGINT)
    assert main(["train", "-m", *tiny, "method=standard", "seed=0,1,2"]) == 130
    [run] = [path for path in (in_tmp / "runs").iterdir() if path.is_dir()]
    assert result(run)["status"] == "interrupted"


def test_an_interrupted_extension_is_not_taken_for_trained(runs, signal_at):
    """The run had trained its two epochs; a third one is begun, stopped, and must then be finished."""
    signal_at(25, signal.SIGINT)
    assert main(["train", "resume=noise", "epochs=3"]) == 130
    assert result(runs / "noise")["status"] == "interrupted"
    assert result(runs / "noise")["test"] == {}
    assert main(["train", "resume=noise"]) == 0
    assert result(runs / "noise")["status"] == "complete"
    assert (
        result(runs / "noise")["steps"] == read_checkpoint(runs / "noise" / "checkpoints" / "last.ckpt")["global_step"]
    )
    assert result(runs / "noise")["steps"] % 3 == 0


def test_a_signal_while_certifying_keeps_the_rows(in_tmp, tiny, monkeypatch, capsys):
    arguments = ["train", *tiny, "method=gaussian", "sigma=0.1", "epochs=1", "certify_test=true", "name=run"]
    certify, certified = SmoothingCertifier.certify, []

    def watched(self, network, batch):
        if self.split == "test":
            certified.extend(batch.index.tolist())
            if len(certified) == 32 and len(batch.index) == 16:
                os.kill(os.getpid(), signal.SIGTERM)
        return certify(self, network, batch)

    monkeypatch.setattr(SmoothingCertifier, "certify", watched)
    assert main(arguments) == 143
    run = in_tmp / "runs" / "run"
    assert result(run)["status"] == "interrupted"
    kept = (run / "certificates" / "smoothing_n100.tsv").read_text()
    assert len(kept.splitlines()) == 1 + 32
    monkeypatch.setattr("certtrain.sessions.fitting.fit_run", None)  # training again would fail
    assert main(arguments) == 0
    assert (run / "certificates" / "smoothing_n100.tsv").read_text().startswith(kept)
    assert sorted(certified) == list(range(360))  # each example once
    assert result(run)["status"] == "complete"
    assert result(run)["test"]["smoothing_n100"]["n"] == 360


def started(arguments, folder) -> subprocess.Popen:
    """A training process, once it has written its first checkpoint."""
    command = [sys.executable, "-m", "certtrain", *arguments]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    last, limit = folder / "runs" / "stopped" / "checkpoints" / "last.ckpt", time.monotonic() + 200
    while not last.exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_killed_process_loses_only_the_steps_since_its_last_save(in_tmp, tiny, number):
    arguments = ["train", *tiny, "method=gaussian", "sigma=0.1", "epochs=40", "validation.every_n_epochs=20"]
    assert main([*arguments, "name=whole"]) == 0
    arguments += ["name=stopped", "checkpoint.every_n_seconds=0"]
    process = started(arguments, in_tmp)
    time.sleep(random.uniform(0, 0.3))
    process.send_signal(number)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), errors
    run = in_tmp / "runs" / "stopped"
    assert result(run)["status"] == "interrupted"
    step = read_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"]
    assert 0 < step < 440
    assert main(arguments) == 0
    resumed, whole = weights(run), weights(in_tmp / "runs" / "whole")
    different = {name: float((resumed[name] - whole[name]).abs().max()) for name in whole}
    assert not any(different.values()), (step, different, torch.get_num_threads())
    with (run / "metrics.csv").open() as file:
        steps = [int(line.split(",")[0]) for line in file.readlines()[1:]]
    assert steps == sorted(steps)
