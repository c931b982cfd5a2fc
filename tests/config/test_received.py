"""A run directory from a stranger is data: whatever it holds, no command runs code of it, and each says which key."""

import pickle
import sys

import numpy as np
import pytest
import torch
import yaml
from composing import composed
from run_files import forget_hashes

import certtrain
from certtrain.cli.main import main
from certtrain.config.overrides import options
from certtrain.config.received import KINDS, check_received, resolve, targets_of, trust_words, trusted
from certtrain.errors import UserError

# What runs when it is reached: on import, by a call, by being unpickled.
EVIL = """
from pathlib import Path
Path("touched").touch()

import torch
from certtrain.models import mlp
from torch import load


def touch(*args, **kwargs):
    Path("touched").touch()


class Net(torch.nn.Sequential):
    def __init__(self, input_shape, num_classes, mean, std):
        super().__init__(*mlp(input_shape, num_classes, mean, std, hidden=[16]))
"""


class Touch:
    def __reduce__(self):
        return eval, ("open('touched', 'w').close()",)


@pytest.fixture
def run(runs, monkeypatch):
    """The run `bounds` with what a stranger may have put beside it: a module, a pickle, a configuration."""
    folder = runs.parent
    monkeypatch.syspath_prepend(folder)  # as the console script has the working directory
    monkeypatch.setenv("TOKEN", "hunter2")
    (folder / "evil.py").write_text(EVIL)
    (folder / "payload.pt").write_bytes(pickle.dumps(Touch()))
    (folder / "evil.yaml").write_text("evil:\n  _target_: evil.touch\n")
    np.save(folder / "digit.npy", np.zeros((1, 8, 8), dtype=np.float32))
    yield runs / "bounds"
    sys.modules.pop("evil", None)


