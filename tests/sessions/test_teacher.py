"""`method.teacher=RUN` and `method.teacher=FILE`: what a training learns from, recorded, refused, and resumed with."""

import json
from dataclasses import replace

import pytest
import torch
import yaml

import certtrain
from certtrain.cli import main as cli
from certtrain.config.loading import load_run
from certtrain.errors import UserError
from certtrain.runs.directory import sha256_file
from certtrain.sessions.teacher import Teachers

CERTIFY = ["certifier=ibp", "certifier.ibp.attack_steps=0", "indices=first_10"]
QUICK = ["method.attack.steps=1", "val_size=0"]


def result(run):
    return json.loads((run / "result.json").read_text())


def train(tiny, *arguments):
    return cli.main(["train", *tiny, "method=cc_dist", *QUICK, *arguments])


@pytest.mark.parametrize("form", ["run", "file"])
def test_training_learns_from_a_teacher_and_resumes_with_it(runs, tiny, capsys, form):
    torch.save(certtrain.load("bounds").state_dict(), "robust.pt")
    source = {"run": runs / "bounds" / "checkpoints" / "last.ckpt", "file": "robust.pt"}[form]
    teacher = {"run": "bounds", "file": "robust.pt"}[form]
    asked = f"method.teacher={'runs/bounds' if form == 'run' else teacher}"
    assert train(tiny, asked, "name=student") == 0
    found = result(runs / "student")["teacher"]
    assert found[form] == teacher
    assert found["sha256"] == sha256_file(source)
    checkpoint = torch.load(runs / "student" / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["certtrain"]["teacher"] == found
    assert not [name for name in checkpoint["state_dict"] if "teacher" in name]
    assert cli.main(["certify", "run=student", *CERTIFY]) == 0
    card = json.loads((runs / "student" / "certificates" / "ibp_first_10.json").read_text())
    assert card["training"]["teacher"] == found
    if form == "run":
        assert cli.main(["train", "resume=student", "epochs=3"]) == 0
        assert train(tiny, asked, "name=whole", "epochs=3") == 0
        one, other = (certtrain.load(name).state_dict() for name in ("student", "whole"))
        assert all(torch.equal(value, other[name]) for name, value in one.items())
        assert result(runs / "student")["teacher"] == found
        return
    weights = certtrain.load("bounds").state_dict()
    torch.save({name: 2 * value if "weight" in name else value for name, value in weights.items()}, source)
    capsys.readouterr()
    assert cli.main(["train", "resume=student", "epochs=3"]) == 2
    assert f"the training had a teacher of sha256 {found['sha256'][:12]}" in capsys.readouterr().err


@pytest.mark.ops
def test_several_processes_learn_from_one_teacher(runs, tiny):
    for name, devices in (("one", 1), ("two", 2)):
        assert train(tiny, "method.teacher=bounds", f"name={name}", f"trainer.devices={devices}") == 0
    assert result(runs / "two")["teacher"] == result(runs / "one")["teacher"]
    one, two = (certtrain.load(name).state_dict() for name in ("one", "two"))
    assert all(torch.allclose(value, two[name], atol=1e-4) for name, value in one.items())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["method.teacher must be given"]),
        (["method.teacher=bound"], ["there is no run 'bound'", "did you mean bounds"]),
        (["method.teacher=bounds", "data.mean=[0.5]"], ["method.teacher=bounds has normalisation by mean [0.0]"]),
        (["method.teacher=last.ckpt", "data.mean=[0.5]"], ["method.teacher=last.ckpt has normalisation"]),
        (["method.teacher=bounds", "model.hidden=[17]"], ["17 features before its last linear layer, and the teacher"]),
        (["method.teacher=other.pt"], ["other.pt holds 1 tensors, the model"]),
        (["method.teacher=noise", "bounds=auto_lirpa"], ["has no bounds inside the network", "bounds=native"]),
    ],
)
def test_a_teacher_that_does_not_fit(runs, tiny, capsys, arguments, words):
    (runs.parent / "last.ckpt").write_bytes((runs / "bounds" / "checkpoints" / "last.ckpt").read_bytes())
    torch.save({"weight": torch.ones(3, 3)}, "other.pt")
    assert train(tiny, *arguments, "name=student") == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert [word for word in words if word not in shown] == []
    assert not (runs / "student").exists()


def test_a_teacher_of_other_classes_or_inputs(runs):
    config = load_run("bounds").config
    contract = load_run("bounds").contract
    for other, words in (
        (replace(contract, num_classes=3), r"method.teacher=bounds has classes: 10, but the data has 3"),
        (replace(contract, shape=(1, 4, 4)), r"has inputs of shape \[1, 8, 8\], but the data has \[1, 4, 4\]"),
    ):
        teachers = Teachers(config, other, "the data")
        with pytest.raises(UserError, match=words):
            teachers("bounds")
        with pytest.raises(UserError, match=words.replace("bounds", ".*last.ckpt")):
            teachers(str(runs / "bounds" / "checkpoints" / "last.ckpt"))
        assert teachers.told is None


def test_a_strangers_teacher_executes_nothing(runs, tiny, capsys):
    """Code in its configuration, a pickle for its checkpoint, weights that are not those it recorded."""
    file, config = runs / "bounds" / "config.yaml", load_run("bounds").config
    file.write_text(yaml.safe_dump({**config, "model": {"_target_": "os.system", "command": "touch executed"}}))
    assert train(tiny, "method.teacher=bounds", "name=student") == 2
    assert "os.system" in capsys.readouterr().err
    torch.save({"a": certtrain.load}, "pickle.pt")
    assert train(tiny, "method.teacher=pickle.pt", "name=student") == 2
    assert "cannot be read as weights alone" in capsys.readouterr().err
    file.write_text(yaml.safe_dump(config))
    last = runs / "bounds" / "checkpoints" / "last.ckpt"
    last.write_bytes((runs / "noise" / "checkpoints" / "last.ckpt").read_bytes())
    assert train(tiny, "method.teacher=bounds", "name=student") == 2
    assert "last.ckpt" in capsys.readouterr().err
    assert not (runs / "student").exists()
    assert not (runs.parent / "executed").exists()
