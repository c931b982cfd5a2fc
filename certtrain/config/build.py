"""Builds the parts of a run from its checked configuration."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from certtrain.bounds.base import BoundEngine
from certtrain.certifiers.base import Certifier
from certtrain.config.checks import watched_radius
from certtrain.config.instantiate import call_partial, instantiate
from certtrain.config.network import make_network
from certtrain.data import Batch, DataModule
from certtrain.errors import UserError
from certtrain.methods import Method
from certtrain.methods.optimizer import fused_form
from certtrain.methods.teacher import Teacher
from certtrain.models.contract import InputContract
from certtrain.radii import parse_radius
from certtrain.schedules import Ramp, Timeline, in_steps
from certtrain.system.signatures import parameter_names, resolve
from certtrain.threat.scale_request import resolve_scales
from certtrain.threat.scales import Scales
from certtrain.training.callbacks.validation import CertifyValidation


def build_data(config: dict[str, Any], check: Callable[[DataModule], None] = lambda data: None) -> DataModule:
    """The data module, with its splits in memory.

    Args:
        config: of the run.
        check: called before anything is fetched or read; raises for data that will not do.
    """
    data = instantiate(config["data"], "data", certify_examples=config["validation"]["examples"])
    check(data)
    data.prepare_data()
    data.setup()
    return data


def build_network(node: dict[str, Any], contract: InputContract, seed: int) -> nn.Module:
    """A freshly initialised network; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make_network(node, contract)


def build_engine(config: dict[str, Any]) -> Callable[[nn.Module], BoundEngine]:
    """What makes a bound engine of a network."""
    return instantiate(config["bounds"], "bounds")


def build_timeline(config: dict[str, Any], steps_per_epoch: int) -> Timeline:
    """How long the run is, and the recipe's lengths in it."""
    schedule = config["schedule"]
    return Timeline(
        config["epochs"], steps_per_epoch, schedule["epochs"], schedule["scale"], schedule["warmup"], schedule["ramp"]
    )


def build_scales(config: dict[str, Any], contract: InputContract, data: str = "the data") -> Scales | None:
    """The sizes of the features that the configuration asks for; None where it asks for none.

    Raises:
        UserError: as `resolve_scales`.
    """
    return resolve_scales(config.get("scales"), contract.features, data=data)


def build_method(
    config: dict[str, Any],
    steps_per_epoch: int,
    scales: Scales | None = None,
    teacher: Callable[[str], Teacher] | None = None,
) -> Method:
    """The training method with its schedules in optimiser steps.

    A method that takes `ramp` or `train_eps`, and declares none of its own, is given those of the run, and one that
    takes `teacher` the network that its configuration names; so is a method that stands among another's arguments.

    Args:
        config: of the run.
        steps_per_epoch: optimiser steps.
        scales: sizes of the features of a table.
        teacher: loads a run or a file of weights.

    Raises:
        UserError: the warm-up and the ramp are longer than the training; sigma = 0 with smoothing; scales that the
            method knows nothing of; as `teacher`.
    """
    timeline = build_timeline(config, steps_per_epoch)

    def made(node: dict[str, Any], key: str) -> Method:
        # Hydra would turn objects among its arguments into dictionaries.
        objects: dict[str, Any] = {n: made(value, f"{key}.{n}") for n, value in node.items() if _is_method(value)}
        plain = {name: value for name, value in node.items() if name not in objects}
        partial = instantiate({**plain, "_partial_": True}, key)
        wanted, inner = parameter_names(getattr(partial, "func", partial)), bool(objects)
        if "ramp" in wanted - node.keys():
            shape = {name: config["schedule"][name] for name in ("shape", "mid")}
            objects["ramp"] = Ramp(**Ramp.in_steps(timeline, "schedule", shape))
        if "train_eps" in wanted - node.keys():
            objects["train_eps"] = float(parse_radius(config["train_eps"], where="configuration key train_eps"))
        if teacher is not None and "teacher" in wanted and isinstance(node.get("teacher"), str):
            objects["teacher"] = teacher(node["teacher"])
        # A method around another one leaves the threat model to it.
        return call_partial(partial, key, **objects, **({} if inner else _taking(scales, partial, key)))

    return made(in_steps(config["method"], "method", timeline), "method")


