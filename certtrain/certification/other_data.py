"""Data beside a run's own that its network is certified on, such as corrupted test images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from certtrain.config.build import build_data
from certtrain.config.loading import LoadedRun
from certtrain.data import DataModule
from certtrain.errors import UserError
from certtrain.system.files import check_name
from certtrain.system.signatures import resolve


def other_data(loaded: LoadedRun, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The configuration of the data that `data=` names beside a run; None where the run's own are certified.

    What it leaves null of the normalisation and of the data that are to be changed comes from the run.

    Args:
        loaded: the network and its run.
        config: of the certify command.
    """
    node = config.get("data")
    if node is None:
        return None
    run = {"mean": list(loaded.contract.mean), "std": list(loaded.contract.std), "base": _own_data(loaded, config)}
    return {**node, **{key: value for key, value in run.items() if key in node and node[key] is None}}


def data_to_certify(loaded: LoadedRun, config: Mapping[str, Any]) -> DataModule:
    """The run's own data, or those that `data=` names beside it, set up.

    Args:
        loaded: the network and its run.
        config: of the certify command.

    Raises:
        UserError: data that cannot be built, or that bear the name of the run's own.
    """
    own, other = _own_data(loaded, config), other_data(loaded, config)
    data = build_data({**loaded.config, "data": own if other is None else other})
    if other is not None and check_name(data.name, "data") == _name_of(own):
        raise UserError(
            f"the run {loaded.run.name} has data named {data.name}, too: its certificates could not be told apart",
            where="configuration key data",
            fix="leave data= out to certify the run's own test set; data.name=... for other data, where it has a name",
        )
    return data


def without_places(node: Any) -> Any:
    """A configuration of data without the folders that they lie in, which are of one machine."""
    if not isinstance(node, Mapping):
        return node
    return {key: without_places(value) for key, value in node.items() if key not in ("data_dir", "root")}


def _own_data(loaded: LoadedRun, config: Mapping[str, Any]) -> dict[str, Any]:
    return {**loaded.config["data"], "data_dir": config["data_dir"]}


def _name_of(node: Mapping[str, Any]) -> str | None:
    """What a configuration says of the name of its data; None where they name themselves when they are read."""
    return node.get("name") or getattr(resolve(node["_target_"]), "name", None)
