"""`certtrain certify checkpoint=FILE model=... data=...`: a run directory for a network that was trained elsewhere."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from certtrain.config.kinds import of_choice
from certtrain.config.overrides import choices_by_name, quoted
from certtrain.errors import UserError
from certtrain.system.signatures import parameter_names

if TYPE_CHECKING:
    from torch import nn

    from certtrain.data import DataModule
    from certtrain.models.contract import InputContract

# What makes a network and its inputs: another value of these is another network.
IDENTITY = ("data", "model", "source")
MAY_DIFFER = ("data.data_dir", "data.seed", "data.batch_size", "data.eval_batch_size", "data.download")
MAY_DIFFER += ("source.file", "source.notes")
RECIPE = ("seed", "norm", "scales", "radii", "sigma", "n0", "n", "alpha", "budget", "data_dir", "val_size")


def asked_for(given: Mapping[str, str]) -> bool:
    """Whether `checkpoint=` names a file: it does without a run."""
    return "checkpoint" in given and "run" not in given


def prepare(arguments: list[str], given: Mapping[str, str]) -> list[str]:
    """The arguments with the file's name as Hydra takes it.

    Raises:
        UserError: what no file of weights can say was not given.
    """
    needed = ["model", "data", "certifier", "radii"]
    needed += ["sigma"] if any("sigma" in parameter_names(kind) for kind in of_choice(given.get("certifier"))) else []
    missing = [key for key in needed if key not in given and not any(k.startswith(f"{key}.") for k in given)]
    if missing:
        raise UserError(
            f"{given['checkpoint']} brings no recipe: {', '.join(f'{key}=' for key in missing)} must be given",
            where="the command line",
            fix="certtrain certify checkpoint=FILE model=... data=... certifier=... radii=[...]; run=NAME for a run",
        )
    rest = [argument for argument in arguments if not argument.startswith("checkpoint=")]
    return ["run=null", quoted("checkpoint", given["checkpoint"]), *rest]


def adopt(resolved: dict[str, Any], choices: Mapping[str, Any], overrides: list[str]) -> Path:
    """Make `runs/<name or the file's stem>` of the file, or find that it is there already.

    The weights are written once more, as `checkpoints/last.ckpt` in our own form with the contract of the inputs: so
    the run directory stands alone when the file moves, and every command takes it like a run of our own. The file's
    hash stands in `source`, in the configuration, the result and every card.

    Returns:
        The run directory.

    Raises:
        UserError: the file, the model and the data do not fit together; the directory is of something else.
    """
    import torch

    from certtrain.config.build import build_data, build_network
    from certtrain.importing.weights import fit_weights, read_weights
    from certtrain.models.contract import InputContract
    from certtrain.models.normalize import normalising_layer
    from certtrain.runs.directory import RunDirectory, config_differences, difference_lines, sha256_file
    from certtrain.system.files import check_name, write_bytes_atomic

    file = Path(resolved["checkpoint"])
    weights = read_weights(file)
    choices = choices_by_name(choices, resolved)
    config = _config(resolved, choices)
    data = build_data(config)
    contract = InputContract.of(data)
    network = build_network(config["model"], contract, config["seed"])
    held, notes = fit_weights(network, weights, str(file))
    if held and normalising_layer(network) is not None:
        contract.check_network(network, this=f"data={data.name}", that=str(file))
    network = contract.classifier(network)
    config["source"] = {
        "file": file.name,
        "sha256": sha256_file(file),
        "notes": list(notes),
        "normalisation": _normalisation(network, held, contract, config),
    }
    _refuse_before_anything_is_written(network, data, config, resolved)
    run = RunDirectory(Path(resolved["runs_dir"]) / check_name(resolved["name"] or file.stem))
    if run.config.exists():
        before = run.read_config()
        pick = [{key: value.get(key) for key in IDENTITY} for value in (before, config)]
        differing = config_differences(*pick, MAY_DIFFER)
        if differing:
            raise UserError(
                "\n".join(
                    [f"the run {run.name} is of another network or other data:", *difference_lines(differing, 6)]
                ),
                where=str(run.path),
                fix="choose another name=",
            )
        run.lock()
    else:
        run, _ = RunDirectory.open(run.path, config, [o for o in overrides if o != "run=null"])
    with run:
        if not run.last.exists():
            state = {f"network.{name}": value for name, value in network.state_dict().items()}
            content = io.BytesIO()
            torch.save({"state_dict": state, "certtrain": {"contract": contract.to_dict(), "config": config}}, content)
            write_bytes_atomic(run.last, content.getvalue())
        if run.read_result() is None:
            run.write_result(
                {
                    "status": "complete",
                    "trained": False,
                    "experiment": None,
                    "seed": config["seed"],
                    "method": "trained elsewhere",
                    "data": choices["data"],
                    "model": choices["model"],
                    "source": config["source"],
                    "parameters": sum(p.numel() for p in network.parameters()),
                    "checkpoint": run.last.name,
                    "checkpoints_sha256": run.checkpoint_hashes(),
                    "checkpoint_chosen": f"the file {file.name}",
                    "validation": None,
                    "test": {},
                }
            )
    return run.path


def _refuse_before_anything_is_written(
    network: nn.Module, data: DataModule, config: dict[str, Any], resolved: dict[str, Any]
) -> None:
    import torch

    from certtrain.certification.checks import before_certifying
    from certtrain.certification.stage import chosen_examples
    from certtrain.config.build import build_certifiers, build_scales
    from certtrain.models.contract import InputContract

    examples = chosen_examples(data, resolved)
    certifiers = build_certifiers(resolved, build_scales(resolved, InputContract.of(data), f"data={data.name}"))
    before_certifying(network, examples, certifiers, config, resolved, torch.device("cpu"), asked=True)


def _normalisation(network: nn.Module, held: bool, contract: InputContract, config: dict[str, Any]) -> str:
    """Where the network's normalisation comes from, in words."""
    from certtrain.config.network import normalisation_note
    from certtrain.importing.weights import normalisation_names

    stated = f"assumed from data={config['choices']['data']}: mean {list(contract.mean)}, std {list(contract.std)}"
    note = normalisation_note(network, config["model"])
    if held and normalisation_names(network):
        return "in the file"
    if note is None:
        return stated
    return note if note.startswith("by ") else f"{stated}; {note}"


def _config(resolved: dict[str, Any], choices: Mapping[str, Any]) -> dict[str, Any]:
    """What later commands read in a run's configuration."""
    return {
        "choices": {key: choices[key] for key in ("data", "model", "certifier", "bounds")},
        **{key: resolved[key] for key in RECIPE},
        "data": resolved["data"],
        "model": resolved["model"],
        "bounds": resolved["bounds"],
        "method": {},
        "trainer": {"accelerator": "auto"},
        "validation": {"examples": 1},
    }
