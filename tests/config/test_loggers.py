"""Loggers beside metrics.csv, certtrain's own and any of Lightning; callbacks by `_target_`."""

import csv
import json
import sys
import time

import lightning as L
import pytest
import yaml
from lightning.pytorch.loggers import Logger

from certtrain.cli import main as cli
from certtrain.config.loggers import build_callbacks, build_loggers, close, log_test
from certtrain.config.received import check_received
from certtrain.errors import UserError
from certtrain.runs.directory import RunDirectory
from certtrain.schedules import Timeline
from certtrain.training.callbacks.averaging import WeightAveraging
from certtrain.training.callbacks.early_stopping import EarlyStopping
from certtrain.training.loggers.csv_logger import CSVMetrics
from certtrain.training.loggers.tensorboard_logger import TensorBoardMetrics

TENSORBOARD = {"_target_": "certtrain.training.loggers.tensorboard_logger.TensorBoardMetrics"}
TEN = Timeline(5, 10, 5)  # steps in an epoch
OTHER = "lightning.pytorch.loggers.CSVLogger"
MINE = """
import lightning as L


class Count(L.Callback):
    def __init__(self, name):
        self.name, self.epochs = name, 0

    def on_train_epoch_end(self, trainer, module):
        self.epochs += 1
        for logger in trainer.loggers:
            logger.log_metrics({self.name: self.epochs}, step=trainer.global_step)

    def state_dict(self):
        return {"epochs": self.epochs}

    def load_state_dict(self, state):
        self.epochs = state["epochs"]
"""


def rows(path, column):
    with path.open() as file:
        return [(row["step"], row[column]) for row in csv.DictReader(file) if row[column]]


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


def test_a_custom_callback_and_another_logger_of_lightning_train_and_resume(in_tmp, tiny, monkeypatch, capsys):
    monkeypatch.syspath_prepend(in_tmp)  # as the console script has the working directory
    (in_tmp / "my_callbacks.py").write_text(MINE)
    common = ["train", *tiny, "method=standard", "certifier=ibp", "certify_test=true", "name=run"]
    common += ["certifier.ibp.attack_steps=0", "falsify.examples=0"]
    common += ["+callbacks.mine._target_=my_callbacks.Count", "callbacks.mine.name=mine"]
    common += [f"+logger.other._target_={OTHER}", "+logger.other.save_dir=other"]
    try:
        assert cli.main(common) == 0
        run, other = in_tmp / "runs" / "run", in_tmp / "other" / "lightning_logs" / "version_0"
        steps = [step for step, _ in rows(run / "metrics.csv", "val/clean")]
        assert rows(run / "metrics.csv", "mine") == list(zip(steps, ["1", "2"]))
        assert rows(other / "metrics.csv", "mine") == list(zip(steps, ["1", "2"]))
        test = json.loads((run / "result.json").read_text())["test"]["ibp"]
        assert float(rows(other / "metrics.csv", "test/ibp/clean")[0][1]) == test["clean"]
        config, told = (yaml.safe_load(path.read_text()) for path in (run / "config.yaml", other / "hparams.yaml"))
        assert told == config
        assert cli.main([*common, "callbacks.mine.name=another"]) == 2  # callbacks may change what is trained
        assert "callbacks.mine.name: 'mine' there, 'another' now" in capsys.readouterr().err
        assert cli.main(["train", "resume=run", "epochs=3", "~logger.other", "trust=my_callbacks"]) == 0
        assert [value for _, value in rows(run / "metrics.csv", "mine")] == ["1", "2", "3"]  # its state came back
    finally:
        sys.modules.pop("my_callbacks", None)


class Refusing(Logger):
    """A logger whose server has the run with another configuration."""

    name = version = "x"

    def log_hyperparams(self, params, *args, **kwargs):
        raise ConnectionError("changing parameters is not allowed")

    def log_metrics(self, metrics, step=None):
        raise AssertionError


def loggers_of(tmp_path, **nodes):
    return build_loggers({"logger": nodes, "eps": 0.1}, RunDirectory(tmp_path / "run"))


def test_the_chosen_come_before_metrics_csv(tmp_path):
    found = loggers_of(tmp_path, csv={}, tb=TENSORBOARD, other={"_target_": OTHER, "save_dir": str(tmp_path)})
    assert [type(one).__name__ for one in found] == ["TensorBoardMetrics", "CSVLogger", "CSVMetrics"]
    assert found[0].hparams["eps"] == 0.1
    assert found[0].log_dir == str(tmp_path / "run" / "tensorboard")
    assert [type(one) for one in loggers_of(tmp_path)] == [CSVMetrics]
    entry = {"certified": {"0.1": 0.5}, "clean": 0.75}
    log_test(found[1:], {"ibp": entry}, tmp_path / "none.png")
    found[2].save()
    assert not found[2].path.exists()  # which holds the training alone
    [written] = tmp_path.glob("lightning_logs/version_0/metrics.csv")
    assert "0.75" in written.read_text()


def test_another_logger_is_told_when_the_run_failed():
    told = []
    other = Refusing()
    other.finalize = told.append
    close([other], failed=False)
    assert told == []  # the trainer did
    close([other], failed=True)
    assert told == ["failed"]


