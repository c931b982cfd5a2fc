"""`init=RUN` or `init=FILE`: a training that starts from given weights instead of fresh ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from certtrain.config.loading import checkpoint_path
from certtrain.importing.weights import fit_weights, read_weights
from certtrain.models.contract import InputContract
from certtrain.models.normalize import normalising_layer
from certtrain.runs.directory import find_run, sha256_file
from certtrain.training.checkpoints import contract_of, load_weights, read_checkpoint


def start_from(
    network: nn.Module, init: str, contract: InputContract, *, data: str, runs_dir: str | Path
) -> dict[str, Any]:
    """Load the weights of a file, or of the checkpoint that a run chose.

    Args:
        network: of the new training.
        init: a file that `certify checkpoint=FILE` would take, or a run: its directory or name.
        contract: of the data that is trained on.
        data: names them.
        runs_dir: where runs lie.

    Returns:
        What `result.json` and cards say of it: file or run, and the hash.

    Raises:
        UserError: no such run or file; weights of another model; a network of inputs of another shape, classes or
            normalisation; a checkpoint that is not the one the run recorded.
    """
    if Path(init).is_file():
        held, notes = fit_weights(network, read_weights(init), init)
        if held and normalising_layer(network) is not None:
            contract.check_network(network, this=data, that=init)
        return {"file": Path(init).name, "sha256": sha256_file(init), "notes": list(notes)}
    run = find_run(init, runs_dir)
    path = checkpoint_path(run, None)
    content = read_checkpoint(path)
    contract_of(content).check_same(contract, this=f"init={run.name}", that=data)
    load_weights(network, content, str(path))
    run.check_checkpoint(path)
    return {"run": run.name, "checkpoint": path.name, "sha256": sha256_file(path)}
