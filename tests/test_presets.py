"""Every published row has its preset, every preset its row, and both say the same; what a preset names can be built."""

import re
from functools import cache

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
from certtrain.reporting.cells import Cell
from certtrain.reporting.published import read_paper
from certtrain.system.files import conf_dir

PRESETS = [name for name in options("experiment") if "/" in name]
PAPERS = sorted({name.split("/")[0] for name in PRESETS})
EXPERIMENTS = conf_dir().parent / "experiments"
LARGE = ("dm_medium", "dm_large", "cnn7", "cifar_resnet110", "resnet18", "resnet50")  # built in the slow tests only


PUBLISHED = {"paper", "family", "rows"}
MORE = {"method", "benchmark", "points", "shared"}  # what a file may have besides; `shared` holds its YAML anchors
# What a preset must state itself, so that no change of a default changes it.
STATED = {"data", "radii", "val_size", "schedule", "optimizer", "checkpoint"}
STATED_BY = {"smoothing": {"sigma", "n0", "n", "alpha"}, "bounds": {"norm", "eps", "train_eps", "method"}}

# Likewise, of every preset, those without a paper too: what the defaults of a training change.
RECIPE = ("schedule.epochs", "schedule.lr.kind", "optimizer.lr", "data.batch_size")
RECIPE_OF_BOUNDS = ("schedule.warmup", "schedule.ramp", "method.kappa.end")


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


