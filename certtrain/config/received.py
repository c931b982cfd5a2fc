"""A run directory may have been sent by a stranger: it is data, and builds nothing but known parts.

Names of code stand in a run's `config.yaml` as `_target_`, and Hydra would import and call any of them; what its
`overrides.yaml` says would go to Hydra as if it had been typed. So before a command builds what a run describes, each
name is looked up without calling it, and accepted only if the object itself, wherever it was found, is defined in a
package that may be built under its key, and is of the kind that the key asks for. Code of the user's own is trusted by
name, `trust=my_package`, each time: nothing in a run says whom to trust. What the user types is not looked at.
"""

from __future__ import annotations

import inspect
import re
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from certtrain.errors import UserError
from certtrain.system.signatures import resolve

Trust = Sequence[str]
NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


@dataclass(frozen=True)
class Kind:
    """What a key of the configuration builds.

    Attributes:
        words: for messages.
        packages: whose classes it may be without trust.
        base: the class that it derives from, or that a function is declared to return; None where there is none.
        method: what its class must have, where there is no base.
        functions: packages whose functions it may also be.
    """

    words: str
    packages: tuple[str, ...]
    base: str | None = None
    method: str | None = None
    functions: tuple[str, ...] = ()

    def is_of(self, found: Any) -> bool:
        """Whether a class, or what a function is declared to return, is of this kind."""
        made = found if inspect.isclass(found) else _returned(found)
        if not inspect.isclass(made):
            return False
        return issubclass(made, resolve(self.base)) if self.base else callable(getattr(made, str(self.method), None))


NETWORKS = ("certtrain.models", "torchvision.models")
ENGINE = Kind("a bound engine", ("certtrain.bounds",), method="bounds")
NETWORK = Kind("a network or layer", (*NETWORKS, "torch.nn"), "torch.nn.Module", functions=NETWORKS)
DATA = Kind("a data module", ("certtrain.data",), "certtrain.data.DataModule")
METHOD = Kind("a training method", ("certtrain.methods",), "certtrain.methods.Method")
PART = Kind("a part of a training method", ("certtrain.methods",), "certtrain.methods.base.Part")
SCHEDULE = Kind("a schedule", ("certtrain.schedules",), "certtrain.schedules.Timed")
OPTIMIZER = Kind("an optimiser", ("torch.optim",), "torch.optim.Optimizer")
CERTIFIER = Kind("a certifier", ("certtrain.certifiers",), "certtrain.certifiers.Certifier")
VERIFIER = Kind("a verifier", ("certtrain.certifiers",), "certtrain.certifiers.verifier.Verifier")
# Others of Lightning write where their arguments say, send to servers and call what they are given: trusted by name.
LOGGERS = ("certtrain.training.loggers.tensorboard_logger", "certtrain.training.loggers.wandb_logger")
LOGGER = Kind("a logger", LOGGERS, "certtrain.training.loggers.run_logger.RunLogger")
CALLBACKS = tuple(f"certtrain.training.callbacks.{name}" for name in ("early_stopping", "population", "averaging"))
CALLBACK = Kind("a callback", CALLBACKS, "lightning.pytorch.callbacks.Callback")
# By key of the configuration: what it builds, then what may stand among the arguments of that.
KINDS: dict[str, tuple[Kind, ...]] = {
    "data": (DATA,),
    "model": (NETWORK,),
    "method": (METHOD, NETWORK, PART, SCHEDULE),
    "schedule": (SCHEDULE,),
    "optimizer": (OPTIMIZER,),
    "bounds": (ENGINE,),
    "certifier": (CERTIFIER, ENGINE, VERIFIER),
    "logger": (LOGGER,),
    "callbacks": (CALLBACK,),
}
BY_NAME = ("certifier", "logger", "callbacks", "schedule")  # which hold several, each under a name of its own

OURS = ("certtrain", "torch", "torchvision.models", "numpy")  # nobody is told to trust these
WIDE = {*sys.stdlib_module_names, *(package.split(".")[0] for package in OURS), "lightning"}  # nor all of these


def check_received(config: Mapping[str, Any], keys: Sequence[str], trust: Trust, source: object) -> None:
    """Refuse what a run's configuration may not build. Nothing is called, and no module of others is imported.

    Args:
        config: of the run.
        keys: those of `KINDS` that are about to be built.
        trust: packages, or whole dotted names, that the user trusts.
        source: names the run in messages.

    Raises:
        UserError: with the key, what stands there, and `trust=` where that can help.
    """
    for section in keys:
        depth = 1 if section in BY_NAME else 0
        for path, node in nodes(config.get(section), section):
            where = f"{source}, key {path}"
            refuse_interpolations(node, where)
            if isinstance(node, Mapping) and "_target_" in node:
                inner = path.count(".") > depth
                kinds = KINDS[section] if inner else KINDS[section][:1]
                found = _accepted(node["_target_"], kinds, trust, f"{where}._target_", inner=inner)
                _refuse_downloads(found, node, where)


def check_resumed(config: Any) -> None:
    """Refuse what the overrides of a run that is resumed brought into a composed configuration: it was not typed.

    Before anything looks its targets up, be it only for the arguments that they take: that imports them.

    Raises:
        UserError: as `check_received`.
    """
    from certtrain.config.instantiate import plain

    if not config.get("resume"):
        return
    resolved = plain(config)
    check_received(resolved, tuple(KINDS), trusted(resolved["trust"]), f"resume={resolved['resume']}")


