"""Every option of every group composes and builds what it names; what cannot be built says why."""

from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from composing import composed
from omegaconf import OmegaConf
from torch import nn

from certtrain.bounds import NativeEngine
from certtrain.certifiers import BoundCertifier, SmoothingCertifier
from certtrain.config import build
from certtrain.config.checks import check, resolve_radii
from certtrain.config.instantiate import call_partial, instantiate
from certtrain.config.overrides import GROUPS, options
from certtrain.data import DataModule
from certtrain.errors import UserError
from certtrain.methods.teacher import Teacher
from certtrain.models.contract import InputContract
from certtrain.radii import parse_radius
from certtrain.system import files
from certtrain.system.files import conf_dir
from certtrain.threat.scales import Scales

EXPERIMENTS = [name for name in options("experiment") if "/" not in name]  # test_presets.py has the papers' rows
MNIST, CIFAR = (1, 28, 28), (3, 32, 32)


@pytest.mark.parametrize("group", sorted({p.name for p in conf_dir().iterdir() if p.is_dir()} - {"tuned", "hydra"}))
def test_every_folder_is_a_known_group_with_options(group):
    assert group in GROUPS
    assert options(group)


def test_the_folder_of_the_configuration():
    assert (conf_dir() / "train.yaml").is_file()
    assert conf_dir() == Path(files.__file__).resolve().parents[2] / "conf"


def test_a_package_without_configuration_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "__file__", str(tmp_path / "certtrain" / "system" / "files.py"))
    with pytest.raises(UserError, match="configuration files"):
        conf_dir()


def test_an_installed_package_has_its_configuration_inside(monkeypatch, tmp_path):
    (tmp_path / "certtrain" / "conf").mkdir(parents=True)
    (tmp_path / "certtrain" / "conf" / "train.yaml").write_text("")
    monkeypatch.setattr(files, "__file__", str(tmp_path / "certtrain" / "system" / "files.py"))
    assert conf_dir() == tmp_path / "certtrain" / "conf"


@pytest.mark.parametrize("name", options("data"))
def test_data(name, tmp_path):
    needed = {"image_folder": ["data.num_classes=3"], "csv": ["data.file=csv.csv", "data.label=kind"]}
    needed["dataset"] = ["data.name=dataset"]
    for part in ("data.train", "data.test"):
        needed["dataset"] += [f"{part}._target_=torchvision.datasets.FakeData", f"++{part}.image_size=[3,4,4]"]
        needed["dataset"] += [f"++{part}.size=20", f"++{part}.num_classes=3"]
    (tmp_path / "csv.csv").write_text("size,kind\n1,a\n2,b\n")
    found = composed(f"data={name}", f"data_dir={tmp_path}", "seed=3", "val_size=0.2", *needed.get(name, []))
    data = instantiate(found["data"], "data", certify_examples=7)
    assert isinstance(data, DataModule)
    assert data.name == name
    assert (data.seed, data.val_size, data.certify_examples) == (3, 0.2, 7)
    contract = InputContract.of(data)
    assert contract.num_classes >= 2
    assert len(contract.mean) == contract.shape[0]