def _is_method(node: Any) -> bool:
    """Whether a configuration describes a training method; what cannot be found says so when it is built."""
    if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
        return False
    try:
        kind = resolve(node["_target_"])
    except Exception:  # whatever a module of the user's raises
        return False
    return inspect.isclass(kind) and issubclass(kind, Method)


def build_lr(config: dict[str, Any], steps_per_epoch: int) -> Callable[[int], float]:
    """The learning rate's factor as a function of the optimiser step."""
    timeline = build_timeline(config, steps_per_epoch)
    return instantiate(in_steps(config["schedule"]["lr"], "schedule.lr", timeline), "schedule.lr")


def build_optimizer(config: dict[str, Any]) -> Callable[[Any], torch.optim.Optimizer]:
    """What makes the optimiser of parameters: torch's fused one where it has one, a single pass over the weights."""
    partial = instantiate(config["optimizer"], "optimizer")
    # Lightning takes fused optimisers for ones that unscale gradients, and does not clip what they are given in bf16.
    may_fuse = config["trainer"]["precision"] != "bf16-mixed" or config["trainer"]["gradient_clip_val"] is None

    def make(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        parameters = list(parameters)
        plain = call_partial(partial, "optimizer", parameters)
        return fused_form(plain, partial, parameters) if may_fuse else plain

    return make


def build_certifiers(config: dict[str, Any], scales: Scales | None = None) -> dict[str, Certifier]:
    """The certifiers of the certify stage, by name, in the configured order.

    Raises:
        UserError: a certifier that knows nothing of scales that are given; what is not a certifier.
    """
    made: dict[str, Certifier] = {}
    for name, node in config["certifier"].items():
        key = f"certifier.{name}"
        if scales is None:
            made[name] = instantiate(node, key)
        else:  # Hydra would turn scales among its arguments into a dictionary
            partial = instantiate({**node, "_partial_": True}, key)
            made[name] = call_partial(partial, key, **_taking(scales, partial, key))
        if not isinstance(made[name], Certifier):
            raise UserError(
                f"{node['_target_']} is not a certifier: it does not derive from certtrain.certifiers.Certifier",
                where=f"configuration key {key}",
                fix=f"class {node['_target_'].rpartition('.')[2]}(Certifier), see examples/own_parts/own_certifier.py",
            )
    return made


def _taking(scales: Scales | None, partial: Any, key: str) -> dict[str, Any]:
    """The argument `scales`, of what knows it."""
    if scales is None:
        return {}
    target = getattr(partial, "func", partial)
    if "scales" not in parameter_names(target):
        raise UserError(
            f"{target.__qualname__} has no argument scales: what it does would be about another threat model",
            where=f"configuration keys scales and {key}",
            fix="scales=null, or a threat_of(scales=...) in it",
        )
    return {"scales": scales}


def build_validation(
    config: dict[str, Any], data: DataModule, certifiers: Mapping[str, Certifier]
) -> CertifyValidation | None:
    """What certifies the pinned validation examples in training, a rehearsal of the first certifier; None when nothing
    was held out."""
    if not len(data.val):
        return None
    options, index = config["validation"], data.certify_index
    certifier = next(iter(certifiers.values())).rehearsal(options, config["seed"])
    batch = Batch(data.val.x[index], data.val.y[index], index)
    every, watched = options["every_n_epochs"], watched_radius(config)
    return CertifyValidation(certifier, batch, every_n_epochs=every, watched=watched)


def validation_entry(
    validation: CertifyValidation | None, data: DataModule, chosen: dict[str, Any] | None = None
) -> dict[str, Any] | None:
    """The validation as `result.json` holds it: the given one, of the chosen checkpoint, else the last."""
    if validation is None or validation.summary is None:
        return None
    found = chosen or validation.state_dict()
    return {
        **found["summary"],
        "indices_sha256": data.certify_index_sha256,
        "certifier": validation.certifier.name,
        "settings": validation.certifier.settings(),
        "step": found["step"],
        "seconds": found["seconds"],
    }
