"""Builds the parts of a run from its checked configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from certtrain.bounds.base import BoundEngine
from certtrain.callbacks.validation import CertifyValidation
from certtrain.certifiers.base import Certifier
from certtrain.commands.network import make_network
from certtrain.config import call_partial, instantiate, watched_radius
from certtrain.data import Batch, DataModule
from certtrain.errors import UserError
from certtrain.methods import LearningRate, Method, Ramp, Weight
from certtrain.models.contract import InputContract
from certtrain.radii import parse_radius
from certtrain.scale_request import resolve_scales
from certtrain.signatures import parameter_names
from certtrain.threat.scales import Scales


def build_data(config: dict[str, Any]) -> DataModule:
    """The data module, with its splits in memory."""
    data = instantiate(config["data"], "data", certify_examples=config["validation"]["examples"])
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


class Lengths:
    """The schedule's lengths, converted from epochs of the recipe to optimiser steps of this run."""

    def __init__(self, config: dict[str, Any], steps_per_epoch: int) -> None:
        schedule = config["schedule"]
        self.epochs, self.steps_per_epoch = config["epochs"], steps_per_epoch
        self.factor = self.epochs / schedule["epochs"] if schedule["scale"] else 1.0
        self.start = self.steps(schedule["warmup"], "warmup")
        self.steps(schedule["ramp"], "ramp")
        # By its end, so that warm-up and ramp rounded apart do not outlast a training that both together fit into.
        self.ramp = self.steps(schedule["warmup"] + schedule["ramp"], "ramp") - self.start
        self.total = self.epochs * steps_per_epoch

    def steps(self, epochs: float, key: str) -> int:
        """Optimiser steps of a length in epochs."""
        if isinstance(epochs, bool) or not isinstance(epochs, (int, float)) or not epochs >= 0:
            raise UserError(
                f"schedule.{key} = {epochs!r} is not a length in epochs >= 0",
                where=f"configuration key schedule.{key}",
                fix=f"schedule.{key}=5",
            )
        return round(epochs * self.factor * self.steps_per_epoch)


def build_scales(config: dict[str, Any], contract: InputContract, data: str = "the data") -> Scales | None:
    """The sizes of the features that the configuration asks for; None where it asks for none.

    Raises:
        UserError: as `resolve_scales`.
    """
    return resolve_scales(config.get("scales"), contract.features, data=data)


def build_method(config: dict[str, Any], steps_per_epoch: int, scales: Scales | None = None) -> Method:
    """The training method with its schedules in optimiser steps.

    A value `{start, end, by}` becomes a `Weight`; a method that takes `ramp` or `train_eps` is given those of the
    configuration.

    Raises:
        UserError: the warm-up and the ramp are longer than the training; sigma = 0 with smoothing; scales that the
            method knows nothing of.
    """
    node = config["method"]
    weights = {key: _weight(value, key) for key, value in node.items() if _is_weight(value)}
    # Hydra would turn dataclasses among its arguments into dictionaries: they are given afterwards.
    rest = {key: value for key, value in node.items() if key not in weights}
    partial = instantiate({**rest, "_partial_": True}, "method")
    wanted = parameter_names(getattr(partial, "func", partial)) - node.keys()
    objects: dict[str, Any] = dict(weights)
    if "ramp" in wanted:
        objects["ramp"] = _ramp(config, Lengths(config, steps_per_epoch))
    if "train_eps" in wanted:
        objects["train_eps"] = float(parse_radius(config["train_eps"], where="configuration key train_eps"))
    return call_partial(partial, "method", **objects, **_taking(scales, partial, "method"))


def _ramp(config: dict[str, Any], lengths: Lengths) -> Ramp:
    schedule = config["schedule"]
    ends = schedule["warmup"] + schedule["ramp"]
    if lengths.start + lengths.ramp > lengths.total:
        fits = not schedule["scale"] and ends <= schedule["epochs"]
        raise UserError(
            f"warm-up and ramp take {ends * lengths.factor:g} epochs, training only {config['epochs']}",
            where="configuration keys schedule.warmup, schedule.ramp and epochs",
            fix=("schedule.scale=true, which shrinks the schedule to epochs; or " if fits else "")
            + "a shorter schedule.ramp, or more epochs",
        )
    return Ramp(lengths.start, lengths.ramp, shape=schedule["shape"], mid=schedule["mid"])


def _is_weight(value: Any) -> bool:
    return isinstance(value, dict) and "_target_" not in value and not {"start", "end"}.isdisjoint(value)


def _weight(node: Any, key: str) -> Weight:
    try:
        return Weight(**node)
    except TypeError as error:
        raise UserError(
            f"method.{key} = {node!r} is not a weight", where=f"method.{key}", fix="{start: 1, end: 0.5, by: eps}"
        ) from error


def build_lr(config: dict[str, Any], steps_per_epoch: int) -> LearningRate:
    """The learning rate's factor as a function of the optimiser step."""
    lengths, lr = Lengths(config, steps_per_epoch), config["schedule"]["lr"]
    milestones = tuple(lengths.steps(m, "lr.milestones") for m in lr["milestones"])
    return LearningRate(
        kind=lr["kind"],
        milestones=milestones,
        gamma=lr["gamma"],
        every=max(1, lengths.steps(lr["every"], "lr.every")),
        after=lengths.start + lengths.ramp,
        total=lengths.total,
    )


def build_optimizer(config: dict[str, Any]) -> Callable[[Any], torch.optim.Optimizer]:
    """What makes the optimiser of parameters: torch's fused one where it has one, a single pass over the weights."""
    partial = instantiate(config["optimizer"], "optimizer")
    # Lightning takes fused optimisers for ones that unscale gradients, and does not clip what they are given in bf16.
    may_fuse = config["trainer"]["precision"] != "bf16-mixed" or config["trainer"]["gradient_clip_val"] is None

    def make(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        parameters = list(parameters)
        plain = call_partial(partial, "optimizer", parameters)
        if not may_fuse or not _fusable(plain, parameters):
            return plain
        try:
            fused = partial(parameters, fused=True)
        except RuntimeError:  # this device or kind of number has none
            return plain
        if fused.param_groups[0].get("momentum"):
            # torch makes them at the first step, and fails on a weight whose first gradient comes later. From 0 the
            # first step is the same.
            for parameter in parameters:
                fused.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return fused

    return make


def _fusable(plain: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> bool:
    """Whether torch's fused form is sure to do what this optimiser does."""
    group = plain.param_groups[0]
    ours = type(plain).__module__.startswith("torch.optim.")  # a user's class may have a constructor or step of its own
    asked = group.get("fused", False) is None and group.get("foreach") is None and not group.get("differentiable")
    # It goes through memory without a look at strides: of a slice of a larger tensor it would change the neighbours.
    dense = all(torch.empty_like(p, device="meta").stride() == p.stride() for p in parameters)
    return ours and asked and dense and not group.get("dampening")


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
