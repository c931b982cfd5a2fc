"""The shipped wandb sweep: the command that wandb's agent would start composes; it sweeps the keys of our own space."""

from pathlib import Path

import pytest
import yaml

from certtrain.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
SWEEP = yaml.safe_load((ROOT / "experiments" / "wandb_sweep.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("end", ["min", "max"])
def test_the_agents_command_composes(end, capsys):
    utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    values = {key: {"value": spec.get("value", spec.get(end))} for key, spec in SWEEP["parameters"].items()}
    arguments = utils.create_sweep_command_args({"args": values})["args_no_hyphens"]
    assert SWEEP["command"] == ["${env}", "certtrain", "train", "${args_no_hyphens}"]
    assert main(["train", *arguments, "--cfg", "job"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["certify_test"] is False
    assert shown["logger"]["wandb"]
    assert shown["method"]["kappa"]["end"] == values["method.kappa.end"]["value"]
    schedule = shown["schedule"]
    assert schedule["warmup"] + schedule["ramp"] <= schedule["epochs"]
    radii = [str(radius) for radius in shown["radii"]]
    assert SWEEP["metric"]["name"].removeprefix("val/certified@") in radii


def test_it_searches_in_our_own_space():
    def keys(node: dict, prefix: str = "") -> set[str]:
        if "low" in node:
            return {prefix.removesuffix(".")}
        return set().union(*(keys(node[key], f"{prefix}{key}.") for key in node if isinstance(node[key], dict)))

    def searched(name: str) -> set[str]:
        space = yaml.safe_load((ROOT / "conf" / "sweep" / "space" / f"{name}.yaml").read_text(encoding="utf-8"))
        others = set(space.pop("defaults", [])) - {"_self_"}
        return keys(space).union(*map(searched, others))

    swept = {key for key, spec in SWEEP["parameters"].items() if "value" not in spec}
    assert swept
    assert swept <= searched("crown_ibp")
