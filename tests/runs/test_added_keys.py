"""Keys added to the configuration: runs from before are gone on with; none comes without saying what it changes."""

from functools import cache
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from certtrain.cli.one_run import resolve
from certtrain.cli.study_request import FREE
from certtrain.config.instantiate import plain
from certtrain.config.overrides import GROUPS, options
from certtrain.runs.added_keys import BEFORE
from certtrain.runs.directory import ABSENT, RunDirectory, config_differences
from certtrain.runs.session_keys import EXTENDS, MAY_DIFFER
from certtrain.system.files import conf_dir

ROOT = Path(__file__).resolve().parents[2]
KEYS: dict[str, list[str]] = yaml.safe_load((ROOT / "tests" / "keys_of_runs.yaml").read_text(encoding="utf-8"))
COMMITTED = sorted(path.parent for path in (ROOT / "experiments").glob("*/results/*/config.yaml"))
APART = [group for group in GROUPS if group not in ("experiment", "logger")]  # each option has keys of its own
# Of no saved configuration; or those in which two sessions of a run, or of a study, may differ.
FREE_KEYS = (*MAY_DIFFER, *EXTENDS, "seeds", "trust", *(f"sweep.{key}" for key in FREE), "sweep.space")


@cache
def composed(*overrides):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        found = compose("train", list(overrides), return_hydra_config=True)
    hydra = found.hydra
    return OmegaConf.masked_copy(found, [key for key in found if key != "hydra"]), hydra


def flat(value, prefix=""):
    if not isinstance(value, dict) or not value:
        return {prefix.removesuffix(".")}
    return {key for name, inner in value.items() for key in flat(inner, f"{prefix}{name}.")}


def keys_of(option):
    """Those that the option brings; of `train` those of no group, with what is chosen."""
    if option != "train":
        group = option.split("=")[0]
        return flat(plain(composed(option)[0])[group], f"{group}.")
    config, hydra = composed()
    rest = {key: value for key, value in plain(config).items() if key not in GROUPS}
    choices = [name for name in hydra.runtime.choices if not name.startswith(("hydra/", "sweep"))]
    return flat({**rest, "choices": dict.fromkeys(choices)})


def before(option):
    group = option.split("=")[0]
    return {key if option == "train" else f"{group}.{key}" for key in KEYS[option]}


def free(key):
    return any(key == one or key.startswith(f"{one}.") for one in FREE_KEYS)


def test_every_option_is_in_the_snapshot():
    every = {f"{group}={name}" for group in APART for name in options(group) if "/" not in name}
    assert every | {"train"} == set(KEYS), "a new option: write its keys into tests/keys_of_runs.yaml"


@pytest.mark.parametrize("option", KEYS)
def test_a_key_that_comes_or_goes_says_what_runs_without_it_did(option):
    changed = {key for key in keys_of(option) ^ before(option) if not free(key)}
    assert changed <= set(BEFORE), (
        "certtrain/runs/added_keys.py wants the value that means what runs did before there was it"
    )


@pytest.mark.parametrize("run", COMMITTED, ids=lambda path: path.name)
def test_runs_that_were_kept_are_what_their_overrides_make_now(run):
    """So `resume=` goes on with each of them."""
    old = RunDirectory(run).read_config()
    new, _ = resolve(*composed(*RunDirectory(run).read_overrides(), f"name='{run.name}'"))
    found = config_differences(old, {**new, "name": old["name"]}, (*MAY_DIFFER, *EXTENDS))
    # Two presets asked for radii beyond what their draws can show: those columns of the kept results are 0.
    beyond = run.name.startswith(("mnist_smoothing", "quickstart_smoothing"))
    assert [one for one in found if not (beyond and one[0].split(".")[-1] == "radii")] == []


def test_an_added_key_that_is_lacking_has_its_former_value():
    old = {"trainer": {"devices": 1}, "seed": 0}
    same = {"trainer": {"devices": 1, "precision": "32-true"}, "seed": 0}
    other = {"trainer": {"devices": 1, "precision": "tf32"}, "seed": 0}
    assert config_differences(old, same) == config_differences(same, old) == []
    assert config_differences(old, other) == [("trainer.precision", "32-true", "tf32")]
    assert config_differences(other, old) == [("trainer.precision", "tf32", "32-true")]
    assert config_differences(old, {**old, "more": 1}) == [("more", ABSENT, 1)]
    assert config_differences(old, {**old, "scales": None}) == []
    assert config_differences(old, {**old, "scales": {"others": 1}}) == [("scales.others", ABSENT, 1)]