def text(name):
    return (conf_dir() / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")


@cache
def stated(name):
    """What a preset and the recipe that it shares with its neighbours say, and the options that they choose."""
    own = yaml.safe_load(text(name))
    shared = [entry for entry in own["defaults"] if isinstance(entry, str)]
    found, chosen = OmegaConf.create({}), {}
    for node in (*(yaml.safe_load(text(path.removeprefix("/experiment/"))) for path in shared), own):
        groups = [entry for entry in node.pop("defaults") if entry not in shared]
        chosen |= {key.removeprefix("override /"): value for entry in groups for key, value in entry.items()}
        found = OmegaConf.merge(found, node)
    return OmegaConf.to_container(found), chosen


def shares(name):
    return any(isinstance(entry, str) for entry in yaml.safe_load(text(name))["defaults"])


SHARING = [name for name in PRESETS if shares(name)]


def slow_unless_first():
    """Every preset; of those that share a recipe only the first one for each method is not slow: to compose one takes
    longer than all else that is asked of it."""
    seen = set()
    for name in options("experiment"):
        kind = (name.split("/")[0], stated(name)[1]["method"]) if name in SHARING else name
        yield pytest.param(name, marks=[pytest.mark.slow] if kind in seen else [])
        seen.add(kind)


ANY = list(slow_unless_first())
COMPOSED = [one for one in ANY if "/" in one.values[0]]


def states(node, key):
    first, _, rest = key.partition(".")
    return isinstance(node, dict) and first in node and (not rest or states(node[first], rest))


@pytest.mark.parametrize("name", ANY)
def test_no_change_of_a_default_changes_the_recipe_of_a_preset(name):
    found, method = stated(name)[0], composed(name)["method"]
    needed = RECIPE + (RECIPE_OF_BOUNDS if "kappa" in method else ())
    needed += tuple(f"method.{key}" for key in ("regulariser", "share", "alpha", "attack", "split") if key in method)
    assert [key for key in needed if not states(found, key)] == []


def option(group, names):
    """The keys of a group's options, those of the options that they build on included."""
    found = {}
    for name in [names] if isinstance(names, str) else names or []:
        node = yaml.safe_load((conf_dir() / group / f"{name}.yaml").read_text("utf-8"))
        found |= option(group, [one for one in node.pop("defaults", []) if isinstance(one, str) and one != "_self_"])
        found |= node
    return found


def unknown(node, known, path=""):
    """The keys of a preset that the options which it chooses do not have."""
    for key, value in node.items():
        if key not in known:
            yield f"{path}{key}"
        elif isinstance(value, dict) and isinstance(known[key], dict):
            yield from unknown(value, known[key], f"{path}{key}.")


@pytest.mark.parametrize("name", SHARING)
def test_a_preset_sets_nothing_that_its_options_do_not_have(name):
    found, chosen = stated(name)
    known = yaml.safe_load((conf_dir() / "train.yaml").read_text("utf-8"))
    known |= {group: option(group, name) for group, name in {**chosen, "trainer": "default"}.items()}
    assert list(unknown(found, known)) == []


@pytest.mark.parametrize("paper", PAPERS)
def test_rows_and_presets_are_the_same(paper):
    content = published(paper)
    assert PUBLISHED <= set(content) <= PUBLISHED | MORE
    assert [f"{paper}/{key}" for key in sorted(content["rows"])] == [p for p in PRESETS if p.startswith(f"{paper}/")]
    assert list(read_paper(EXPERIMENTS / paper).rows) == list(content["rows"])


@cache
def read(paper):
    return read_paper(EXPERIMENTS / paper)


def row(name):
    paper, key = name.split("/")
    return read(paper).rows[key]


@pytest.mark.parametrize("name", PRESETS)
def test_a_row_holds_what_the_table_reads(name):
    found = row(name)
    figures, tolerance = found.published, found.tolerance
    if figures is None:
        assert found.note
        assert tolerance is None
        return
    judged = figures.n and figures.provenance != "recalled"
    assert (tolerance is not None) == bool(judged)  # what is recalled, or of unknown images, is shown and not judged
    assert figures.source
    assert figures.verifier
    assert figures.seeds > 0
    assert (figures.seeds > 1) == bool(figures.sd)
    shares = [value for value in (figures.clean, *figures.certified.values()) if value is not None]
    assert shares == sorted(shares, reverse=True)  # the clean one first, then by radius
    assert all(0 < share < 1 for share in shares)
    smoothed = [figures.acr, figures.draws, figures.alpha]
    assert all(smoothed) if found.family == "smoothing" else smoothed == [None] * 3
    if judged:
        assert tolerance.reason
        for key in ("clean", "certified", "acr"):
            assert (getattr(figures, key) in (None, {})) == (getattr(tolerance, key) is None)
        known = [value for value in (tolerance.clean, tolerance.certified, tolerance.acr) if value is not None]
        assert all(0 < value <= 0.12 for value in known)


@pytest.mark.parametrize("name", COMPOSED)
def test_a_row_and_its_preset_say_the_same(name):
    found, config = row(name), composed(name)
    smoothing, choices = found.family == "smoothing", config["choices"]
    assert smoothing == (choices["certifier"] == "smoothing")
    assert set(found.verifiers) <= set(config["certifier"])
    assert letters(found.data) == letters(config["data"].get("name") or choices["data"])
    assert found.norm == ("l2" if smoothing else config["norm"])
    if smoothing:
        assert found.sigma == config["sigma"]
        assert f"_sigma{config['sigma']}" in name
    else:
        assert letters(found.method) == letters(choices["method"])
        assert found.eps == radius_text(parse_radius(config["eps"]))
        assert name.endswith(f"_eps{found.eps.replace('/', '_')}")
    if found.published:
        radii = {parse_radius(radius) for radius in found.published.certified}
        assert radii <= set(parse_radii(config["radii"]))
        if smoothing:
            assert found.published.draws == config["n"]


def letters(name):
    """Of a data set or a method, however it is written."""
    return Cell.of(name, "", "").data


@pytest.mark.parametrize("name", COMPOSED)
def test_a_preset_states_its_whole_recipe(name):
    paper, key = name.split("/")
    head = [line for line in text(name).splitlines() if line.startswith("#")]
    assert head[0] == "# @package _global_"
    assert re.search(r"\(20\d\d\)", head[1]), "the paper's authors and year come first"
    assert head[-1] == f"# Target: experiments/{paper}/published.yaml, row {key}."
    found, chosen = stated(name)
    family = row(name).family
    assert set(found) >= STATED | STATED_BY[family]
    assert set(chosen) - {"certifier", "callbacks"} == {"data", "model", "method", "optimizer"}
    assert set(found["data"]) >= {"batch_size", "augment"}
    assert {"epochs", "lr"} | ({"warmup", "ramp", "shape"} if family == "bounds" else set()) <= set(found["schedule"])
    if family == "bounds":
        assert {"kappa", "l1", "init"} <= set(found["method"])
        for part in ("attack", "latent_attack"):
            assert set(composed(name)["method"].get(part, ())) <= {*found["method"].get(part, ()), "_target_"}
    assert (found["val_size"], found["checkpoint"]) == (0, {"use": "last"})


@pytest.mark.parametrize("name", COMPOSED)
def test_a_preset_s_schedule_fits_its_epochs(name):
    config = composed(name)
    check(config)
    schedule = config["schedule"]
    assert config["epochs"] == schedule["epochs"]
    lr = schedule["lr"]
    first = schedule["warmup"] + schedule["ramp"] if lr["kind"] == "milestones_after_ramp" else 0
    drops = [drop + first for drop in lr["milestones"]] if lr["kind"].startswith("milestones") else []
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
        if name.startswith(("zhang2020/cifar10", "xu2020/cifar10", "gowal2018/cifar10")):
            config = composed(name)
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
    if method.needs_engine:
        assert {"ibp", "crown_ibp"} <= set(build.build_engine(config)(network).methods)
    build.build_optimizer(config)([nn.Parameter(torch.zeros(1))])
    certifiers = build.build_certifiers(config)
    assert all(certifier.radii == parse_radii(config["radii"]) for certifier in certifiers.values())
    return network


def stated_parameters(name):
    """`52k parameters` in the row, as the range of numbers that are rounded so; None when it states none."""
    match = re.search(r"\(([\d.]+)([kM]) parameters\)", row(name).network)
    if match is None:
        return None
    unit = {"k": 1e3, "M": 1e6}[match[2]]
    half = 0.5 * 10 ** -len(match[1].partition(".")[2])
    return (float(match[1]) - half) * unit, (float(match[1]) + half) * unit


def is_large(name):
    return stated(name)[1]["model"] in LARGE


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if is_large(name) else []) for name in PRESETS]
)
def test_what_a_preset_names_can_be_built(name):
    parameters, stated = sum(p.numel() for p in built(name).parameters()), stated_parameters(name)
    assert stated is None or stated[0] <= parameters <= stated[1]


@pytest.mark.parametrize("name", [None, *ANY, *(f"method={name}" for name in options("method"))])
def test_no_radius_of_ours_is_out_of_reach_of_its_draws(name):
    """Of every preset, and of every method by itself: what a run would warn about is not what we ship."""
    found = composed(name) if name and "=" not in name else composed(None, *filter(None, [name]))
    if "sigma" not in found["method"]:
        return
    certifier = SmoothingCertifier(**{key: found[key] for key in ("sigma", "radii", "n0", "n", "alpha", "seed")})
    assert radii_out_of_reach(certifier, 1) == ()
