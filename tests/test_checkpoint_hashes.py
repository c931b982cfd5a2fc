"""`result.json` keeps the hash of each checkpoint, and every command that reads one holds it to that."""

import json

import numpy as np
import pytest
import torch
from run_files import forget_hashes, result

import certtrain
from certtrain.cli.main import main
from certtrain.errors import UserError

COMMANDS = {
    "certify": ["certify", "run=bounds", "certifier=ibp"],
    "predict": ["predict", "run=bounds", "input=digit.npy"],
    "export": ["export", "run=bounds"],
}


@pytest.fixture
def run(runs):
    np.save("digit.npy", np.zeros((1, 8, 8), dtype=np.float32))
    return runs / "bounds"


def refused(capsys, command, *words):
    assert main(command) == 2
    shown = capsys.readouterr().err
    for word in words:
        assert word in shown


def flip(path):
    """One bit of a weight, with the checksum of the archive mended, as a careful forger would."""
    content = torch.load(path, weights_only=True)
    weight = content["state_dict"]["network.2.weight"].view(torch.int32)
    weight[0, 0] ^= 1
    torch.save(content, path)


@pytest.mark.parametrize("which", ["last", "best"])
def test_a_checkpoint_that_was_replaced_is_refused(run, capsys, which):
    kept = result(run)["checkpoints_sha256"]
    assert sorted(kept) == sorted(path.name for path in (run / "checkpoints").glob("*.ckpt"))
    flip(run / "checkpoints" / f"{which}.ckpt")
    words = (f"{which}.ckpt", "damaged or replaced", f"checkpoints_sha256.{which}.ckpt")
    for command in ("certify", "predict", "export"):
        refused(capsys, [*COMMANDS[command], f"checkpoint={which}"], *words)
    with pytest.raises(UserError, match="damaged or replaced"):
        certtrain.load(run, checkpoint=which)
    if which == "last":
        refused(capsys, ["train", "resume=bounds", "epochs=3"], *words)
        same = ["data=digits", "model=mlp", "model.hidden=[16]", "method=standard", "epochs=1", "trainer=cpu"]
        refused(capsys, ["train", *same, "init=bounds", "name=new"], *words)
        assert main(["audit", str(run), "--verbose"]) == 1
        assert "checkpoints_sha256 of last.ckpt" in " ".join(capsys.readouterr().out.split())
        assert main(["report", "bounds"]) == 0
        assert "checkpoints_sha256 of last.ckpt" in (run / "report.html").read_text()
    else:
        certtrain.load(run)


def test_a_flipped_bit_is_seen_without_a_hash(run, capsys):
    forget_hashes(run)
    last = run / "checkpoints" / "last.ckpt"
    content, weight = bytearray(last.read_bytes()), certtrain.load(run)[2].weight
    at = content.find(weight.detach().numpy().tobytes())
    content[at + 5] ^= 4
    last.write_bytes(content)
    refused(capsys, COMMANDS["certify"], "corrupt", "checksum")
    refused(capsys, ["train", "resume=bounds", "epochs=3"], "corrupt", "checksum")


def test_a_run_without_hashes_is_used_and_it_is_said(run, capsys):
    forget_hashes(run)
    for command in ("predict", "export"):
        assert main(COMMANDS[command]) == 0
        assert "result.json keeps no hash of last.ckpt" in " ".join(capsys.readouterr().out.split())
    assert main(["audit", str(run), "--verbose"]) == 0
    assert "keeps no hash of last.ckpt" in " ".join(capsys.readouterr().out.split())
    assert main(["train", "resume=bounds", "epochs=3"]) == 0
    assert "last.ckpt" in result(run)["checkpoints_sha256"]


def test_training_on_replaces_the_hashes_and_superseded_certificates_stay_sound(run, capsys):
    before = result(run)["checkpoints_sha256"]
    assert main(["train", "resume=bounds", "epochs=3"]) == 0
    after = result(run)["checkpoints_sha256"]
    assert before["last.ckpt"] != after["last.ckpt"]
    [old] = (run / "certificates").glob("superseded_1/ibp.json")
    assert json.loads(old.read_text())["checkpoint_sha256"] == before["last.ckpt"]
    capsys.readouterr()
    assert main(["audit", str(old), "--verbose"]) == 0
    assert main(["audit", str(run)]) == 0


def test_an_interrupted_training_keeps_the_hash_of_what_it_left(in_tmp, tiny, monkeypatch, capsys):
    from certtrain.training.callbacks import signals
    from certtrain.training.callbacks.training_log import TrainingLog

    arguments = ["train", *tiny, "method=standard", "epochs=2", "name=it", "seed=0"]
    original = TrainingLog.on_train_batch_end

    def interrupt(self, trainer, *rest):
        original(self, trainer, *rest)
        if trainer.global_step == 3:
            flag = next(c.flag for c in trainer.callbacks if isinstance(c, signals.StopAtSignal))
            flag.number = 15

    monkeypatch.setattr(TrainingLog, "on_train_batch_end", interrupt)
    assert main(arguments) == 143
    run = in_tmp / "runs" / "it"
    assert sorted(result(run)["checkpoints_sha256"]) == ["last.ckpt"]
    monkeypatch.setattr(TrainingLog, "on_train_batch_end", original)
    kept = (run / "checkpoints" / "last.ckpt").read_bytes()
    flip(run / "checkpoints" / "last.ckpt")
    capsys.readouterr()
    assert main(arguments) == 2
    assert "damaged or replaced" in capsys.readouterr().err
    (run / "checkpoints" / "last.ckpt").write_bytes(kept)
    assert main(arguments) == 0
    assert result(run)["status"] == "complete"
