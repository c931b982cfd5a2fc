"""`init=RUN` and `init=FILE`, and data of two datasets: what a training starts from."""

import json

import pytest
import torch

import certtrain
from certtrain.cli import main as cli
from certtrain.runs.directory import sha256_file

CERTIFY = ["certifier=ibp", "certifier.ibp.attack_steps=0", "indices=first_10"]


def result(run):
    return json.loads((run / "result.json").read_text())


def train(tiny, *arguments):
    return cli.main(["train", *tiny, "method=standard", "optimizer.lr=0", *arguments])  # lr 0: the weights stay


@pytest.mark.parametrize("form", ["run", "file"])
def test_training_starts_from_given_weights(runs, tiny, form):
    source = runs / "bounds" / "checkpoints" / "last.ckpt"
    torch.save(list(certtrain.load("bounds"))[2:][0].state_dict(), "half.pt")
    whole = certtrain.load("bounds").state_dict()
    torch.save({"net": {f"module.{name}": value for name, value in whole.items()}}, "whole.pt")
    init = {"run": "bounds", "file": "whole.pt"}[form]
    assert train(tiny, f"init={init}", "name=tuned") == 0
    tuned = certtrain.load("tuned").state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in tuned.items())
    sha256 = sha256_file({"run": source, "file": "whole.pt"}[form])
    found = result(runs / "tuned")["init"]
    assert found["sha256"] == sha256
    assert found[form] == init
    assert cli.main(["certify", "run=tuned", *CERTIFY]) == 0
    card = json.loads((runs / "tuned" / "certificates" / "ibp_first_10.json").read_text())
    assert card["training"]["init"] == found
    # Resumed, it goes on from its own checkpoint, also where the source is gone.
    source.unlink()
    assert cli.main(["train", "resume=tuned", "epochs=3"]) == 0
    assert result(runs / "tuned")["init"] == found


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["init=bound"], ["there is no run 'bound'", "did you mean bounds"]),
        (["init=bounds", "model.hidden=[17]"], ["of another model", "(17, 64)"]),
        (["init=bounds", "data.mean=[0.5]"], ["init=bounds has normalisation by mean [0.0]", "data=digits"]),
        (["init=whole.pt", "data.mean=[0.5]"], ["normalisation by mean", "whole.pt", "data.mean=[0.0]"]),
    ],
)
def test_weights_that_do_not_belong(runs, tiny, capsys, arguments, words):
    torch.save(certtrain.load("bounds").state_dict(), "whole.pt")
    assert train(tiny, *arguments, "name=tuned") == 2
    shown = capsys.readouterr().err
    assert [word for word in words if word not in shown] == []
    assert not (runs / "tuned").exists()


def test_two_datasets_from_the_command_line(in_tmp, tiny, monkeypatch, capsys):
    (in_tmp / "my_sets.py").write_text(
        "import torch\nfrom torch.utils.data import Dataset\n\n\n"
        "class Dots(Dataset):\n    def __init__(self, n):\n        self.n = n\n\n"
        "    def __len__(self):\n        return self.n\n\n"
        "    def __getitem__(self, i):\n        return torch.full((1, 4, 4), (i % 3) / 2), i % 3\n"
    )
    monkeypatch.syspath_prepend(in_tmp)
    sets = [
        f"data.{part}.{key}" for part, n in (("train", 40), ("test", 9)) for key in ("_target_=my_sets.Dots", f"n={n}")
    ]
    rest = [word for word in tiny if not word.startswith("data=")]
    arguments = ["train", *sets, *rest, "method=standard", "name=dots", "certify_test=true"]
    assert cli.main([*arguments, "certifier.crown_ibp.attack_steps=0"]) == 0
    found = result(in_tmp / "runs" / "dots")
    assert found["data"] == "dataset"
    assert found["test"]["ibp"]["n"] == 9
    card = json.loads((in_tmp / "runs" / "dots" / "certificates" / "ibp.json").read_text())
    assert (card["dataset"], card["input_contract"]["num_classes"]) == ("Dots", 3)
    assert cli.main(["train", "data=dataset", *rest, "method=standard"]) == 2
    assert "data.train._target_ and data.test._target_ must be given" in capsys.readouterr().err
