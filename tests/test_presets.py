"""Every published row has its preset, every preset its row, and both say the same; what a preset names can be built."""

import re
from functools import cache

import preprocessing
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from torch import nn

from certtrain.certification.checks import radii_out_of_reach
from certtrain.certifiers import SmoothingCertifier
from certtrain.config import build
from certtrain.config.checks import check
from certtrain.config.instantiate import instantiate, plain
from certtrain.config.overrides import options
from certtrain.models.contract import InputContract
from certtrain.radii import parse_radii, parse_radius, radius_text
from certtrain.reporting.published import read_paper
from certtrain.system.files import conf_dir

PRESETS = [name for name in options("experiment") if "/" in name]
PAPERS = sorted({name.split("/")[0] for name in PRESETS})
EXPERIMENTS = conf_dir().parent / "experiments"
LARGE = ("dm_medium", "dm_large", "cnn7", "cifar_resnet110", "resnet18", "resnet50")  # built in the slow tests only


def verifiers(found):
    """One certificate, or several: the first is the one compared with the published figure."""
    return [found["verifier"]] if isinstance(found["verifier"], str) else found["verifier"]


ROW = {"data", "network", "norm", "verifier", "note", "published", "tolerance"}
PUBLISHED = {"clean", "certified", "acr", "n", "draws", "alpha", "verifier", "seeds", "sd", "source", "provenance"}
TOLERANCE = {"clean", "certified", "acr", "reason"}
PROVENANCE = {"repository", "artefact", "leaderboard", "log"}
NAMES = {"mnist": "MNIST", "cifar10": "CIFAR-10", "imagenet": "ImageNet"}
NAMES |= {"tiny_imagenet": "TinyImageNet", "image_folder": "TinyImageNet"}
# What a preset must state itself, so that no change of a default changes it.
STATED = {"defaults", "data", "radii", "val_size", "schedule", "optimizer", "checkpoint"}
STATED_BY = {"smoothing": {"sigma", "n0", "n", "alpha"}, "bounds": {"norm", "eps", "train_eps", "method"}}

# Likewise, of every preset, those without a paper too: what the defaults of a training change.
RECIPE = ("schedule.epochs", "schedule.lr.kind", "optimizer.lr", "data.batch_size")
RECIPE_OF_BOUNDS = ("schedule.warmup", "schedule.ramp", "method.kappa.end", "method.regulariser")


@cache
def composed(name, *overrides):
    GlobalHydra.instance().clear()
    given = [*([] if name is None else [f"experiment={name}"]), *overrides]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        found = compose("train", overrides=given, return_hydra_config=True)
    choices = {key: value for key, value in found.hydra.runtime.choices.items() if not key.startswith("hydra/")}
    ours = OmegaConf.masked_copy(found, [key for key in found if key != "hydra"])
    return {**plain(ours), "choices": choices}


@cache
def published(paper):
    return yaml.safe_load((EXPERIMENTS / paper / "published.yaml").read_text(encoding="utf-8"))


def row(name):
    paper, key = name.split("/")
    return published(paper)["rows"][key]


