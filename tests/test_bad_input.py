"""A user's mistake is one clear message and exit status 2: no traceback, nothing overwritten, nothing left behind."""

import json
import shutil
import sys

import pytest
import torch
from run_files import forget_hashes

from certtrain.cli.main import main
from certtrain.training.checkpoints import read_checkpoint

MODULE = '''
"""Data sets of a user's own, some of them spoilt."""
import torch
from certtrain.data import DataModule


class Mine(DataModule):
    name, input_shape, num_classes = "mine", (1, 28, 28), 3

    def load(self):
        draw = torch.Generator().manual_seed(0)
        x, y = torch.rand(60, 1, 28, 28, generator=draw), torch.arange(60) % 3
        self.spoil(x, y)
        return (x[:40], y[:40]), (x[40:], y[40:])

    def spoil(self, x, y):
        pass


class LabelOutside(Mine):
    def spoil(self, x, y):
        y[7] = 3


class NotANumber(Mine):
    def spoil(self, x, y):
        x[50, 0, 3, 4] = float("nan")


class NotScaled(Mine):
    def spoil(self, x, y):
        x *= 255
'''


@pytest.fixture
def own_data(in_tmp, monkeypatch):
    """`my_data`, a module beside the user."""
    (in_tmp / "my_data.py").write_text(MODULE)
    monkeypatch.syspath_prepend(in_tmp)
    yield
    sys.modules.pop("my_data", None)


def refused(capsys, *arguments: str, expecting: tuple[str, ...] = ()) -> str:
    """Run a command that must be refused, with all these words in its message."""
    capsys.readouterr()
    assert main(list(arguments)) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("certtrain: ")
    assert "Traceback" not in shown
    assert shown.count("certtrain: ") == 1
    assert [word for word in expecting if word not in shown] == []
    return shown


@pytest.mark.parametrize(
    ("arguments", "expecting"),
    [
        (["epohcs=3"], ["epohcs", "did you mean epochs"]),
        (["data.batchsize=3"], ["data.batch_size"]),
        (["model=mpl"], ["model has no option 'mpl'", "mlp"]),
        (["data=mnist", "data.download=false", "data_dir=nowhere"], ["nowhere", "train-images-idx3-ubyte", "data_dir"]),
        (["data=cifar10", "data.download=false", "data_dir=nowhere"], ["nowhere", "cifar-10-batches-py", "data_dir"]),
        (["eps=-0.1"], ["-0.1", "negative", "eps"]),
        (["eps=8_255"], ["8255", "8/255"]),  # how a metric's name writes it; Python and Hydra read 8255
        (["eps=8"], ["[0, 1]", "8/255"]),
        (["eps=1/0"], ["1/0", "not a radius"]),
        (["train_eps=-1"], ["train_eps"]),
        (["method=gaussian", "sigma=0"], ["sigma = 0", "sigma=0.25"]),
        (["method=gaussian", "sigma=-1"], ["sigma = -1"]),
        (["radii=[]"], ["empty", "radii"]),
        (["radii=0.1"], ["list", "radii"]),
        (["epochs=0"], ["epochs = 0"]),
        (["schedule.ramp=-1"], ["schedule.ramp = -1"]),
        (["schedule.ramp=x"], ["schedule.ramp = 'x'"]),
        (["schedule.shape=cubic"], ["cubic", "linear"]),
        (["schedule.lr.kind=cosin"], ["cosin", "cosine"]),
        (["data.batch_size=0"], ["batch_size = 0"]),
        (["data.batch_size=2000", "data.drop_last=true"], ["2000"]),
        (["val_size=1.0"], ["val_size"]),
        (["val_size=5000"], ["val_size", "5000"]),
        (["trainer.accumulate_grad_batches=0"], ["trainer.accumulate_grad_batches"]),
        (["trainer.accelerator=abacus"], ["abacus", "trainer.accelerator=cpu"]),
        (["trainer.accelerator=tpu"], ["tpu", "trainer.accelerator=cpu"]),
        (["trainer.devices=0"], ["trainer.devices = 0"]),
        (["trainer.devices=two"], ["trainer.devices", "two"]),
        (["trainer.precision=fp8"], ["trainer.precision", "fp8", "bf16-mixed"]),
        (["trainer.precision=bf16-mixed"], ["trainer.precision", "bounds of 8 bits"]),
        (["trainer.precision=tf32"], ["trainer.precision", "NVIDIA"]),
        (["trainer.compile=fast"], ["trainer.compile = 'fast'", "reduce-overhead"]),
        (["trainer.compile=true", "trainer.accumulate_grad_batches=2"], ["batches=2 is not", "compile=false"]),
        (["callbacks=weight_averaging", "callbacks.weight_averaging.every=0"], ["every = 0"]),
        (["method=sabr", "method.bn_source=dirty"], ["bn_source 'dirty'", "clean"]),
        (["trainer.compile=true", "trainer.devices=2"], ["trainer.devices=2", "trainer.compile=false"]),
        (["trainer.compile=true", "bounds=auto_lirpa"], ["auto_lirpa", "bounds=native"]),
        (["+trainer.foo=1"], ["foo", "trainer"]),
        (["+model.widht=3"], ["widht", "model"]),
        (["+optimizer.lrr=3"], ["lrr", "did you mean lr"]),
        (["+method.l11=3"], ["l11", "l1"]),
        (["method.kappa={start: 2, end: 0}"], ["kappa"]),
        (["method.kappa=0.5"], ["kappa"]),
        (["model._target_=certtrain.models.mpl"], ["certtrain.models.mpl", "model"]),
        (["validation.methods=[alpha]"], ["alpha"]),
        (["checkpoint.use=bset"], ["bset", "best"]),
        (["norm=l1"], ["l1", "l2, linf"]),
        (["sigma=64"], ["sigma = 64", "sigma=0.251"]),
        (["sigma=8/255"], ["8/255", "sigma=0.0313725"]),
        (["radii=[8]"], ["radii = 8", "[0, 1]", "8/255"]),
        (["norm=l2", "eps=9"], ["eps = 9", "diagonal 8"]),
        # What the certify stage would refuse is refused before the training.
        (["alpha=5"], ["alpha = 5", "(0, 1)"]),
        (["n0=0"], ["n0 = 0"]),
        (["falsify.steps=0"], ["falsify.steps = 0"]),
        (["certifier.crown.precision=half"], ["half", "float64"]),
    ],
)
def test_mistakes_in_the_configuration(in_tmp, tiny, capsys, arguments, expecting):
    refused(capsys, "train", *tiny, *arguments, "name=run", expecting=tuple(expecting))
    assert not [path for path in in_tmp.rglob("*") if path.is_file()]


