"""`certtrain train` on several processes: one result, one message, nothing that hangs."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from certtrain.cli import certify, one_run, train
from certtrain.cli.main import main
from certtrain.errors import UserError
from certtrain.runs import environment
from certtrain.sessions import launcher
from certtrain.training.checkpoints import network_state, read_checkpoint
from certtrain.training.trainer_settings import TrainerSettings

pytestmark = pytest.mark.ops

ROOT = Path(__file__).resolve().parents[2]
TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
METHOD = ["method=crown_ibp", "optimizer=sgd", "optimizer.lr=0.05"]


def result(name: str) -> dict:
    with open(f"runs/{name}/result.json") as file:
        return json.load(file)


def weights(name: str) -> dict[str, torch.Tensor]:
    return network_state(read_checkpoint(f"runs/{name}/checkpoints/last.ckpt"))


def assert_close(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.allclose(first[name], second[name], rtol=0, atol=1e-5), name


@pytest.fixture
def at_step(monkeypatch):
    """Lets a rank do something while it computes a given training step, once."""

    def arm(step: int, rank: int, action: str) -> None:
        program = f"""
import os, signal, sys
from certtrain.cli.main import main
from certtrain.training.module import CertifiedTraining
step_of, done = CertifiedTraining.training_step, []
def training_step(self, batch, batch_idx):
    if self.global_step == {step} and os.environ["RANK"] == "{rank}" and not done:
        done.append(True)
        {action}
    return step_of(self, batch, batch_idx)