def text(name):
    return (conf_dir() / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", options("experiment"))
def test_no_change_of_a_default_changes_the_recipe_of_a_preset(name):
    stated = yaml.safe_load(text(name))
    needed = RECIPE + (RECIPE_OF_BOUNDS if composed(name)["choices"]["method"] in ("ibp", "crown_ibp") else ())

    def states(node, key):
        first, _, rest = key.partition(".")
        return isinstance(node, dict) and first in node and (not rest or states(node[first], rest))

    assert [key for key in needed if not states(stated, key)] == []


@pytest.mark.parametrize("paper", PAPERS)
def test_rows_and_presets_are_the_same(paper):
    content = published(paper)
    assert set(content) == {"paper", "family", "rows"}
    assert [f"{paper}/{key}" for key in sorted(content["rows"])] == [p for p in PRESETS if p.startswith(f"{paper}/")]
    assert list(read_paper(EXPERIMENTS / paper).rows) == list(content["rows"])


@pytest.mark.parametrize("name", PRESETS)
def test_a_row_holds_what_the_table_reads(name):
    family, found = published(name.split("/")[0])["family"], row(name)
    assert set(found) == ROW | {{"bounds": "eps", "smoothing": "sigma"}[family]}
    assert (found["published"] is None) == (found["tolerance"] is None)
    if found["published"] is None:
        assert found["note"]
        return
    figures, tolerance = found["published"], found["tolerance"]
    on = {"indices", True}  # which images, figures of others (`on`, which YAML 1.1 reads as True); of all without
    assert (set(figures) - on, set(tolerance)) == (PUBLISHED, TOLERANCE)
    assert figures["provenance"] in PROVENANCE
    assert figures["source"]
    assert figures["verifier"]
    assert tolerance["reason"]
    assert figures["n"] > 0 < figures["seeds"]
    assert (figures["seeds"] > 1) == bool(figures["sd"])
    shares = [value for value in (figures["clean"], *figures["certified"].values()) if value is not None]
    assert shares == sorted(shares, reverse=True)  # the clean one first, then by radius
    assert all(0 < share < 1 for share in shares)
    for key in ("clean", "certified", "acr"):
        assert (figures[key] in (None, {})) == (tolerance[key] is None)
    assert all(0 < tolerance[key] <= 0.12 for key in ("clean", "certified", "acr") if tolerance[key] is not None)
    smoothed = [figures[key] for key in ("acr", "draws", "alpha")]
    assert all(smoothed) if family == "smoothing" else smoothed == [None] * 3


@pytest.mark.parametrize("name", PRESETS)
def test_a_row_and_its_preset_say_the_same(name):
    found, config = row(name), composed(name)
    family = published(name.split("/")[0])["family"]
    smoothing = family == "smoothing"
    assert smoothing == (config["choices"]["certifier"] == "smoothing")
    assert found["data"] == NAMES[config["choices"]["data"]]
    if images := preprocessing.published(name.split("/")[0], config["choices"]["data"]):
        shown = preprocessing.stated(config["data"])
        shown["augment"] = {key: (shown["augment"] or {}).get(key) for key in images["augment"]}
        assert shown == images, preprocessing.SOURCES[name.split("/")[0]]
    assert found["norm"] == ("l2" if smoothing else config["norm"])
    assert set(verifiers(found)) <= set(config["certifier"])
    if smoothing:
        assert found["sigma"] == config["sigma"]
        assert f"_sigma{config['sigma']}" in name
    else:
        assert found["eps"] == radius_text(parse_radius(config["eps"]))
        assert name.endswith(f"_eps{found['eps'].replace('/', '_')}")
    if found["published"]:
        certified = found["published"]["certified"]
        assert [radius_text(parse_radius(radius)) for radius in certified] == list(certified)
        assert {parse_radius(radius) for radius in certified} <= set(parse_radii(config["radii"]))
        if smoothing:
            assert found["published"]["draws"] == config["n"]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_states_its_whole_recipe(name):
    paper, key = name.split("/")
    head = [line for line in text(name).splitlines() if line.startswith("#")]
    assert head[0] == "# @package _global_"
    assert re.search(r"\(20\d\d\)", head[1]), "the paper's authors and year come first"
    assert head[-1] == f"# Target: experiments/{paper}/published.yaml, row {key}."
    stated, family = yaml.safe_load(text(name)), published(paper)["family"]
    assert set(stated) >= STATED | STATED_BY[family]
    assert {next(iter(entry)) for entry in stated["defaults"]} == {
        f"override /{group}" for group in ("data", "model", "method", "optimizer")
    }
    assert set(stated["data"]) >= {"batch_size", "augment"}
    assert {"epochs", "lr"} | ({"warmup", "ramp", "shape"} if family == "bounds" else set()) <= set(stated["schedule"])
    if family == "bounds":
        assert {"kappa", "l1", "init", "regulariser"} <= set(stated["method"])
    assert (stated["val_size"], stated["checkpoint"]) == (0, {"use": "last"})


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_s_schedule_fits_its_epochs(name):
    config = composed(name)
    check(config)
    schedule = config["schedule"]
    assert config["epochs"] == schedule["epochs"]
    lr = schedule["lr"]
    drops = lr["milestones"] if lr["kind"] == "milestones" else []
    assert all(0 < drop < config["epochs"] for drop in drops)
    method = build.build_method(config, steps_per_epoch=300)
    if "kappa" in config["method"]:
        assert schedule["warmup"] + schedule["ramp"] < config["epochs"]
        assert method.ramp_end == round(300 * (schedule["warmup"] + schedule["ramp"]))
        assert parse_radius(config["train_eps"]) >= parse_radius(config["eps"])
        assert parse_radius(config["eps"]) in parse_radii(config["radii"])
        assert all(drop * 300 >= method.ramp_end for drop in drops) or name.startswith("gowal2018/")
    build.build_lr(config, 300)(0)


def test_the_exact_radii_of_the_papers_decimals():
    """2.2/255 and 8.8/255 are no fractions of whole numbers as they stand; 1.1 times eps is."""
    for name in PRESETS:
        config = composed(name)
        if name.startswith(("zhang2020/cifar10", "xu2020/cifar10", "gowal2018/cifar10")):
            assert parse_radius(config["train_eps"]) * 10 == parse_radius(config["eps"]) * 11


def test_steps_of_gowal_are_converted_exactly():
    method, lr = (make(composed("gowal2018/mnist_eps0.4"), 300) for make in (build.build_method, build.build_lr))
    assert (method.ramp.start, method.ramp.length, lr.milestones, lr.total) == (2000, 10000, (15000, 25000), 60000)


def built(name):
    """The network, the objective and what proves, as `certtrain train` builds them."""
    config = composed(name)
    data = instantiate(config["data"], "data", certify_examples=config["validation"]["examples"])
    network = build.build_network(config["model"], InputContract.of(data), config["seed"])
    method = build.build_method(config, steps_per_epoch=10)
    build.build_optimizer(config)([nn.Parameter(torch.zeros(1))])
    if method.needs_engine:
        assert set(verifiers(row(name))) <= set(build.build_engine(config)(network).methods)
    certifiers = build.build_certifiers(config)
    assert all(certifier.radii == parse_radii(config["radii"]) for certifier in certifiers.values())
    return network


def stated_parameters(name):
    """`52k parameters` in the row, as the range of numbers that are rounded so; None when it states none."""
    match = re.search(r"\(([\d.]+)([kM]) parameters\)", row(name)["network"])
    if match is None:
        return None
    unit = {"k": 1e3, "M": 1e6}[match[2]]
    half = 0.5 * 10 ** -len(match[1].partition(".")[2])
    return (float(match[1]) - half) * unit, (float(match[1]) + half) * unit


def is_large(name):
    return composed(name)["choices"]["model"] in LARGE


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if is_large(name) else []) for name in PRESETS]
)
def test_what_a_preset_names_can_be_built(name):
    parameters, stated = sum(p.numel() for p in built(name).parameters()), stated_parameters(name)
    assert stated is None or stated[0] <= parameters <= stated[1]


@pytest.mark.parametrize("name", [None, *options("experiment"), *(f"method={name}" for name in options("method"))])
def test_no_radius_of_ours_is_out_of_reach_of_its_draws(name):
    """Of every preset, and of every method by itself: what a run would warn about is not what we ship."""
    found = composed(name) if name and "=" not in name else composed(None, *filter(None, [name]))
    if "sigma" not in found["method"]:
        return
    certifier = SmoothingCertifier(**{key: found[key] for key in ("sigma", "radii", "n0", "n", "alpha", "seed")})
    assert radii_out_of_reach(certifier, 1) == ()
