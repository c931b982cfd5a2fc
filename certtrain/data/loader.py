"""Batches from tensors that already lie on the training device: no worker processes, no copies, resumable."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from certtrain.data.augment import Augment
from certtrain.data.batch import Batch
from certtrain.data.split import Split
from certtrain.errors import UserError
from certtrain.randomness import permutation


class TensorLoader:
    """Shuffled training batches, a pure function of (seed, epoch, position).

    Epoch e visits the split in the order `permutation(seed, e, n)`; augmentation is keyed by (seed, epoch, index).
    Several processes share each batch: rank r takes its examples r, r + world_size, ... Batches are therefore the same
    on any number of processes, none is padded, and shares differ by one example at most.

    The loader counts for itself where it is: an epoch left halfway goes on where it was left, one that ended is
    followed by the next. `state_dict` tells which batch comes next, so that a fit loop that saves and loads it resumes
    in mid-epoch.

    Args:
        split: the examples; moved to `device` once, here.
        batch_size: examples per batch, on all processes together.
        seed: the run's seed.
        augment: applied to each batch on the device.
        drop_last: leave out a last batch that is smaller.
        device: where the batches are wanted.
        rank: number of this process.
        world_size: number of processes.

    Raises:
        UserError: not even one batch, or one with fewer examples than processes.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        *,
        seed: int = 0,
        augment: Augment | None = None,
        drop_last: bool = False,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.split = split.to(device)
        self.batch_size, self.seed, self.augment = batch_size, seed, augment
        self.rank, self.world_size = rank, world_size
        self.batches = batch_count(len(split), batch_size, drop_last)
        if self.batches == 0:
            raise UserError(
                f"{len(split)} training examples do not fill one batch of {batch_size}",
                where="data.batch_size",
                fix="a smaller data.batch_size, or data.drop_last=false",
            )
        self.smallest = smallest = batch_size if drop_last else len(split) - (self.batches - 1) * batch_size
        if smallest < world_size:
            raise UserError(
                f"{world_size} processes cannot share a batch of {smallest} training example(s)"
                + ("" if smallest == batch_size else f", the last of an epoch of {len(split)}"),
                where="data.batch_size",
                fix="data.drop_last=true, another data.batch_size, or fewer trainer.devices",
            )
        self._end = self.batches
        self.epoch = self.position = 0
        self._begun: int | None = None  # the epoch whose order and images these are
        self._order, self._images = torch.empty(0), self.split.x.__getitem__

    def __len__(self) -> int:
        """Batches in one epoch, wherever the loader stands."""
        return self.batches

    def __iter__(self) -> Iterator[Batch]:
        # Only a finished epoch gives way to the next one: fit loops ask more than once before they take a batch, and
        # Lightning, resumed at an epoch's end with validation within epochs, asks anew after one batch.
        if self.position >= self._end:
            self.set_epoch(self.epoch + 1)
        return self

    def __next__(self) -> Batch:
        if self.position >= self._end:
            raise StopIteration
        batch = self.batch(self.position)
        self.position += 1
        return batch

    def batch(self, position: int) -> Batch:
        """The batch at a position of the epoch."""
        start = position * self.batch_size
        self._begin()
        index = self._order[start : start + self.batch_size][self.rank :: self.world_size]
        return Batch(self._images(index), self.split.y[index], index)

    def one(self) -> Tensor:
        """(1, ...) an input."""
        return self.split.x[torch.arange(1, device=self.split.y.device)]

    def refuse_classes_beyond(self, classes: int) -> None:
        """Refuse labels for which a network of so many logits has none.

        Raises:
            UserError: there is one.
        """
        refuse_classes_beyond(self.split.y, classes)

    def again(self) -> TensorLoader:
        """A loader at the start of the epoch that this one is in, which stays where it is."""
        other = copy.copy(self)
        other.position = 0
        return other

    def limit(self, batches: int) -> None:
        """End each epoch after so many batches at most; `len` stays that of the whole epoch."""
        self._end = min(self.batches, max(batches, 1))

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch."""
        self.epoch, self.position = epoch, 0

    def state_dict(self) -> dict[str, int]:
        """The place of the next batch and what it depends on; after an epoch's last batch the next epoch's start."""
        ended = self.position >= self._end
        return {"epoch": self.epoch + ended, "position": 0 if ended else self.position, **self._recipe()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to a saved place.

        Raises:
            UserError: a place in mid-epoch under another seed, batch size or split, where examples would be seen twice
                or never.
        """
        here = self._recipe()
        saved = {name: state[name] for name in here}
        if state["position"] and here != saved:
            changed = [f"{name} {saved[name]} -> {here[name]}" for name in here if here[name] != saved[name]]
            raise UserError(
                f"the checkpoint stands in mid-epoch, but the data changed: {', '.join(changed)}",
                where="data (resume)",
                fix="resume with the saved values, or from a checkpoint of an epoch's end",
            )
        self.set_epoch(state["epoch"])
        self.position = state["position"]

    def _recipe(self) -> dict[str, int]:
        return {"seed": self.seed, "batch_size": self.batch_size, "examples": len(self.split)}

    def _begin(self) -> None:
        """What an epoch needs once."""
        if self._begun == self.epoch:
            return
        self._order = permutation(self.seed, self.epoch, len(self.split)).to(self.split.y.device)
        if self.augment:
            self._images = self.augment.of_epoch(self.split.x, self.seed, self.epoch)
        self._begun = self.epoch


class SequentialLoader:
    """Every example once, in order, for evaluation.

    On several devices rank r takes the examples r, r + world_size, ...: nothing is padded, the shares differ by at
    most one example.

    Args:
        split: the examples; moved to `device` once, here.
        batch_size: examples per batch and device.
        device: where the batches are wanted.
        rank: number of this process.
        world_size: number of processes.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        *,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.split, self.batch_size = split.to(device), batch_size
        self.index = torch.arange(len(split), device=self.split.y.device)[rank::world_size]

    def __len__(self) -> int:
        return batch_count(len(self.index), self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for index in self.index.split(self.batch_size) if len(self.index) else ():
            yield Batch(self.split.x[index], self.split.y[index], index)


def refuse_classes_beyond(y: Tensor, classes: int) -> None:
    """Refuse labels for which a network of so many logits has none.

    Raises:
        UserError: there is one.
    """
    if len(y) and int(y.max()) >= classes:
        raise UserError(
            f"there is a label {int(y.max())}, and the network has {classes} logits, for classes 0 to {classes - 1}",
            where="data",
            fix="a network with a logit for each class, or classes numbered from 0",
        )


def batch_count(n: int, batch_size: int, drop_last: bool = False) -> int:
    """Batches of n examples."""
    return n // batch_size if drop_last else -(-n // batch_size)
