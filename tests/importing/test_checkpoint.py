"""A network trained elsewhere: a file of weights becomes a run directory that every command takes."""

import json

import pytest
import torch
from torch import nn

import certtrain
from certtrain.certificates import CertificateLog
from certtrain.cli import main as cli
from certtrain.runs.directory import sha256_file
from certtrain.training.checkpoints import network_state, read_checkpoint

MODEL = ["model=mlp", "model.hidden=[16]", "data=digits"]
BOUNDS = [*MODEL, "certifier=ibp", "certifier.ibp.attack_steps=2", "radii=[0.01,0.02]", "indices=first_40"]
NOISE = [*MODEL, "certifier=smoothing", "sigma=0.1", "n0=10", "n=100", "radii=[0.05]", "indices=first_20"]


def certify(*arguments: str) -> int:
    return cli.main(["certify", *arguments])


@pytest.fixture
def file(runs):
    """What another program would have saved of the trained network: DataParallel's names, no normalisation."""
    network = certtrain.load("bounds")
    state = nn.Sequential(*list(network)[1:]).state_dict()
    torch.save({"epoch": 9, "state_dict": {f"module.{k}": v for k, v in state.items()}}, "theirs.pth")
    return runs.parent / "theirs.pth"


def card(run, name):
    return json.loads((run / "certificates" / f"{name}.json").read_text())


def statuses(run, name):
    log = CertificateLog(run / "certificates" / f"{name}.tsv").read()
    texts = [log.columns[f"status@{radius}"].tolist() for radius in ("0.01", "0.02")]
    return texts, [repr(margin) for margin in log.columns["margin"].tolist()]  # NaN where it is misclassified


def test_its_certificates_are_those_of_the_same_network_trained_here(runs, file, capsys):
    assert certify(f"checkpoint={file}", *BOUNDS) == 0
    assert "normalisation assumed from data=digits" in capsys.readouterr().out
    assert certify("run=bounds", *BOUNDS[3:], "name=own") == 0
    run = runs / "theirs"
    assert statuses(run, "ibp_first_40") == statuses(runs / "bounds", "own_ibp_first_40")
    found = card(run, "ibp_first_40")
    assert found["training"]["trained"] == "elsewhere"
    assert found["training"]["file"] == "theirs.pth"
    assert found["training"]["sha256"] == sha256_file(file)
    assert found["checkpoint_sha256"] == sha256_file(run / "checkpoints" / "last.ckpt")
    assert found["warnings"] == [
        "trained elsewhere: normalisation assumed from data=digits: mean [0.0], std [1.0]",
    ]
    assert found["input_contract"]["shape"] == [1, 8, 8]
    notes = " ".join(found["training"]["notes"])
    assert all(words in notes for words in ("'state_dict'", "'module'", "behind the normalisation"))
    result = json.loads((run / "result.json").read_text())
    assert (result["status"], result["trained"], result["method"]) == ("complete", False, "trained elsewhere")
    assert result["test"]["ibp_first_40"]["n"] == 40
    assert result["source"]["sha256"] == sha256_file(file)
    assert str(runs.parent) not in (run / "result.json").read_text()
    assert {"config.yaml", "overrides.yaml", "environment.json"} <= {path.name for path in run.iterdir()}


def test_every_command_takes_the_run(runs, file, capsys):
    assert certify(f"checkpoint={file}", *NOISE, "name=mine") == 0
    run = runs / "mine"
    ours = certtrain.load("bounds").state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in certtrain.load("mine").state_dict().items())
    file.unlink()  # the run directory stands alone
    assert certify("run=mine", "n=200", "indices=first_5") == 0
    assert card(run, "smoothing_n200_first_5")["settings"]["sigma"] == 0.1
    assert certify("run=mine", "certifier=ibp", "radii=[0.02]", "norm=linf", "indices=first_5") == 0
    image = "input=digit.npy"
    import numpy as np

    np.save("digit.npy", np.zeros((1, 8, 8), dtype=np.float32))
    assert cli.main(["predict", "run=mine", image, "n=50"]) == 0
    assert cli.main(["export", "run=mine", "vnnlib=false"]) == 0
    (runs.parent / "experiments").mkdir()
    assert cli.main(["table"]) == 2  # no published rows here; but a run of no experiment is no damage
    assert "mine" not in capsys.readouterr().err