@pytest.mark.parametrize("name", [name for name in options("model") if name != "custom"])
def test_models(name):
    shape = CIFAR if "resnet" in name or name == "cnn7" else MNIST
    contract = InputContract(shape, 10, (0.1,), (0.3,))
    before = torch.get_rng_state()
    network = build.build_network(composed(f"model={name}")["model"], contract, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.no_grad():
        assert network.eval()(torch.rand(1, *shape)).shape == (1, 10)
    contract.check_network(network)


@pytest.mark.parametrize("name", options("method"))
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_methods(name, norm):
    found = composed(f"method={name}", f"norm={norm}", "eps=2/255", "data=breast_cancer")
    given = {"steps_per_epoch": 10, "teacher": lambda name: Teacher(nn.Linear(30, 2))}
    if "teacher" in found["method"]:
        with pytest.raises(UserError, match=r"method\.teacher must be given"):
            build.build_method(found, **given)
        found["method"]["teacher"] = "a run"
    smoothed = "smoothing" in found["certifier"]
    if norm == "l2" and "attack" in found["method"] and not smoothed:
        with pytest.raises(UserError, match="in l2, which is not a box"):
            build.build_method(found, **given)
        return
    method = build.build_method(found, **given)
    if smoothed or name == "standard":
        assert method.ramp_end in (0, 110)
    else:
        assert method.ramp_end == 110
        assert method.scheduled(110)["eps"] == 2 / 255
        assert method.scheduled(10)["eps"] == 0
    certifiers = build.build_certifiers(found)
    kind = SmoothingCertifier if smoothed else BoundCertifier
    assert all(type(certifier) is kind for certifier in certifiers.values())
    build.build_lr(found, 10)(0)


def test_a_method_around_another_leaves_it_what_the_run_gives_by_name():
    """Ramp, radius, a schedule's lengths and a teacher, as for the method on its own; its settings lie below `base`."""
    given = {"steps_per_epoch": 10, "teacher": lambda name: Teacher(nn.Linear(64, 10))}
    words = ("method=gls", "method@method.base=cc_dist", "method.base.teacher=a run", "method.base.alpha=0.2")
    found = build.build_method(composed(*words, "eps=0.05", "method.std=0.25"), **given)
    assert (found.std, found.base.robust.alpha, found.base.train_eps) == (0.25, 0.2, 0.05)
    assert found.base.robust.teacher.network.in_features == 64
    assert found.ramp_end == found.base.ramp.end == 110
    with pytest.raises(UserError, match=r"method\.base\.teacher must be given"):
        build.build_method(composed(*words[:2]), **given)
    with pytest.raises(UserError, match=r"method\.base cannot be built: .*share") as refused:
        build.build_method(composed("method=gls", "+method.base.share=0.5"), **given)
    assert "configuration key method.base" in refused.value.where


def test_the_middle_of_a_smoothed_ramp_is_configured():
    found = composed("method=ibp", "schedule.shape=smoothed", "schedule.mid=0.4")
    assert build.build_method(found, steps_per_epoch=10).ramp.mid == 0.4
    with pytest.raises(UserError, match="mid = 'half'"):
        build.build_method(composed("method=ibp", "schedule.mid=half"), steps_per_epoch=10)


@pytest.mark.parametrize("kind", ["constant", "milestones", "cosine", "step_after_ramp"])
def test_learning_rates(kind):
    factor = build.build_lr(composed(f"schedule.lr.kind={kind}", "schedule.lr.milestones=[5]"), 10)
    assert factor(0) == 1
    assert 0 <= factor(199) <= 1


@pytest.mark.parametrize("name", options("optimizer"))
def test_optimizers(name):
    network = nn.Linear(2, 2)
    optimizer = build.build_optimizer(composed(f"optimizer={name}", "optimizer.lr=0.25"))(network.parameters())
    assert optimizer.param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize("name", options("bounds"))
def test_bound_engines(name):
    if name == "auto_lirpa" and find_spec("auto_LiRPA") is None:
        pytest.skip("auto_LiRPA is not installed")
    make = build.build_engine(composed(f"bounds={name}"))
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    engine = make(network)
    assert engine.name == name
    assert "ibp" in engine.methods


@pytest.mark.parametrize("command", ["train", "certify", "predict"])
@pytest.mark.parametrize("name", options("certifier"))
def test_certifiers(name, command):
    needed = {"train": [], "certify": ["run=x"], "predict": ["run=x", "input=y"]}[command]
    found = composed(f"certifier={name}", "radii=[0.1,2/255]", *needed, command=command)
    certifiers = build.build_certifiers(found)
    assert list(certifiers) == (["ibp", "crown_ibp", "crown"] if name == "bounds" else [name])
    for key, certifier in certifiers.items():
        assert certifier.radii == (Fraction(2, 255), Fraction(1, 10))
        assert certifier.name == key
        assert certifier.settings()


@pytest.mark.parametrize("name", options("trainer"))
def test_trainers(name):
    from certtrain.training.fit import TrainerSettings

    settings = TrainerSettings(**composed(f"trainer={name}")["trainer"])
    assert settings.accelerator == ("cpu" if name == "cpu" else "auto")


@pytest.mark.parametrize("name", options("logger"))
def test_loggers(name):
    assert list(composed(f"logger={name}")["logger"]) == [name]


@pytest.mark.parametrize("names", ["csv,wandb", "wandb,csv", "wandb,tensorboard"])
def test_loggers_together(names):
    found = composed(f"logger=[{names}]")["logger"]
    assert list(found) == names.split(",")
    assert found["wandb"]["project"] == "certtrain"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments(name, tmp_path):
    found = composed(f"experiment={name}", f"data_dir={tmp_path}")
    check(found)
    data = instantiate(found["data"], "data", certify_examples=found["validation"]["examples"])
    build.build_network(found["model"], InputContract.of(data), found["seed"])
    method = build.build_method(found, steps_per_epoch=10)
    assert method.ramp_end <= 10 * found["epochs"]
    build.build_lr(found, 10)
    build.build_optimizer(found)([nn.Parameter(torch.zeros(1))])
    build.build_engine(found)
    for certifier in build.build_certifiers(found).values():
        assert certifier.radii == resolve_radii(found)
    if "kappa" in found["method"]:
        assert parse_radius(found["eps"]) in resolve_radii(found)  # else the table would not show the target


@pytest.mark.parametrize("name", options("tuned"))
def test_tuned_values_are_found_by_method_and_data(name):
    pairs = [(m, d) for m in options("method") for d in options("data") if name == f"{m}_{d}"]
    assert pairs, "no method and data are called so: nobody would ever get these values"
    [(method, data)] = pairs
    build.build_method(composed(f"method={method}", f"data={data}"), 10)


# --- the one helper


def test_a_mistyped_argument_names_key_target_and_neighbour():
    node = {"_target_": "certtrain.models.mlp", "hiden": [3], "input_shape": [4], "num_classes": 2}
    with pytest.raises(UserError) as error:
        instantiate(node, "model", mean=[0.0], std=[1.0])
    assert "hiden" in error.value.what
    assert "configuration key model" in error.value.where
    assert "certtrain.models.mlp" in error.value.where
    assert error.value.fix == "did you mean hidden?"


@pytest.mark.parametrize("target", ["certtrain.models.mpl", "no_such_package.thing"])
def test_a_wrong_target_is_named(target):
    with pytest.raises(UserError) as error:
        instantiate({"_target_": target}, "certifier.mine")
    assert "certifier.mine" in str(error.value)
    assert target in str(error.value)
    assert "Traceback" not in str(error.value)


@pytest.mark.parametrize("node", [{"a": 1}, None, 3, "certtrain.models.mlp"])
def test_a_node_without_a_target_is_refused(node):
    with pytest.raises(UserError, match="model names nothing to build"):
        instantiate(node, "model")


def test_the_message_of_a_constructor_survives():
    node = {"_target_": "certtrain.methods.Gaussian", "sigma": 0.0}
    with pytest.raises(UserError) as error:
        instantiate(node, "method")
    assert "sigma" in error.value.what
    assert error.value.where == "sigma"
    assert "sigma=0.25" in error.value.fix


def test_a_partial_reports_when_it_is_called():
    partial = instantiate({"_target_": "torch.optim.Adam", "_partial_": True, "lrr": 0.1}, "optimizer")
    with pytest.raises(UserError) as error:
        call_partial(partial, "optimizer", [nn.Parameter(torch.zeros(1))])
    assert "lrr" in error.value.what
    assert error.value.fix == "did you mean lr?"
    with pytest.raises(UserError, match="Invalid learning rate"):
        call_partial(
            instantiate({"_target_": "torch.optim.Adam", "_partial_": True, "lr": -1.0}, "optimizer"),
            "optimizer",
            [nn.Parameter(torch.zeros(1))],
        )


def test_partial_engines_are_not_called():
    make = instantiate({"_target_": "certtrain.bounds.NativeEngine", "_partial_": True}, "bounds")
    assert isinstance(make(nn.Sequential(nn.Linear(2, 2))), NativeEngine)


# --- checks that span keys

GOOD = {
    **{"eps": 0.1, "train_eps": "2/255", "radii": [0.1], "sigma": 0.0, "epochs": 1, "seed": 0, "norm": "linf"},
    "validation": {"every_n_epochs": 1, "examples": 1},
    "checkpoint": {"use": "last"},
}


def changed(key: str, value) -> dict:
    group, _, name = key.rpartition(".")
    return {**GOOD, group: {**GOOD[group], name: value}} if group else {**GOOD, key: value}


def test_a_good_configuration_passes():
    assert check(GOOD) == GOOD
    assert resolve_radii(changed("radii", ["0.30", "2/255", 0.3])) == (Fraction(2, 255), Fraction(3, 10))


@pytest.mark.parametrize(
    ("eps", "written", "radius"),
    [("0.1", "1.2eps", "0.12"), ("2/255", "1.1 eps", "11/1275"), ("8/255", "1*eps", "8/255"), (0.3, "4/3 eps", "0.4")],
)
def test_a_radius_to_train_for_is_exact_as_a_multiple_of_eps(eps, written, radius):
    given = OmegaConf.create({**GOOD, "eps": eps, "train_eps": written, "radii": ["${train_eps}"]})
    found = check(given)
    assert (found["train_eps"], found["radii"]) == (radius, [radius])
    assert given["train_eps"] == written


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[
            ("eps", value)
            for value in (-0.1, "-1/255", 8, "256/255", "a", "1/0", None, True, float("nan"), float("inf"))
        ],
        *[("train_eps", value) for value in (-1, "", 1.5, "eps", "-1.2eps", "xeps", "nan eps", "1.2 epsilon", "20eps")],
        *[("radii", value) for value in ([], 0.1, "0.1", None, [-0.1], [0.1, "x"])],
        *[("sigma", value) for value in (-1, "a", True, float("nan"), None)],
        *[("epochs", value) for value in (0, -1, 2.5, "3", True, None)],
        *[("seed", value) for value in (-1, 0.5, "x")],
        *[("norm", value) for value in ("l1", "Linf", None)],
        *[("validation.every_n_epochs", value) for value in (0, 1.5)],
        *[("validation.examples", value) for value in (0, -5)],
        *[("checkpoint.use", value) for value in ("lst", None)],
    ],
)
def test_what_makes_no_sense_is_refused_by_its_key(key, value):
    with pytest.raises(UserError) as error:
        check(changed(key, value))
    assert f"configuration key {key}" in error.value.where
    assert error.value.fix