def plant(run, key, value):
    """Set a key of the run's configuration, `data.x.0` below what is there."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    *way, last = key.split(".")
    node = config
    for part in way:
        node = node.setdefault(part, {})
    node[last] = value
    (run / "config.yaml").write_text(yaml.safe_dump(config))


COMMANDS = {
    "certify": ["certify", "run=bounds", "certifier=ibp"],
    "predict": ["predict", "run=bounds", "input=digit.npy"],
    "export": ["export", "run=bounds"],
    "report": ["report", "bounds"],
}


def refused(run, capsys, command, *words):
    assert main(COMMANDS[command] if isinstance(command, str) else command) == 2
    shown = capsys.readouterr().err
    for word in words:
        assert word in shown
    assert "Traceback" not in shown
    untouched(run, shown)
    return shown


def untouched(run, shown=""):
    assert not (run.parent.parent / "touched").exists(), "code of the run was executed"
    assert "evil" not in sys.modules, "a module of the run was imported"
    assert "hunter2" not in shown


LOAD = {"f": "payload.pt", "weights_only": False}
PAYLOADS = {
    "unpickling": {"_target_": "torch.load", **LOAD},
    "by another name": {"_target_": "certtrain.randomness.torch.load", **LOAD},
    "through an allowed package": {"_target_": "torch.nn.modules.module.torch.load", **LOAD},
    "through ours": {"_target_": "certtrain.models.lenet.nn.modules.module.torch.load", **LOAD},
    "through our data": {"_target_": "certtrain.data.mnist.torch.load", **LOAD},
    "through torchvision": {"_target_": "torchvision.models.resnet.torch.load", **LOAD},
    "a shell": {"_target_": "os.system", "_args_": ["touch touched"]},
    "through pathlib": {"_target_": "certtrain.data.mnist.Path.touch", "_args_": ["touched"]},
    "a process": {"_target_": "subprocess.check_call", "_args_": [["touch", "touched"]]},
    "eval": {"_target_": "builtins.eval", "_args_": ["open('touched', 'w')"]},
    "Hydra in Hydra": {"_target_": "hydra.utils.instantiate", "_args_": [{"_target_": "evil.touch"}]},
    "a module": {"_target_": "evil.Net"},
    "torch.hub": {"_target_": "torch.hub.load", "repo_or_dir": ".", "source": "local", "model": "evil"},
    "a partial": {"_target_": "evil.touch", "_partial_": True},
    "not recursive": {"_target_": "evil.touch", "_recursive_": False},
    "in a list": [{"a": [{"_target_": "evil.touch"}]}],
    "as an argument": {"_target_": "torch.nn.ReLU", "_args_": [{"_target_": "evil.touch"}]},
    "evaluated": {"_target_": "${oc.decode:evil.touch}"},
    "no text": {"_target_": {"_target_": "evil.touch"}},
    "a method": {"_target_": "torch.nn.Module.load_state_dict"},
    "a module itself": {"_target_": "torch.nn.init"},
    "a function of torch.nn": {"_target_": "torch.nn.init.normal_"},
    "of another kind": {"_target_": "certtrain.data.split.Split"},
    "a bound engine": {"_target_": "certtrain.bounds.NativeEngine"},
}


@pytest.mark.parametrize("name", PAYLOADS)
def test_no_target_of_a_run_is_called(run, name):
    for key in ("data.evil", "model.evil", "data", "model"):
        for wrapped in (PAYLOADS[name], {"inner": PAYLOADS[name]}):
            section, _, _ = key.partition(".")
            config = {"data": {}, "model": {}}
            config[section] = {"evil": wrapped} if "." in key else wrapped
            with pytest.raises(UserError) as error:
                check_received(config, ("data", "model"), (), "config.yaml")
            assert f"config.yaml, key {key}" in error.value.where
            untouched(run, str(error.value))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("key", ["data.evil", "model.evil", "model", "data"])
def test_every_command_refuses_a_target(run, capsys, command, key):
    plant(run, key, PAYLOADS["unpickling"])
    if command == "report" or not key.startswith("data") or command == "certify":
        refused(run, capsys, command, f"key {key}._target_", "torch.load", "do not use this run")
    plant(run, key, PAYLOADS["a module"])
    shown = refused(run, capsys, command, f"key {key}._target_", "evil.Net", "trust")
    assert ("--trust evil" if command == "report" else "trust=evil") in shown
    with pytest.raises(UserError, match=r"evil\.Net"):
        certtrain.load(run)
    untouched(run)


def test_a_trusted_package_is_built_and_nothing_it_imports(run, capsys):
    plant(run, "model", {"_target_": "evil.load", **LOAD})
    with pytest.raises(UserError, match=r"evil\.load is not a network"):
        certtrain.load(run, trust="evil")  # it is torch's, and was only imported there
    (run.parent.parent / "touched").unlink()  # by the import that was asked for
    plant(run, "model", {"_target_": "evil.Net"})
    network = certtrain.load(run, trust="evil")
    assert torch.equal(network(torch.zeros(1, 1, 8, 8)), certtrain.load(run, trust=["evil"])(torch.zeros(1, 1, 8, 8)))
    for command in ("predict", "export"):
        assert main([*COMMANDS[command], "trust=evil"]) == 0
    assert main(["certify", "run=bounds", "trust=evil", "certifier=ibp", "indices=first_3", "name=new"]) == 0
    assert main([*COMMANDS["report"], "--trust", "evil"]) == 0
    capsys.readouterr()
    for file in ("config.yaml", "overrides.yaml", "result.json"):
        assert "trust" not in (run / file).read_text()
    assert main(COMMANDS["predict"]) == 2  # nothing remembers it
    assert main([*COMMANDS["predict"], "trust=[a,../b]"]) == 2
    assert "trust = '../b' is not the name of a package" in capsys.readouterr().err


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "certtrain.models.mlp", "hidden": [3]},
        {"_target_": "torch.nn.Sequential", "_args_": [{"_target_": "torch.nn.ReLU", "_partial_": True}]},
        {"_target_": "torchvision.models.resnet18", "weights": None},
        {"_target_": "torchvision.models.ResNet", "layers": [1]},
    ],
)
def test_networks_of_ours_of_torch_and_of_torchvision_need_no_trust(node):
    check_received({"model": node}, ("model",), (), "config.yaml")


@pytest.mark.parametrize("more", [{"weights": "DEFAULT"}, {"weights_backbone": "DEFAULT"}, {"_args_": [True]}])
def test_torchvision_fetches_no_weights(more):
    with pytest.raises(UserError, match="weights would be fetched"):
        check_received({"model": {"_target_": "torchvision.models.resnet18", **more}}, ("model",), (), "config.yaml")


@pytest.mark.parametrize(
    ("group", "name"),
    [(group, name) for group in KINDS if group != "schedule" for name in options(group) if "/" not in name],
)
def test_every_option_that_certtrain_offers_may_stand_in_a_received_run(group, name):
    """So that a run of it is resumed and certified again without a word of trust."""
    if (group, name) in (("data", "dataset"), ("model", "custom")):
        pytest.skip("a class of the user's own")
    chosen = f"{group}=[{name}]" if group in ("logger", "callbacks") else f"{group}={name}"
    config = composed(chosen)
    assert config.get(group) or (group, name) == ("logger", "csv")
    check_received(config, (group,), (), "run")


def test_the_parts_of_a_method_an_optimiser_and_a_certifier(run):
    good = {
        "method": {
            "_target_": "certtrain.methods.sabr.SABR",
            "kappa": {"_target_": "certtrain.schedules.Weight", "start": 1},
            "attack": {"_target_": "certtrain.methods.inner_attack.InnerAttack", "steps": 1},
        },
        "schedule": {"lr": {"_target_": "certtrain.schedules.LearningRate"}},
        "optimizer": {"_target_": "torch.optim.SGD", "_partial_": True},
        "bounds": {"_target_": "certtrain.bounds.NativeEngine", "_partial_": True},
        "certifier": {"a": {"_target_": "certtrain.certifiers.BoundCertifier", "engine": {}}},
    }
    good["certifier"]["a"]["engine"] = good["bounds"]
    check_received(good, tuple(good), (), "run")
    for key, other in [("method", "optimizer"), ("optimizer", "method"), ("bounds", "method"), ("method", "bounds")]:
        with pytest.raises(UserError, match="nothing is built") as error:
            check_received({**good, key: good[other]}, tuple(good), (), "run")
        assert f"key {key}._target_" in error.value.where
    with pytest.raises(UserError, match="not a schedule") as error:
        check_received({**good, "schedule": {"lr": good["optimizer"]}}, tuple(good), (), "run")
    assert "key schedule.lr._target_" in error.value.where
    with pytest.raises(UserError) as error:
        check_received({**good, "certifier": {"a": good["bounds"]}}, tuple(good), (), "run")
    assert "key certifier.a._target_" in error.value.where


# --- what is taken over


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[(key, PAYLOADS["a shell"]) for key in ("radii", "sigma", "n0", "n", "alpha", "budget", "seed", "data_dir")],
        *[(key, ["${oc.env:TOKEN}"]) for key in ("radii", "norm")],
        *[(key, "${oc.env:TOKEN}") for key in ("sigma", "data_dir", "norm")],
        ("radii", [PAYLOADS["a shell"]]),
        ("choices.certifier", "../../evil"),
        ("choices.certifier", "/etc/passwd"),
        ("choices.certifier", "ibp/../../../evil"),
        ("choices.certifier", ["ibp"]),
        ("choices.certifier", "ibp,crown"),
        ("choices.certifier", "${oc.env:TOKEN}"),
        ("choices", "certifier"),
    ],
)
def test_what_a_command_takes_over_is_plain(run, capsys, key, value):
    plant(run, key, value)
    named = key.split(".")[0]
    refused(run, capsys, ["certify", "run=bounds"], named)
    if key in ("radii", "sigma", "choices.certifier"):
        refused(run, capsys, ["predict", "run=bounds", "input=digit.npy"], named)


def test_what_is_given_beside_a_node_is_not_built(run):
    plant(run, "validation.examples", PAYLOADS["a shell"])
    assert main(COMMANDS["certify"]) in (0, 2)
    untouched(run)


# --- resuming


@pytest.mark.parametrize(
    "override",
    [
        "--config-dir=.",
        "-m",
        "hydra.callbacks={x: {_target_: evil.touch}}",
        "+hydra.callbacks.x._target_=evil.touch",
        "hydra.searchpath=[file://.]",
        "hydra/launcher=joblib",
        "+model@hydra.callbacks.x=mlp",
        "+model@_global_.hydra.callbacks.x=mlp",
        "experiment=../../evil",
        "certifier=../../evil",
        "certifier=[ibp,../../evil]",
        "tuned=../../evil",
        "+mine=../evil",
        "method=/evil",
        "seed=1,2",
        "trust=[evil]",
        "sweep=optuna",
        "+note=${oc.env:TOKEN}",
        "+note='${oc.env:TOKEN}'",
        "+note=$\\{oc.env\\:TOKEN\\}",
        "+note=[{a: '${${x}:TOKEN}'}]",
        "not an override",
        "model={",
        3,
        {"model": "mlp"},
    ],
)
def test_an_override_of_a_run_is_a_setting_of_a_training(run, capsys, override):
    kept = yaml.safe_load((run / "overrides.yaml").read_text())
    (run / "overrides.yaml").write_text(yaml.safe_dump([*kept, override]))
    refused(run, capsys, ["train", "resume=bounds", "epochs=3"], "overrides.yaml", "command line")


SECTIONS = ["model", "data", "method", "optimizer", "bounds", "schedule", "logger", "callbacks"]


@pytest.mark.parametrize("section", SECTIONS)
def test_a_target_of_a_run_is_not_called_when_it_is_resumed(run, capsys, section):
    kept = yaml.safe_load((run / "overrides.yaml").read_text())
    changed = [*kept, f"++{section}.evil._target_=evil.touch"]
    (run / "overrides.yaml").write_text(yaml.safe_dump(changed))
    plant(run, f"{section}.evil._target_", "evil.touch")
    resume = ["train", "resume=bounds", "epochs=3"]
    refused(run, capsys, resume, f"key {section}.evil._target_", "trust=evil")
    for more in ([], [f"+{section}.argument=1"]):  # to know whether it is one, its class would have to be imported
        overrides = [*kept, f"{section}._target_=evil.Net", *more]
        (run / "overrides.yaml").write_text(yaml.safe_dump(overrides))
        refused(run, capsys, resume, f"key {section}._target_", "trust=evil")


def test_a_run_of_ones_own_network_trains_certifies_and_is_resumed_with_trust(run, tiny, capsys):
    common = ["train", "data=digits", *tiny[3:], "method=standard", "norm=linf", "certifier=ibp", "name=own"]
    common += ["model=mlp", "model._target_=evil.Net", "~model.hidden", "certify_test=true", "falsify.examples=0"]
    assert main([*common, "certifier.ibp.attack_steps=0"]) == 0  # the session knows what it was asked to build
    own, resume = run.parent / "own", ["train", "resume=own", "epochs=3"]
    assert "trust" not in (own / "config.yaml").read_text() + (own / "overrides.yaml").read_text()
    capsys.readouterr()
    assert main(resume) == 2
    assert "key model._target_" in (shown := capsys.readouterr().err)
    assert "trust=evil" in shown
    assert main([*resume, "trust=evil"]) == 0
    assert main([*resume[:2], "epochs=4", "model._target_=evil.Net"]) == 0  # typed
    assert "trust" not in (own / "config.yaml").read_text() + (own / "overrides.yaml").read_text()


# --- files


def test_yaml_makes_no_objects(run, capsys):
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(f"{text}evil: !!python/object/apply:os.system ['touch touched']\n")
    for command in ("certify", "predict", "export"):
        refused(run, capsys, command, "config.yaml")
    assert main(COMMANDS["report"]) == 0  # a page without a configuration
    untouched(run)


def test_a_pickle_in_a_checkpoint_is_not_executed(run, capsys):
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    torch.save({**content, "evil": Touch()}, run / "checkpoints" / "last.ckpt")
    for command in ("certify", "predict", "export"):
        refused(run, capsys, command, "corrupt", "last.ckpt")
    refused(run, capsys, ["train", "resume=bounds", "epochs=3"], "corrupt", "last.ckpt")


@pytest.mark.parametrize("key", ["shape", "num_classes", "mean", "class_names"])
def test_a_target_in_a_checkpoints_contract_is_not_called(run, capsys, key):
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    content["certtrain"]["contract"][key] = PAYLOADS["a shell"]
    torch.save(content, run / "checkpoints" / "last.ckpt")
    forget_hashes(run)
    main(COMMANDS["predict"])
    assert "Traceback" not in capsys.readouterr().err
    untouched(run)


def test_pickled_objects_in_arrays_are_not_executed(run, capsys):
    evil = np.array([Touch()], dtype=object)
    np.save("evil.npy", evil)
    refused(run, capsys, ["predict", "run=bounds", "input=evil.npy"], "evil.npy")
    [card] = (run / "certificates").glob("ibp.json")
    np.savez(card.with_suffix(".counterexamples.npz"), x=evil, index=evil)
    main(COMMANDS["report"])
    main(["audit", str(run)])
    untouched(run)


def test_an_image_is_never_handed_to_another_program(tmp_path):
    from PIL import Image

    from certtrain.data.image_files import ImageFiles

    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(UserError, match="cannot identify"):
        ImageFiles(tmp_path, ["a.png"], 8, None)[torch.tensor([0])]


def test_resolving_prefers_what_a_package_exports_to_its_modules():
    assert resolve("certtrain.models.mlp") is certtrain.models.mlp
    assert resolve("certtrain.bounds.auto_lirpa.AutoLirpaEngine").__name__ == "AutoLirpaEngine"
    with pytest.raises(AttributeError):
        resolve("certtrain.randomness.torch.nothing.here")


def test_what_a_message_advises():
    own = {"model": {"_target_": "my.net.Net"}, "data": {"_target_": "my_data.D"}}
    assert targets_of(own) == ["my.net.Net", "my_data.D"]
    assert trust_words(own) == ["trust=[my,my_data]"]
    assert trust_words({"model": own["model"]}) == ["trust=my"]
    assert trust_words({"model": {"_target_": "certtrain.models.mlp"}}) == []
    subset = {"data": {"_target_": "torch.utils.data.Subset"}}  # of torch, only what is there: not torch.load as well
    assert trust_words(subset) == ["trust=torch.utils.data.Subset"]
    assert trust_words({"data": {"_target_": "functools.partial"}}) == ["trust=functools.partial"]
    assert trusted(None) == trusted([]) == ()