def test_the_callback_that_certtrain_brings():
    [found] = build_callbacks({"callbacks": {"x": {"_target_": f"{EarlyStopping.__module__}.EarlyStopping"}}}, TEN)
    assert isinstance(found, EarlyStopping)
    assert build_callbacks({}, TEN) == build_callbacks({"callbacks": None}, TEN) == []


def test_a_callbacks_lengths_are_epochs_of_the_recipe():
    node = {"_target_": f"{WeightAveraging.__module__}.WeightAveraging", "start": 4, "every": 3}
    [found] = build_callbacks({"callbacks": {"x": node}}, TEN)
    assert (found.start, found.every) == (40, 3)
    with pytest.raises(UserError, match=r"callbacks\.x\.start = -1"):
        build_callbacks({"callbacks": {"x": {**node, "start": -1}}}, TEN)


MISTAKES = {
    "my_nothing.Callback": "callbacks.x cannot be built: No module named 'my_nothing'",
    "lightning.pytorch.callbacks.EarlyStoping": "callbacks.x cannot be built",
    "lightning.pytorch.callbacks.EarlyStopping": "missing 1 required positional argument: 'monitor'",
    OTHER: "callbacks.x cannot be built: .*save_dir",
    "collections.OrderedDict": "collections.OrderedDict is not a callback",
}


@pytest.mark.parametrize("target", MISTAKES)
def test_one_message_for_what_is_not_a_callback(target):
    with pytest.raises(UserError, match=MISTAKES[target]) as error:
        build_callbacks({"callbacks": {"x": {"_target_": target}}}, TEN)
    assert "callbacks.x" in error.value.where


def test_one_message_for_what_is_not_a_logger(tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(TensorBoardMetrics, "close", lambda self, failed: closed.append(failed))
    for node, what in (
        ({"_target_": f"{L.Callback.__module__}.Callback"}, "is not a logger"),
        ({"_target_": OTHER, "save_dirr": "x"}, "unexpected keyword argument 'save_dirr'"),
        ({"_target_": f"{__name__}.Refusing"}, "x cannot take the configuration: changing parameters is not allowed"),
        ({**TENSORBOARD, "run_dir": "/elsewhere"}, "run_dir is certtrain's to give"),
        ({"project": "x"}, "names nothing to build"),
    ):
        with pytest.raises(UserError, match=what) as error:
            loggers_of(tmp_path, first=TENSORBOARD, x=node)
        assert "logger.x" in error.value.where
        assert closed.pop() is True  # what was started before ends


def test_a_second_progress_bar_and_twice_the_same_callback_are_one_message(in_tmp, tiny, capsys):
    for given in (["RichProgressBar"], ["LearningRateMonitor", "LearningRateMonitor"]):
        nodes = [f"+callbacks.c{i}._target_=lightning.pytorch.callbacks.{name}" for i, name in enumerate(given)]
        if len(given) > 1:  # stateful, of the same key
            nodes = [
                "callbacks=early_stopping",
                "+callbacks.more={_target_: " + f"{EarlyStopping.__module__}.EarlyStopping" + "}",
            ]
        assert cli.main(["train", *tiny, "method=standard", "name=x", *nodes]) == 2
        shown = capsys.readouterr().err
        assert "Lightning refuses the training" in shown
        assert shown.count("certtrain: ") == 1
        assert not (in_tmp / "runs" / "x").exists()


# --- of a run directory from a stranger

KEYS = ("logger", "callbacks")


@pytest.mark.parametrize(
    ("section", "target"), [("logger", OTHER), ("callbacks", "lightning.pytorch.callbacks.LambdaCallback")]
)
def test_one_of_lightning_is_trusted_by_its_whole_name(section, target):
    """They write where they are told, and call what they are given."""
    received = {section: {"x": {"_target_": target}}}
    with pytest.raises(UserError, match="nothing is built") as error:
        check_received(received, KEYS, (), "run")
    assert error.value.fix.endswith(f"trust={target}")
    check_received(received, KEYS, (target,), "run")
    received[section]["x"]["on_fit_start"] = {"_target_": "evil.touch"}  # which that trust does not reach
    with pytest.raises(UserError, match=r"evil\.touch is not") as error:
        check_received(received, KEYS, (target,), "run")
    assert f"{section}.x.on_fit_start._target_" in error.value.where


def test_certtrains_own_need_no_trust_where_they_write_into_the_run_alone():
    own = {"logger": {"csv": {}, "tensorboard": TENSORBOARD}}
    own["callbacks"] = {"stop": {"_target_": "certtrain.training.callbacks.early_stopping.EarlyStopping"}}
    check_received(own, KEYS, (), "run")
    for section, other in (("logger", "csv_logger.CSVMetrics"), ("callbacks", "checkpoint.Checkpoints")):
        with pytest.raises(UserError, match="nothing is built"):  # a path is among their arguments
            check_received({section: {"x": {"_target_": f"certtrain.training.callbacks.{other}"}}}, KEYS, (), "run")