CertifiedTraining.training_step = training_step
sys.exit(main(["worker", sys.argv[-1]]))
"""
        monkeypatch.setattr(launcher, "WORKER", ("-c", program))

    return arm


def test_two_processes_stopped_and_ended_by_one_give_what_one_gives(in_tmp, tiny, at_step, capsys):
    """A signal to one of them in the second epoch of two; what is left, one process does."""
    assert main(["train", *tiny, *METHOD, "name=alone"]) == 0
    arguments = ["train", *tiny, *METHOD, "name=shared", "certify_test=true", "certifier=ibp"]
    at_step(15, 1, "os.kill(os.getpid(), signal.SIGTERM)")
    assert main([*arguments, *TWO]) == 143
    said = capsys.readouterr()
    assert "interrupted by SIGTERM: the same command goes on from here, runs/shared" in said.out
    assert said.out.count("epoch 1/2") == 2  # of alone, and of rank 0
    assert said.err == ""
    stopped = result("shared")
    assert (stopped["status"], stopped["trained"]) == ("interrupted", False)
    assert stopped["reason"] == "interrupted by SIGTERM"
    assert read_checkpoint("runs/shared/checkpoints/last.ckpt")["global_step"] > 15
    assert main(arguments) == 0
    assert_close(weights("shared"), weights("alone"))
    shared, alone = result("shared"), result("alone")
    assert shared["steps"] == alone["steps"]
    for key in ("clean", "certified", "n", "invalid"):
        assert shared["validation"][key] == pytest.approx(alone["validation"][key])
    rows = [Path(f"runs/{name}/metrics.csv").read_text().splitlines() for name in ("shared", "alone")]
    assert len(rows[0]) == len(rows[1])
    assert shared["test"]["ibp"]["n"] == 360


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_training_with_a_message(in_tmp, tiny, at_step, capsys, victim):
    at_step(5, victim, "os.kill(os.getpid(), signal.SIGKILL)")
    assert main(["train", *tiny, *METHOD, *TWO, "name=killed"]) == 1
    [said] = capsys.readouterr().err.splitlines()
    assert re.search(rf"process {victim + 1} of 2 \(pid \d+\) was ended by SIGKILL, as when memory runs out", said)
    assert said.endswith("the same command begins again in runs/killed")  # there is no checkpoint yet
    assert result("killed")["status"] == "interrupted"
    assert "was ended by SIGKILL" in result("killed")["reason"]


def test_a_mistake_that_all_processes_find_is_told_once_and_leaves_nothing(in_tmp, tiny, capsys):
    assert main(["train", *tiny, *METHOD, *TWO, "val_size=0.0007", "name=mistake"]) == 2
    said = capsys.readouterr().err
    assert said.count("2 processes cannot share 1 validation example(s)") == 1
    assert said.count("\n") == 3
    assert not (in_tmp / "runs" / "mistake").exists()


def test_one_sigterm_ends_a_training_of_which_a_process_hangs(in_tmp, tiny, at_step, monkeypatch, capsys):
    """Schedulers send one SIGTERM before they kill. Rank 0 waits in a sum over the processes, one of which stands."""
    monkeypatch.setattr(launcher, "SHUTDOWN_SECONDS", 2)
    at_step(15, 1, "os.kill(os.getppid(), signal.SIGTERM); os.kill(os.getpid(), signal.SIGSTOP)")
    assert main(["train", *tiny, *METHOD, *TWO, "checkpoint.every_n_seconds=0", "name=hung"]) == 143
    said = capsys.readouterr()
    assert said.err == "SIGTERM: stopping; what is done is kept (Ctrl-C again: at once)\n"
    assert "the same command goes on from here, runs/hung" in said.out
    assert result("hung")["status"] == "interrupted"
    assert 0 < read_checkpoint("runs/hung/checkpoints/last.ckpt")["global_step"] < 22


def test_torchrun(in_tmp, tiny):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1"]
    command += ["--master-port=0", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "-m", "certtrain"]
    arguments = ["train", *tiny, *METHOD, "trainer.accelerator=cpu"]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [*command, *arguments, "name=run"], capture_output=True, text=True, timeout=120, env=variables
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 2/2") == 1  # one of them prints
    assert main([*arguments, "name=alone"]) == 0
    assert_close(weights("run"), weights("alone"))


@pytest.mark.slow
def test_torchrun_certifies_and_finds_nothing_to_train(in_tmp, tiny):
    assert main(["train", *tiny, *METHOD, "name=run"]) == 0
    assert main(["certify", "run=run", "certifier=ibp", "name=alone"]) == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "certtrain"]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for arguments in (["train", *tiny, *METHOD, "name=run"], ["certify", "run=run", "certifier=ibp", "name=shared"]):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=200, env=variables)
        assert done.returncode == 0, done.stderr
    test = result("run")["test"]
    for key in ("clean", "certified", "acr_grid", "n", "indices_sha256"):
        assert test["shared_ibp"][key] == test["alone_ibp"][key]


@pytest.mark.slow
def test_what_trained_on_two_devices_is_certified_on_two(in_tmp, tiny):
    assert main(["train", *tiny, *METHOD, *TWO, "certify_test=true", "certifier=ibp", "name=two"]) == 0
    card = json.loads(Path("runs/two/certificates/ibp.json").read_text())
    assert [part["part"] for part in card["parts"]] == ["1", "2"]
    assert main(["certify", "run=two", "name=again", "certifier=ibp"]) == 0
    test = result("two")["test"]
    for key in ("clean", "certified", "acr_grid", "n", "indices_sha256"):
        assert test["ibp"][key] == test["again_ibp"][key]


@pytest.mark.slow
def test_the_lines_of_the_page_for_slurm(in_tmp, tiny):
    """As they stand there, on one node, with two tasks in place of four GPUs."""
    text = (ROOT / "docs" / "processes.md").read_text(encoding="utf-8")
    scripts = re.findall(r"^```bash\n(#!/bin/bash\n#SBATCH .*?)^```", text, re.M | re.S)
    [script] = [script for script in scripts if "torchrun" in script]
    folder = in_tmp / "bin"
    folder.mkdir()
    torchrun = f"{sys.executable} -m torch.distributed.run"
    programs = {"srun": 'exec "$@"', "scontrol": "echo 127.0.0.1", "uv": f'shift 2\nexec {torchrun} "$@"'}
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    own = " ".join([*(shlex.quote(word) for word in [*tiny, *METHOD]), "trainer.accelerator=cpu", "name=slurm"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = script.replace("--nproc-per-node=4", "--nproc-per-node=2").replace(":29500", f":{port}")
    (in_tmp / "job.sh").write_text(re.sub(r"experiment=\S+", lambda _: own, script))
    variables = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    variables |= {"SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "this"}
    done = subprocess.run(["bash", "job.sh"], env=variables, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert result("slurm")["trained"]


@pytest.fixture
def under_torchrun(monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)


def test_torchruns_place(under_torchrun, monkeypatch):
    assert environment.torchrun() == (1, 4, 1)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert environment.torchrun() is None
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    assert environment.torchrun() is None


@pytest.mark.parametrize("arguments", [["-m", "seed=0,1"], ["seeds=3"]])
def test_torchrun_of_several_runs_is_refused(under_torchrun, arguments):
    with pytest.raises(UserError, match="one training, not of several"):
        train.prepare(arguments)


def test_torchruns_processes_certify_shards(under_torchrun, runs):
    assert certify.prepare(["run=bounds"])[-1] == "shard=2/4"
    assert "shard=1/9" in certify.prepare(["run=bounds", "shard=1/9"])
    assert not any(word.startswith("shard") for word in certify.prepare(["run=bounds"], "predict"))


def test_torchruns_number_and_the_configured_one(under_torchrun):
    assert one_run.device_count({"trainer": {"devices": "auto"}}) == 4
    assert one_run.device_count({"trainer": {"devices": 4}}) == 4
    with pytest.raises(UserError, match="torchrun started 4 processes"):
        one_run.device_count({"trainer": {"devices": 3}})


def test_a_study_trains_its_trials_on_one_device(in_tmp, tiny, capsys):
    assert main(["train", *tiny, "method=gaussian", "sigma=0.1", "sweep=optuna", "sweep.n_trials=1", *TWO]) == 2
    assert "each trial of a study trains on one device" in capsys.readouterr().err


def test_more_gpus_than_there_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    count = one_run.device_count
    assert count({"trainer": {"devices": "auto"}}) == 2
    assert count({"trainer": {"devices": 3, "accelerator": "cpu"}}) == 3
    with pytest.raises(UserError, match=r"torch sees 2 GPU") as caught:
        count({"trainer": {"devices": 3}})
    assert "trainer.devices=2" in caught.value.fix


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize(
    "asked",
    [
        {"accelerator": "gpu"},
        {"accelerator": "gpu", "devices": 4},
        {"accelerator": "gpu", "devices": "auto"},
        {"accelerator": "cuda"},
        {"accelerator": "mps"},
        {"accelerator": "tpu"},
        {"devices": 4},
        {"devices": "auto"},
    ],
)
def test_gpus_that_are_not_there_are_not_replaced_by_the_processor(no_gpu, asked):
    with pytest.raises(UserError) as caught:
        one_run.device_count({"trainer": asked})
    assert "trainer.accelerator=cpu" in caught.value.fix


def test_processors_are_taken_where_they_are_asked_for_or_nothing_is(no_gpu):
    assert one_run.device_count({"trainer": {}}) == 1
    assert one_run.device_count({"trainer": {"accelerator": "cpu", "devices": "auto"}}) == 1
    assert one_run.device_count({"trainer": {"accelerator": "cpu", "devices": 3}}) == 3


@pytest.mark.parametrize("asked", [["trainer.accelerator=gpu", "trainer.devices=4"], ["trainer=ddp"]])
def test_a_training_on_gpus_that_are_not_there_is_refused_and_leaves_nothing(in_tmp, tiny, no_gpu, capsys, asked):
    assert main(["train", *tiny, "method=standard", *asked, "name=run"]) == 2
    assert "trainer.accelerator=cpu" in capsys.readouterr().err
    assert not (in_tmp / "runs" / "run").exists()


def test_torchrun_with_more_processes_than_gpus(under_torchrun, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=r"process 2 of this machine.* 1 GPU") as caught:
        one_run.device_count({"trainer": {"devices": "auto"}})
    assert "--nproc-per-node=1" in caught.value.fix
    assert one_run.device_count({"trainer": {"devices": "auto", "accelerator": "cpu"}}) == 4


@pytest.mark.parametrize("precision", ["tf32", "bf16-mixed"])
def test_a_precision_that_the_gpu_is_too_old_for(monkeypatch, precision):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    with pytest.raises(UserError, match=r"8\.0 or higher, this GPU has 7\.5"):
        TrainerSettings(precision=precision)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert TrainerSettings(precision=precision).precision == precision
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert TrainerSettings().device_type == "cuda"


def test_too_few_validation_examples_to_share(monkeypatch):
    from certtrain.sessions import fitting

    class Data:
        val = (1, 2)

    fitting.refuse_unshareable(Data())
    monkeypatch.setattr(fitting, "processes", lambda: 3)
    with pytest.raises(UserError, match="cannot share 2 validation"):
        fitting.refuse_unshareable(Data())


def test_reduced_precision_trains_methods_without_bounds(in_tmp, tiny):
    assert main(["train", *tiny, "method=gaussian", "sigma=0.1", "trainer.precision=bf16-mixed", "name=bf16"]) == 0
    assert all(value.dtype == torch.float32 for value in weights("bf16").values())
    assert result("bf16")["validation"]["clean"] > 0.5
