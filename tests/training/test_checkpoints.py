"""Checkpoints are read weights only, and refused when they are torn, of another program or of another model."""

import shutil

import pytest
import torch

import certtrain
from certtrain.data import Digits
from certtrain.errors import UserError
from certtrain.models import mlp
from certtrain.models.contract import InputContract
from certtrain.training.checkpoints import contract_of, load_weights, network_state, read_checkpoint

SHAPE = {"input_shape": (1, 8, 8), "num_classes": 10, "mean": [0.0], "std": [1.0]}


class Evil:
    """Would run code when it is unpickled."""

    def __reduce__(self):
        return (print, ("executed",))


@pytest.fixture
def checkpoint(trained_runs):
    return trained_runs / "bounds" / "checkpoints" / "last.ckpt"


def test_a_checkpoint_carries_contract_configuration_and_plain_values(checkpoint):
    content = read_checkpoint(checkpoint)
    assert contract_of(content) == InputContract((1, 8, 8), 10, (0.0,), (1.0,))
    assert content["certtrain"]["config"]["eps"] == 0.05
    assert all(key.startswith("network.") for key in content["state_dict"])
    assert "_orig_mod" not in str(content["state_dict"].keys())
    assert set(network_state(content)) == set(mlp(hidden=[16], **SHAPE).state_dict())


def test_load_gives_back_the_trained_network(trained_runs, checkpoint):
    network = certtrain.load(trained_runs / "bounds")
    assert not any(module.training for module in network.modules())
    state = network_state(read_checkpoint(checkpoint))
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    data = Digits("unused")
    data.setup()
    assert (network(data.test.x).argmax(1) == data.test.y).float().mean() > 0.5


def test_load_by_name_or_refuse(runs):
    assert certtrain.load("noise") is not None
    with pytest.raises(UserError, match="no run"):
        certtrain.load("runs/nothing")
    assert certtrain.load("noise", checkpoint="best") is not None
    (runs / "noise" / "checkpoints" / "best.ckpt").unlink()
    with pytest.raises(UserError, match="no best checkpoint"):
        certtrain.load("noise", checkpoint="best")
    (runs / "noise" / "checkpoints" / "last.ckpt").unlink()
    with pytest.raises(UserError, match="no checkpoint"):
        certtrain.load("noise")


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.95, 0.999])
def test_a_truncated_checkpoint_is_corrupt(checkpoint, tmp_path, keep):
    content = checkpoint.read_bytes()
    (tmp_path / "torn.ckpt").write_bytes(content[: int(keep * len(content))])
    with pytest.raises(UserError, match="corrupt") as error:
        read_checkpoint(tmp_path / "torn.ckpt")
    assert "torn.ckpt" in str(error.value)


@pytest.mark.parametrize("content", [b"hello", b"\x80\x04K\x01."])
def test_other_bytes_are_no_checkpoint(tmp_path, content):
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(UserError, match="checkpoint"):
        read_checkpoint(tmp_path / "a.ckpt")


def test_other_programs_checkpoints_are_refused(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="not a checkpoint of certtrain"):
        read_checkpoint(tmp_path / "other.ckpt")
    torch.save([1], tmp_path / "list.ckpt")
    with pytest.raises(UserError, match="not a checkpoint of certtrain"):
        read_checkpoint(tmp_path / "list.ckpt")


def test_nothing_in_a_checkpoint_is_executed(tmp_path, capsys):
    torch.save({"state_dict": {}, "certtrain": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(UserError, match="corrupt"):
        read_checkpoint(tmp_path / "evil.ckpt")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("hidden", "expected"),
    [([17], "is (17, 64) in the model and (16, 64)"), ([16, 16], "missing in the checkpoint"), ([], "unknown to the")],
)
def test_another_model_is_refused_with_the_first_differences(checkpoint, hidden, expected):
    network = mlp(hidden=hidden, **SHAPE)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(UserError, match="of another model") as error:
        load_weights(network, read_checkpoint(checkpoint), "last.ckpt")
    assert expected in error.value.what
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_checkpoint_moved_into_another_run_is_refused(runs):
    import yaml

    path = runs / "noise" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["model"]["hidden"] = [8]
    path.write_text(yaml.safe_dump(config))
    shutil.copy(runs / "bounds" / "checkpoints" / "last.ckpt", runs / "noise" / "checkpoints" / "last.ckpt")
    with pytest.raises(UserError, match="of another model"):
        certtrain.load("noise")
