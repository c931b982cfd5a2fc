"""Weights of other programs: read as tensors alone, their names brought to ours, what does not fit named."""

import sys
import types

import pytest
import torch
from torch import nn

from certtrain.errors import UserError
from certtrain.importing.weights import fit_weights, read_weights
from certtrain.models import mlp


def network(hidden=3):
    return mlp((1, 2, 2), 2, [0.5], [0.25], hidden=[hidden])


@pytest.fixture
def trained():
    torch.manual_seed(0)
    made = network()
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made


def saved(tmp_path, content):
    torch.save(content, tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


def fitted(path):
    fresh = network()
    return fresh, *fit_weights(fresh, read_weights(path), "weights.pt")


def named(state, rename):
    return {rename(name): value for name, value in state.items()}


def bare(trained):
    """As its program saved it: without the normalisation, numbered from 0."""
    return nn.Sequential(*list(trained)[1:]).state_dict()


FORMS = {
    "plain": (lambda s: s, True, ""),
    "in state_dict": (lambda s: {"epoch": 3, "arch": "mlp", "state_dict": s}, True, "state_dict"),
    "in model": (lambda s: {"model": s, "optimizer": {"lr": 0.1}}, True, "model"),
    "in model_state_dict": (lambda s: {"model_state_dict": s}, True, "model_state_dict"),
    "DataParallel": (lambda s: named(s, "module.{}".format), True, "module"),
    "compiled": (lambda s: {"state_dict": named(s, "_orig_mod.{}".format)}, True, "_orig_mod"),
    "Lightning": (lambda s: {"state_dict": named(s, "net.{}".format)}, True, "net"),
    "float64": (lambda s: {k: v.double() for k, v in s.items()}, True, "float64"),
    "in net": (lambda s: {"net": s, "acc": 91.2, "epoch": 3}, True, "'net'"),
    "in state_dict_ema": (lambda s: {"state_dict_ema": s}, True, "'state_dict_ema'"),
    "under model.net": (lambda s: {"state_dict": named(s, "model.net.{}".format)}, True, "'model.net' left out"),
    "beside a teacher": (
        lambda s: {"state_dict": {**named(s, "net.{}".format), "loss.weight": torch.ones(2)}},
        True,
        "not used: loss.weight",
    ),
    "in a list": (lambda s: {"state_dict": [s], "epoch": 3}, True, "read from 'state_dict.0'"),
    "in a tuple": (lambda s: (s, {"state": {0: {"exp_avg": torch.ones(3, 4)}}}), True, "read from '0'"),
    "the average is the same": (
        lambda s: {"state_dict": s, "ema": {k: v.clone() for k, v in s.items()}},
        True,
        "state",
    ),
    "parameters": (lambda s: {k: nn.Parameter(v) for k, v in s.items()}, True, ""),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_files(tmp_path, trained, form):
    make, held, note = FORMS[form]
    fresh, had_normalisation, notes = fitted(saved(tmp_path, make(trained.state_dict())))
    assert had_normalisation is held
    assert note in " ".join(notes)
    assert bool(notes) == bool(note)
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in fresh.state_dict().items())


@pytest.mark.parametrize(
    "make",
    [
        lambda s: named(s, lambda n: n),
        lambda s: named(s, "module.{}".format),
        lambda s: {"state_dict": named(s, "backbone.{}".format)},
    ],
)
def test_a_network_saved_without_its_normalisation(tmp_path, trained, make):
    fresh, had_normalisation, notes = fitted(saved(tmp_path, make(bare(trained))))
    assert had_normalisation is False
    assert "behind the normalisation" in " ".join(notes)
    assert torch.equal(fresh(torch.ones(1, 1, 2, 2)), trained(torch.ones(1, 1, 2, 2)))


def test_a_module_behind_the_normalisation():
    """As torchvision's ResNet is here: every name of the file gets a number before it."""
    inner = nn.Sequential()
    inner.add_module("fc", nn.Linear(4, 2))
    whole = nn.Sequential(mlp((4,), 2, [0.0], [1.0], hidden=[])[0], inner)
    from certtrain.importing.weights import Weights

    held, notes = fit_weights(whole, Weights({"fc.weight": torch.ones(2, 4), "fc.bias": torch.ones(2)}), "file")
    assert not held
    assert notes == ("taken as the part behind the normalisation",)
    assert whole[1].fc.weight.eq(1).all()


def test_counts_of_batches_may_be_missing():
    block = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    from certtrain.importing.weights import Weights

    state = {name: value for name, value in block.state_dict().items() if "num_batches" not in name}
    assert fit_weights(block, Weights(state), "file") == (True, ())
    del state["1.running_var"]
    with pytest.raises(UserError, match=r"1 missing \(1.running_var\)"):
        fit_weights(block, Weights(state), "file")


def test_what_does_not_fit_is_one_message(tmp_path, trained):
    state = dict(trained.state_dict())
    names = [name for name in state if name.endswith("bias")]
    state["head.weight"] = torch.zeros(1)
    state[names[0]] = torch.zeros(17)
    del state[names[1]]
    with pytest.raises(UserError) as caught:
        fitted(saved(tmp_path, state))
    text = str(caught.value)
    for words in ("does not fit", f"1 missing ({names[1]})", "1 unknown (head.weight)", "(17,) for (3,)", "model="):
        assert words in text
    with pytest.raises(UserError, match=r"\(2.weight, 2.bias, 4.weight, ...\)"):
        fit_weights(network(), read_weights(saved(tmp_path, {f"x.{i}": torch.zeros(1) for i in range(4)})), "file")


def test_weights_of_another_width(tmp_path):
    path = saved(tmp_path, network(hidden=5).state_dict())
    with pytest.raises(UserError, match="of another shape"):
        fitted(path)


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"epoch": 3}, "its keys are epoch"),
        ({}, "holds no state_dict"),
        ([1, 2], "holds a list"),
        ({"state_dict": Evil()}, "weights alone"),
        (network(), "weights alone"),
    ],
)
def test_files_that_are_refused(tmp_path, capsys, content, words):
    path = saved(tmp_path, content)
    with pytest.raises(UserError, match=words):
        read_weights(path)
    assert "executed" not in capsys.readouterr().out