def test_a_model_that_does_not_take_the_data(in_tmp, capsys):
    arguments = ["model=cnn7", "data=breast_cancer", "name=run"]
    refused(capsys, "train", *arguments, expecting=("cnn7", "(30,)"))
    assert not [path for path in in_tmp.rglob("*") if path.is_file()]


def test_a_ramp_that_outlasts_training_offers_what_works(in_tmp, tiny, capsys):
    arguments = ["train", *tiny, "epochs=2", "schedule.ramp=10", "schedule.warmup=1", "name=run"]
    refused(capsys, *arguments, expecting=("11 epochs", "only 2", "schedule.scale=true"))
    assert main([*arguments, "schedule.scale=true"]) == 0
    assert json.loads((in_tmp / "runs" / "run" / "result.json").read_text())["status"] == "complete"
    shown = refused(capsys, *arguments[:-1], "schedule.epochs=2", "name=other", expecting=("more epochs",))
    assert "schedule.scale" not in shown  # the recipe itself is too short: stretching it would not help


@pytest.mark.parametrize("epochs", range(1, 8))
def test_any_scaled_schedule_that_fills_its_recipe_fits(epochs):
    from certtrain.schedules import Timeline

    for warmup in range(20):
        for steps in (1, 3, 7, 11):
            timeline = Timeline(epochs, steps, recipe_epochs=20, scale=True)
            start, length = timeline.span(warmup, 20 - warmup, ("schedule.warmup", "schedule.ramp"))
            assert start + length == timeline.total


def test_a_layer_that_cannot_be_bounded_is_named(own_data, in_tmp, capsys):
    arguments = ["train", "data._target_=my_data.Mine", "data.augment=null", "model=lenet", "epochs=1", "trainer=cpu"]
    arguments += ["schedule.ramp=0", "schedule.warmup=0", "validation.examples=4", "bounds=auto_lirpa"]
    refused(capsys, *arguments, "name=run", expecting=("MaxPool2d", "bounds=native"))
    assert not (in_tmp / "runs" / "run").exists()


