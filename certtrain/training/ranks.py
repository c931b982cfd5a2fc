"""One process's place in a distributed training, and the process group that it joins."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel

from certtrain.errors import UserError
from certtrain.system import collective

# What one process waits for the others at most: a validation on all of them takes as long as its slowest share.
PATIENCE = timedelta(minutes=30)


@dataclass(frozen=True)
class Rank:
    """The `number`-th of `of` processes, and the `local`-th of `local_of` on this machine, all from 0.

    `address` and `port` are those of the store through which the processes find each other.
    """

    number: int
    of: int
    local: int
    local_of: int
    address: str
    port: int

    @classmethod
    def from_environment(cls, variables: Mapping[str, str] = os.environ) -> Rank:
        """The place that torch's launcher gave this process."""
        keys = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        return cls(*(int(variables[key]) for key in keys), variables["MASTER_ADDR"], int(variables["MASTER_PORT"]))

    def strategy(self) -> DDPStrategy:
        """Lightning's DDP for a process whose siblings run already.

        Buffers are not broadcast: all statistics are those of the whole batch, and so the same everywhere.
        """
        known = inspect.signature(DistributedDataParallel).parameters
        option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        return DDPStrategy(cluster_environment=_Cluster(self), **{option: False})


@contextlib.contextmanager
def joined(place: Rank, device: str) -> Iterator[None]:
    """Within it, this process belongs to the group, and `certtrain.system.collective` spans all of it.

    Args:
        place: of this process.
        device: `cuda` or `cpu`, which decides by what the processes talk (NCCL, gloo).

    Raises:
        UserError: the others do not come, or an accelerator is missing.
    """
    backend = "gloo"
    if device == "cuda":
        torch.cuda.set_device(place.local)
        backend = "cpu:gloo,cuda:nccl"
    try:
        store = store_of(place)  # before the group, of which nothing may be left when this fails
        dist.init_process_group(backend, store=store, rank=place.number, world_size=place.of, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"process {place.number + 1} of {place.of} cannot join the others: {str(error).splitlines()[0]}",
            where="trainer.devices",
            fix="start as many processes as say so, all at once, with an address that all machines reach",
        ) from error
    try:
        with collective.together():
            yield
    finally:
        dist.destroy_process_group()


def store_of(place: Rank) -> dist.Store:
    """Through which the processes find each other: the launcher's own, or one that rank 0 makes at its address."""
    store, _, _ = next(dist.rendezvous("env://", place.number, place.of, timeout=PATIENCE))
    return store


class _Cluster(ClusterEnvironment):
    """Tells Lightning the place; it neither starts processes nor connects them."""

    def __init__(self, place: Rank) -> None:
        self.place = place

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return self.place.address

    @property
    def main_port(self) -> int:
        return self.place.port

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self.place.of

    def set_world_size(self, size: int) -> None:
        if size != self.place.of:
            raise ValueError(f"{size} processes, where {self.place.of} were started")

    def global_rank(self) -> int:
        return self.place.number

    def set_global_rank(self, rank: int) -> None:
        if rank != self.place.number:
            raise ValueError(f"process {self.place.number} would be number {rank}")

    def local_rank(self) -> int:
        return self.place.local

    def node_rank(self) -> int:
        return self.place.number // self.place.local_of
