"""Reading checkpoints: weights only, with the contract of the network's input, refused when they do not fit."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from torch import Tensor, nn

from certtrain.errors import UserError
from certtrain.models.contract import InputContract

PREFIX = "network."


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint that certtrain wrote, on the CPU. Nothing in it is executed.

    Raises:
        UserError: no such file, not a readable checkpoint, or one of another program.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"there is no checkpoint {path}", where="the run directory", fix="train first, or name another run"
        )
    try:
        with ZipFile(path) as archive:  # torch writes a checksum of each tensor, and reads without a look at it
            if (damaged := archive.testzip()) is not None:
                raise BadZipFile(f"{damaged} does not have its checksum")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, KeyError, ValueError, OSError, pickle.UnpicklingError, BadZipFile) as error:
        raise UserError(
            f"the checkpoint {path} is corrupt or not a checkpoint: {unreadable_reason(error)}",
            where=str(path),
            fix="use another checkpoint of the run (checkpoint=last or best), or train again",
        ) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint or "certtrain" not in checkpoint:
        raise UserError(f"{path} is not a checkpoint of certtrain", where=str(path), fix="name a run of certtrain")
    return checkpoint


def unreadable_reason(error: Exception) -> str:
    """Why `torch.load(weights_only=True)` refused a file, in one short clause instead of torch's own page."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    if found := re.search(r"(?:GLOBAL|class|global) ([\w.]+) was not an allowed", text):
        return f"it holds a {found[1]}, an object that would have to be executed"
    if isinstance(error, pickle.UnpicklingError):
        return "it is not a file of tensors"
    if "TorchScript" in text:
        return "it is a TorchScript archive"
    if isinstance(error, EOFError):
        return "it is empty or cut off"
    return re.split(r"(?<=[.!?])\s", text.strip(), maxsplit=1)[0].rstrip(".") or type(error).__name__


def network_state(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The network's own state_dict."""
    state = checkpoint["state_dict"]
    return {key.removeprefix(PREFIX): value for key, value in state.items() if key.startswith(PREFIX)}


def contract_of(checkpoint: dict[str, Any]) -> InputContract:
    """What the network was told about its inputs when it was trained.

    Raises:
        UserError: it does not say so, or not in the form that this program writes.
    """
    try:
        stated = checkpoint["certtrain"]["contract"]
    except (KeyError, TypeError) as error:
        raise UserError(
            "the checkpoint holds no input contract", where="checkpoint", fix="a checkpoint that this program wrote"
        ) from error
    return InputContract.from_dict(stated)


def load_weights(network: nn.Module, checkpoint: dict[str, Any], source: str) -> nn.Module:
    """Put the checkpoint's weights into a network of the same shape.

    Raises:
        UserError: names or shapes differ, with the first few that do.
    """
    own, saved = network.state_dict(), network_state(checkpoint)
    problems = [f"{key} is missing in the checkpoint" for key in own if key not in saved]
    problems += [f"{key} is unknown to the model" for key in saved if key not in own]
    problems += [
        f"{key} is {tuple(own[key].shape)} in the model and {tuple(saved[key].shape)} in the checkpoint"
        for key in own
        if key in saved and own[key].shape != saved[key].shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(
            f"the checkpoint is of another model: {'; '.join(problems[:3])}{more}",
            where=source,
            fix="use the model and data that the run was trained with",
        )
    network.load_state_dict(saved)
    return network