def test_the_same_command_goes_on_and_another_network_is_refused(runs, file, snapshot, capsys):
    assert certify(f"checkpoint={file}", *BOUNDS) == 0
    before = snapshot(runs / "theirs")
    assert certify(f"checkpoint={file}", *BOUNDS) == 0
    kept = {name: before[name] for name in before if not name.endswith(".png")}
    assert {name: snapshot(runs / "theirs")[name] for name in kept} == kept
    capsys.readouterr()
    assert certify(f"checkpoint={file}", *BOUNDS, "data.mean=[0.5]") == 2
    assert "data.mean: [0.0] there, [0.5] now" in capsys.readouterr().err
    content = torch.load(file, weights_only=True)
    content["state_dict"]["module.1.bias"] += 1
    torch.save(content, file)
    assert certify(f"checkpoint={file}", *BOUNDS) == 2
    assert "source.sha256" in capsys.readouterr().err
    assert certify(f"checkpoint={file}", *BOUNDS, "name=bounds") == 2
    assert "name=" in capsys.readouterr().err
    (runs / "notes").mkdir()
    (runs / "notes" / "thesis.txt").write_text("mine")
    assert certify(f"checkpoint={file}", *BOUNDS, "name=notes") == 2
    assert "thesis.txt" in capsys.readouterr().err
    kept_again = snapshot(runs / "theirs")
    assert {name: kept_again[name] for name in kept} == kept


def test_a_file_with_its_normalisation_assumes_nothing(runs, capsys):
    torch.save(certtrain.load("bounds").state_dict(), "whole.pt")
    assert certify("checkpoint=whole.pt", *BOUNDS) == 0
    assert card(runs / "whole", "ibp_first_40")["warnings"] == []
    assert card(runs / "whole", "ibp_first_40")["training"]["normalisation"] == "in the file"
    assert certify("checkpoint=whole.pt", *BOUNDS, "data.mean=[0.5]", "name=other") == 2
    assert "normalisation by mean [0.5]" in capsys.readouterr().err
    assert not (runs / "other").exists()


def test_a_checkpoint_of_ours_is_a_file_too(runs):
    assert certify("checkpoint=runs/bounds/checkpoints/last.ckpt", *BOUNDS, "name=copy") == 0
    ours = network_state(read_checkpoint(runs / "bounds" / "checkpoints" / "last.ckpt"))
    again = network_state(read_checkpoint(runs / "copy" / "checkpoints" / "last.ckpt"))
    assert all(torch.equal(value, again[name]) for name, value in ours.items())


def test_chance_level_accuracy_is_a_warning_in_the_card(runs, file, capsys):
    assert certify(f"checkpoint={file}", *BOUNDS, "data.mean=[40.0]", "name=wrong") == 0
    assert "near chance for 10 classes" in capsys.readouterr().out
    assert "data.mean" in card(runs / "wrong", "ibp_first_40")["warnings"][-1]
    assert certify("run=wrong", "indices=first_30", "certifier=ibp", "certifier.ibp.attack_steps=0") == 0
    assert "near chance" in card(runs / "wrong", "ibp_first_30")["warnings"][-1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["checkpoint=theirs.pth"], ["model=, data=, certifier=, radii="]),
        (["checkpoint=theirs.pth", *NOISE[:4], "radii=[0.1]"], ["sigma= must be given"]),
        (["checkpoint=nothing.pth", *BOUNDS], ["no file nothing.pth"]),
        (["checkpoint=theirs.pth", *BOUNDS, "model.hidden=[17]"], ["does not fit the model", "of another shape"]),
        (["checkpoint=theirs.pth", *BOUNDS, "model.hidden=[16,16]"], ["2 missing (6.weight, 6.bias)"]),
        (["checkpoint=theirs.pth", *BOUNDS, "model=mpl"], ["did you mean mlp"]),
        (["checkpoint=theirs.pth", *NOISE, "norm=linf"], ["r/sqrt(d)"]),
        (["checkpoint=theirs.pth", *NOISE, "radii=[0.9]"], ["certify radii up to 0.1500"]),
        (["checkpoint=theirs.pth", *BOUNDS, "indices=first_999"], ["360"]),
        (["checkpoint=theirs.pth", *BOUNDS, "split=val"], ["held out no val"]),
        (["checkpoint=theirs.pth", *BOUNDS, "certifier.ibp.methods=[ipb]"], ["did you mean ibp"]),
    ],
)
def test_mistakes_are_explained_and_leave_nothing(runs, file, snapshot, capsys, arguments, words):
    before = snapshot(runs)
    capsys.readouterr()
    assert certify(*arguments) == 2
    shown = capsys.readouterr().err
    assert [word for word in words if word not in shown] == []
    assert "Traceback" not in shown
    assert snapshot(runs) == before


def test_it_cannot_be_trained_on(runs, file, snapshot, capsys):
    assert certify(f"checkpoint={file}", *BOUNDS) == 0
    before = snapshot(runs / "theirs")
    capsys.readouterr()
    assert cli.main(["train", "resume=theirs", "epochs=3"]) == 2
    assert "trained elsewhere" in capsys.readouterr().err
    assert snapshot(runs / "theirs") == before