@pytest.mark.parametrize(
    ("given", "model"),
    [
        ([], "wong_small"),
        (["data=breast_cancer"], "mlp"),
        (["data=csv"], "mlp"),
        (["data=breast_cancer", "model=lenet"], "lenet"),
        (["experiment=breast_cancer_measured"], "mlp"),
        (["experiment=quickstart"], "zhang_3layer"),
    ],
)
def test_a_table_has_a_network_for_tables_unless_another_is_asked_for(given, model):
    assert composed(*given)["model"]["_target_"] == f"certtrain.models.{model}"


def test_data_choose_no_network_where_none_is_asked_for():
    assert "model" not in composed("run=x", command="certify")


@pytest.mark.parametrize("method", ["ibp", "crown_ibp"])
def test_the_regulariser_is_there_where_it_is_defined_unless_it_is_stated(method):
    def weight(*overrides, scales=None):
        found = build.build_method(composed(f"method={method}", *overrides), 10, scales).regulariser
        return found and found.weight

    any_category = Scales(("x", "a", "b"), (Fraction(1), Fraction(0), Fraction(0)), (0, 0, 0), groups=(("c", (1, 2)),))
    assert weight() == 0.5
    assert weight("method.regulariser=0.1") == 0.1
    assert weight("method.regulariser=0") is weight("norm=l2") is weight(scales=any_category) is None