def trusted(given: object) -> tuple[str, ...]:
    """The packages that `trust=my_package` or `trust=[one,two.parts]` names.

    Raises:
        UserError: something that is not a name of a package.
    """
    names = [given] if isinstance(given, str) else given or ()
    if isinstance(names, Mapping) or not isinstance(names, Sequence):
        names = [names]
    for name in names:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise UserError(f"trust = {name!r} is not the name of a package", where="trust", fix="trust=my_package")
    return tuple(names)


def targets_of(config: Mapping[str, Any], keys: Sequence[str] = tuple(KINDS)) -> list[str]:
    """Every `_target_` of a configuration that the user composed: what its own run may build."""
    every = (node for key in keys for _, node in nodes(config.get(key), key))
    found = [node["_target_"] for node in every if isinstance(node, Mapping) and "_target_" in node]
    return sorted({target for target in found if isinstance(target, str)})


def trust_words(config: Mapping[str, Any]) -> list[str]:
    """What to add to a command that certifies the run: `trust=my_package`, `trust=torch.optim.SGD`, or nothing."""
    others = [
        target
        for key in ("data", "model")
        for target in targets_of(config, (key,))
        if not any(_within(target, package) for kind in KINDS[key] for package in kind.packages)
    ]
    # Of a package that many a harmful callable could be found in, only the very object.
    names = sorted({target if target.split(".")[0] in WIDE else target.split(".")[0] for target in others})
    if len(names) < 2:
        return [f"trust={name}" for name in names]
    return [f"trust=[{','.join(names)}]"]


def nodes(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """A value and all below it, each with its dotted key."""
    yield path, value
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield path, key
            yield from nodes(item, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for place, item in enumerate(value):
            yield from nodes(item, f"{path}.{place}")


def _accepted(target: Any, kinds: Sequence[Kind], trust: Trust, where: str, *, inner: bool) -> Any:
    """The object of a target, when it may be built; `inner`: as an argument, of which trusted code may have any."""
    if not isinstance(target, str) or not NAME.fullmatch(target):
        raise UserError(f"{target!r} is not a dotted name", where=where, fix="do not use this run")
    if target in trust:
        return _found(target, where)
    packages = [package for kind in kinds for package in kind.packages]
    allowed = [package for package in (*packages, *trust) if _within(target, package)]
    if not allowed:
        _refuse(target, kinds, where)
    found = _found(target, where)
    home = getattr(found, "__module__", None)
    if not isinstance(home, str) or not (inspect.isclass(found) or inspect.isfunction(found)):
        _refuse(target, kinds, where)
    if any(_within(home, package) for package in trust):
        silent = inspect.isfunction(found) and _returned(found) is None
        if inner or silent or any(kind.is_of(found) for kind in kinds):
            return found
        _refuse(target, kinds, where)
    for kind in kinds:
        places = kind.packages if inspect.isclass(found) else kind.functions
        if any(_within(home, package) for package in places) and kind.is_of(found):
            return found
    _refuse(target, kinds, where)


def _found(target: str, where: str) -> Any:
    try:
        return resolve(target)
    except Exception as error:  # a trusted module may fail in any way while it is imported
        raise UserError(
            f"{target} cannot be found: {error}", where=where, fix="PYTHONPATH=..., or another version of the package"
        ) from error


def _returned(function: Any) -> Any:
    """What a function is declared to return; None where it says nothing that can be read."""
    try:
        return typing.get_type_hints(function).get("return")
    except (NameError, TypeError, AttributeError):
        return None


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def _refuse(target: str, kinds: Sequence[Kind], where: str) -> NoReturn:
    words = " or ".join(kind.words for kind in kinds)
    root = target.rpartition(".")[0]
    fix = "nothing that certtrain builds is called so: do not use this run"
    package = root if root.startswith("torchvision.") else root.split(".")[0]
    if root and package not in {*sys.stdlib_module_names, *OURS}:
        trust = target if package in WIDE else package
        fix = f"if {trust} is code that you know and trust, and so is this run: trust={trust}"
    raise UserError(f"{target} is not {words} of certtrain or of torch: nothing is built", where=where, fix=fix)


def refuse_interpolations(node: Any, where: str) -> None:
    """Refuse a text of a run's configuration that OmegaConf would evaluate, as `${oc.env:TOKEN}`."""
    if isinstance(node, str) and "${" in node:
        raise UserError(
            f"{node!r} would be evaluated, and the configuration of a run is written without interpolations",
            where=where,
            fix="do not use this run, or write the value there",
        )


def _refuse_downloads(found: Any, node: Mapping[str, Any], where: str) -> None:
    """torchvision's functions fetch weights and unpickle them; a run's weights are in its checkpoint."""
    if not _within(str(getattr(found, "__module__", "")), "torchvision.models"):
        return
    asked = [key for key, value in node.items() if re.match("weights|pretrained", str(key)) and value]
    if asked or node.get("_args_"):
        raise UserError(
            f"{asked[0] if asked else '_args_'} = {node.get(asked[0] if asked else '_args_')!r}: weights would be "
            "fetched, and those of a run are in its checkpoint",
            where=where,
            fix="weights: null",
        )
