"""How much memory there is, and how much of it a computation takes at most."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Of a machine's memory, which other processes want too and which kills where it ends; of an accelerator's own.
HOST_SHARE, ACCELERATOR_SHARE = 0.25, 0.7


def budget(device: torch.device, root: Path = Path("/")) -> int | None:
    """Bytes that a computation may take on the device now; None where that cannot be told.

    Args:
        device: where.
        root: of the file system that says what the host and this process' control groups have.
    """
    if device.type == "cpu":
        free = host_memory(root)
        return None if free is None else int(HOST_SHARE * free)
    info = getattr(getattr(torch, device.type, None), "mem_get_info", None)
    if info is None:
        return None
    free = info(device)[0] + torch.accelerator.memory_reserved(device) - torch.accelerator.memory_allocated(device)
    return int(ACCELERATOR_SHARE * free)


def host_memory(root: Path = Path("/")) -> int | None:
    """Bytes that are available to this process: the host's, or less where a control group sets a limit (Linux)."""
    lines = _lines(root / "proc/meminfo")
    free = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    if not free:
        return None
    top = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        number, kind, path = line.split(":", 2)
        if number == "0":
            names = ("memory.max", "memory.current", "inactive_file")
            group = top / path.strip("/")
        elif "memory" in kind.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            top, group = top / "memory", top / "memory" / path.strip("/")
        else:
            continue
        # A group is bound by those around it; in a container its path may not be visible, only its own top is.
        around = {top, group, *(outer for outer in group.parents if outer.is_relative_to(top))}
        free += [left for one in around if (left := _left(one, *names)) is not None]
    return max(0, min(free))


def _left(group: Path, limit: str, used: str, cache: str) -> int | None:
    """Up to the limit of one control group; files it has read give way."""
    numbers = [next(iter(_lines(group / name)), "max") for name in (limit, used)]
    if not all(number.isdigit() for number in numbers):
        return None
    files = [int(line.split()[1]) for line in _lines(group / "memory.stat") if line.split()[0] == cache]
    return int(numbers[0]) - int(numbers[1]) + sum(files)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().split("\n")[:-1]
    except OSError:
        return []


class Peak(TorchDispatchMode):
    """A context that counts the bytes of the tensors which operations make in it, while they live.

    Attributes:
        now: bytes of the tensors that were made inside and still live.
        most: the largest `now`. What a kernel itself allocates and frees is not in it: up to as much again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = {storage.data_ptr(): storage for storage in _storages(out)}
        for given in _storages((args, kwargs)):  # views, and what was written to in place
            made.pop(given.data_ptr(), None)
        for storage in made.values():
            size = storage.nbytes()
            self.now += size
            weakref.finalize(storage, self._freed, size).atexit = False
        self.most = max(self.most, self.now)
        return out

    def _freed(self, size: int) -> None:
        self.now -= size


def _storages(values: Any) -> Iterator[torch.UntypedStorage]:
    for leaf in tree_leaves(values):
        if isinstance(leaf, Tensor) and leaf.layout == torch.strided:
            yield leaf.untyped_storage()
