"""`method.teacher=RUN` or `method.teacher=FILE`: the frozen network that a training learns from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from certtrain.config.build import build_network
from certtrain.config.loading import load_run
from certtrain.config.received import targets_of
from certtrain.errors import UserError
from certtrain.methods.teacher import Teacher
from certtrain.models.contract import InputContract
from certtrain.runs.directory import sha256_file
from certtrain.sessions.initial import start_from
from certtrain.training.checkpoints import contract_of, read_checkpoint


class Teachers:
    """Loads the teacher that a training names, as data: nothing of it is executed.

    Args:
        config: of the training.
        contract: of the data that is trained on.
        data: names them.

    Attributes:
        told: what `result.json`, checkpoints and cards say of it, its hash above all; None until one was loaded.
    """

    def __init__(self, config: dict[str, Any], contract: InputContract, data: str) -> None:
        self.config, self.contract, self.data = config, contract, data
        self.told: dict[str, Any] | None = None

    def __call__(self, source: str) -> Teacher:
        """The network of a run, as the run chose its checkpoint, or weights of the model that is trained.

        Raises:
            UserError: no such run or file; weights of another model; a network of inputs of another shape, classes or
                normalisation; a checkpoint that is not the one the run recorded; a network of code that is not trusted.
        """
        this = f"method.teacher={source}"
        if Path(source).is_file():
            if (stated := _stated(source)) is not None:
                stated.check_same(self.contract, this=this, that=self.data)
            network = self.contract.classifier(build_network(self.config["model"], self.contract, seed=0))
            runs_dir = self.config["runs_dir"]
            self.told = start_from(network, source, self.contract, data=self.data, runs_dir=runs_dir)
            return Teacher(network)
        # What this training was asked to build, its teacher may be, too.
        loaded = load_run(source, None, self.config["runs_dir"], targets_of(self.config))
        loaded.contract.check_same(self.contract, this=this, that=self.data)
        path = loaded.checkpoint
        self.told = {"run": loaded.run.name, "checkpoint": path.name, "sha256": sha256_file(path)}
        return Teacher(loaded.network)

    def check(self, before: dict[str, Any] | None) -> None:
        """Refuse to resume a training with another teacher than it had.

        Args:
            before: what the checkpoint says of it.

        Raises:
            UserError: other weights.
        """
        was, now = ((told or {}).get("sha256") for told in (before, self.told))
        if was != now:
            raise UserError(
                f"the training had a teacher of sha256 {str(was)[:12]}, and this one is of {str(now)[:12]}",
                where="configuration key method.teacher",
                fix="the teacher as it was, or another name= for a new training",
            )


def _stated(source: str) -> InputContract | None:
    """The contract of a checkpoint that certtrain wrote; None for a file of another program."""
    try:
        content = read_checkpoint(source)
    except UserError:
        return None
    return contract_of(content)
