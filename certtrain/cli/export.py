"""`certtrain export run=runs/NAME`: the network as ONNX and its claims as VNN-LIB, for other verifiers to check."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from certtrain.cli import certify
from certtrain.config.checks import check_scales, check_units, resolve_radii
from certtrain.config.kinds import fixed_norm, of_nodes
from certtrain.config.received import trusted
from certtrain.errors import UserError

if TYPE_CHECKING:
    from certtrain.config.loading import LoadedRun
    from certtrain.export import Export

INHERITED = ("radii", "norm", "scales", "data_dir")


def prepare(arguments: list[str]) -> list[str]:
    """The run's own radii and norm, put before what the user asked for.

    Raises:
        UserError: the run does not exist.
    """
    prepared = certify.prepare(arguments, "export", INHERITED)
    return [a for a in prepared if a in arguments or not a.startswith("certifier=")]


def run(config: Any) -> int:
    """Write the folder, say what is in it."""
    from certtrain.config.instantiate import plain

    resolved = plain(config)
    from certtrain.config.loading import load_run
    from certtrain.export import write_export
    from certtrain.reporting import terminal

    loaded = load_run(resolved["run"], resolved["checkpoint"], resolved["runs_dir"], trusted(resolved["trust"]))
    if resolved["vnnlib"]:
        _refuse_what_no_box_says(loaded.config, resolved["norm"])
        check_units(resolved)
        check_scales(resolved)
    folder = Path(resolved["output"] or loaded.run.path / "export")
    found = write_export(folder, build_export(loaded, resolved))
    console = terminal.console()
    if loaded.note:
        terminal.print_line(console, f"not checked: {loaded.note}")
    names = [found["network"]["file"], *(["instances.csv"] if found["properties"] else []), "properties.json"]
    count = f"{len(found['properties'])} properties, " if found["properties"] else ""
    terminal.print_line(console, f"{count}{', '.join(names)} in {folder}")
    return 0


def build_export(loaded: LoadedRun, resolved: dict[str, Any]) -> Export:
    """The run's network with the chosen examples, radii and what its logs say.

    Raises:
        UserError: the data does not fit the network, an unknown split or rule, radii or a timeout that make no sense.
    """
    import torch

    from certtrain.certification.stage import chosen_examples
    from certtrain.config.build import build_data, build_scales
    from certtrain.data.hashing import inputs_sha256
    from certtrain.export import Claims, Export, read_claims
    from certtrain.models.contract import InputContract
    from certtrain.models.invariance import check_function
    from certtrain.runs.directory import sha256_file

    sha256, split_name, timeout = sha256_file(loaded.checkpoint), resolved["split"], resolved["timeout"]
    about = {"run": loaded.run.name, "checkpoint": loaded.checkpoint.name, "checkpoint_sha256": sha256}
    contract, index, scales = loaded.contract, torch.zeros(0, dtype=torch.int64), None
    x, y, claims = torch.zeros(0, *contract.shape), index, Claims(())
    check_function(loaded.network, torch.linspace(0, 1, 2 * math.prod(contract.shape)).reshape(2, *contract.shape))
    if resolved["vnnlib"]:
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < float("inf"):
            raise UserError(f"timeout = {timeout!r}", where="configuration key timeout", fix="seconds, such as 300")
        data = build_data({**loaded.config, "data": {**loaded.config["data"], "data_dir": resolved["data_dir"]}})
        contract.check_same(InputContract.of(data), that=f"data={data.name}")
        examples = chosen_examples(data, resolved)
        index = examples.indices
        x, y = examples.x[index], examples.y[index]
        contract.check(x, y)
        about |= {"dataset": data.name, "split": split_name, "indices": str(resolved["indices"])}
        folder = loaded.run.certificates
        scales = build_scales(resolved, contract if contract.features else InputContract.of(data), f"data={data.name}")
        claims = read_claims(
            folder,
            checkpoint_sha256=sha256,
            dataset=data.name,
            split=split_name,
            scales=scales,
            hash_of=lambda rows: inputs_sha256(examples.x, examples.y, torch.from_numpy(rows)),
        )
    return Export(
        network=loaded.network,
        name=loaded.run.name,
        x=x,
        y=y,
        index=index,
        radii=resolve_radii(resolved),
        num_classes=contract.num_classes,
        shape=contract.shape,
        claims=claims,
        timeout=timeout,
        about=about,
        scales=scales,
    )


def _refuse_what_no_box_says(trained: dict[str, Any], norm: str) -> None:
    only = fixed_norm(of_nodes(trained.get("certifier"), ours=True))
    if norm == "linf" and only in (None, "linf"):
        return
    what = f"norm={norm}: a VNN-LIB property is a box of inputs, and an l2 ball is none"
    if norm == "linf":
        what = f"this run's certificates are about {only} balls; VNN-LIB states boxes of inputs, and one network"
    raise UserError(
        what, where="configuration key norm", fix="vnnlib=false exports the network alone; bounds in norm=linf export"
    )