def test_numbers_that_are_not_finite(tmp_path, trained):
    """Those of the network: a best loss of infinity beside it is no fault."""
    fitted(saved(tmp_path, {"state_dict": trained.state_dict(), "best": {"loss": torch.tensor(torch.inf)}}))
    trained.state_dict()["2.bias"][1] = torch.nan
    with pytest.raises(UserError, match=r"NaN or infinite weights: 2\.bias"):
        fitted(saved(tmp_path, trained.state_dict()))


def test_no_file_and_no_checkpoint(tmp_path):
    with pytest.raises(UserError, match="no file"):
        read_weights(tmp_path / "nothing.pt")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    with pytest.raises(UserError, match="weights alone"):
        read_weights(tmp_path / "text.pt")


def test_safetensors(tmp_path, trained, monkeypatch):
    """The package is not a dependency: without it a message, with it the same weights."""
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"tensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(UserError, match="needs the package safetensors"):
        read_weights(path)
    package, reader = types.ModuleType("safetensors"), types.ModuleType("safetensors.torch")
    reader.load_file = lambda file: dict(trained.state_dict()) if file == path else {}
    monkeypatch.setitem(sys.modules, "safetensors", package)
    monkeypatch.setitem(sys.modules, "safetensors.torch", reader)
    fresh, *_ = fitted(path)
    assert torch.equal(fresh(torch.ones(1, 1, 2, 2)), trained(torch.ones(1, 1, 2, 2)))
    reader.load_file = lambda file: 1 / 0
    with pytest.raises(UserError, match="not a safetensors file"):
        read_weights(path)


def test_a_sequential_of_other_layers_without_weights(tmp_path, trained):
    """Linear, ReLU, Dropout, Linear: keys 0 and 3 are the layers 2 and 4 here."""
    theirs = nn.Sequential(trained[2], nn.ReLU(), nn.Dropout(), trained[4])
    fresh, _, notes = fitted(saved(tmp_path, theirs.state_dict()))
    assert "layers numbered as in the model" in notes
    assert torch.equal(fresh(torch.ones(1, 1, 2, 2)), trained(torch.ones(1, 1, 2, 2)))


def test_a_wrapper_within(tmp_path):
    """As DataParallel around the features alone."""

    class Net(nn.Module):
        def __init__(self, wrap):
            super().__init__()
            self.features = wrap(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)))
            self.head = nn.Linear(2, 2)

    theirs, mine = Net(nn.DataParallel), Net(lambda layers: layers)
    _, notes = fit_weights(mine, read_weights(saved(tmp_path, theirs.state_dict())), "file")
    assert notes == ("'module' left out of the names",)
    assert torch.equal(mine.features[2].weight, theirs.features.module[2].weight)


def test_other_names_are_matched_by_order_and_shape(tmp_path, trained):
    theirs = {"fc1.weight": trained[2].weight, "fc1.bias": trained[2].bias}
    theirs |= {"out.weight": trained[4].weight, "out.bias": trained[4].bias}
    fresh, held, notes = fitted(saved(tmp_path, {"net": theirs}))
    assert not held
    assert "matched by order and shape: fc1 as 2, out as 4" in notes
    assert torch.equal(fresh(torch.ones(1, 1, 2, 2)), trained(torch.ones(1, 1, 2, 2)))


def test_several_networks_in_a_file_are_refused(tmp_path, trained):
    other = {name: value + 1 for name, value in trained.state_dict().items()}
    for content in ({"state_dict": trained.state_dict(), "state_dict_ema": other}, [trained.state_dict(), other]):
        with pytest.raises(UserError, match="holds 2 sets of weights that fit the model") as caught:
            fitted(saved(tmp_path, content))
        assert "torch.save(torch.load(FILE, weights_only=True)[KEY], NEW)" in str(caught.value)


def test_torchs_own_page_is_not_shown(tmp_path):
    with pytest.raises(UserError) as caught:
        read_weights(saved(tmp_path, network()))
    text = str(caught.value)
    assert "it holds a torch.nn.modules.container.Sequential" in text
    assert "content.state_dict()" in text
    assert "\x1b" not in text
    assert "Weights only load failed" not in text