def test_data_of_a_users_own(own_data, in_tmp):
    arguments = ["train", "data._target_=my_data.Mine", "data.augment=null", "model=mlp", "model.hidden=[4]"]
    arguments += ["method=standard", "epochs=1", "trainer=cpu", "validation.examples=4", "name=run"]
    assert main(arguments) == 0
    assert main(["certify", "run=run", "trust=my_data", "certifier=ibp", "certifier.ibp.attack_steps=0"]) == 0
    card = json.loads((in_tmp / "runs" / "run" / "certificates" / "ibp.json").read_text())
    assert card["dataset"] == "mine"


@pytest.mark.parametrize(
    ("name", "expecting"),
    [
        ("LabelOutside", ["labels", "0 .. 2", "first 3 at example 7"]),
        ("NotANumber", ["test part", "NaN", "number 10"]),
        ("NotScaled", ["outside the input range [0, 1]"]),
        ("Missing", ["my_data.Missing"]),
    ],
)
def test_spoilt_data(own_data, in_tmp, capsys, name, expecting):
    arguments = [f"data._target_=my_data.{name}", "data.augment=null", "model=mlp", "method=standard"]
    refused(capsys, "train", *arguments, "name=run", expecting=tuple(expecting))
    assert not (in_tmp / "runs" / "run").exists()


@pytest.mark.parametrize("command", [["train", "resume=noise", "epochs=3"], ["certify", "run=noise"]])
@pytest.mark.parametrize("damage", ["torn", "of another model"])
def test_a_checkpoint_that_is_not_the_runs(runs, snapshot, capsys, command, damage):
    last = runs / "noise" / "checkpoints" / "last.ckpt"
    if damage == "torn":
        last.write_bytes(last.read_bytes()[:-500])
    else:
        state = torch.load(last, weights_only=True)
        state["state_dict"]["network.2.weight"] = torch.zeros(17, 64)
        torch.save(state, last)
        forget_hashes(runs / "noise")
    before = snapshot(runs / "noise")
    expecting = ("corrupt",) if damage == "torn" else ("another model", "2.weight", "(17, 64)")
    refused(capsys, *command, expecting=expecting)
    after = snapshot(runs / "noise")
    for path in ("checkpoints/last.ckpt", "metrics.csv"):
        assert after[path] == before[path], path
    rows = before["certificates/smoothing_n100.tsv"]  # in place, or apart from those of the training that goes on
    assert rows in (
        after.get("certificates/smoothing_n100.tsv"),
        after.get("certificates/superseded_1/smoothing_n100.tsv"),
    )


@pytest.mark.parametrize("method", ["crown_ibp", "gaussian"])
def test_training_that_diverges_names_its_first_bad_step(in_tmp, tiny, capsys, method):
    arguments = ["train", *tiny, f"method={method}", "optimizer.lr=1e30", "checkpoint.every_n_seconds=0", "name=run"]
    shown = refused(capsys, *arguments, expecting=("NaN or infinite since step", "optimizer.lr", "is kept"))
    run = in_tmp / "runs" / "run"
    result = json.loads((run / "result.json").read_text())
    assert result["status"] == "failed"
    assert f"step {result['step']}" in shown
    kept = read_checkpoint(run / "checkpoints" / "last.ckpt")
    assert kept["global_step"] <= result["step"]
    assert all(torch.isfinite(value).all() for value in kept["state_dict"].values())
    assert not list((run / "checkpoints").glob("*.part"))


def test_a_run_directory_that_cannot_be_written(in_tmp, tiny, capsys):
    (in_tmp / "runs").write_text("in the way")
    refused(capsys, "train", *tiny, "name=run", expecting=("runs", "runs_dir="))
    assert (in_tmp / "runs").read_text() == "in the way"


def test_a_directory_that_is_not_a_run(in_tmp, tiny, capsys):
    (in_tmp / "runs" / "run").mkdir(parents=True)
    (in_tmp / "runs" / "run" / "thesis.txt").write_text("mine")
    refused(capsys, "train", *tiny, "name=run", expecting=("thesis.txt", "name="))
    assert [path.name for path in (in_tmp / "runs" / "run").iterdir()] == ["thesis.txt"]


def test_a_file_where_the_checkpoints_should_go(runs, capsys):
    folder = runs / "noise" / "certificates"
    shutil.rmtree(folder)
    folder.write_text("in the way")
    refused(capsys, "certify", "run=noise", expecting=("certificates",))


def test_a_traceback_when_asked_for(in_tmp, monkeypatch):
    from certtrain.errors import UserError

    with pytest.raises(UserError, match="radii"):
        main(["train", "radii=[]", "--traceback"])
    monkeypatch.setenv("CERTTRAIN_TRACEBACK", "1")
    with pytest.raises(UserError, match="radii"):
        main(["train", "radii=[]"])
