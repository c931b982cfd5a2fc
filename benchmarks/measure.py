"""Timing: contenders in turn, so that a machine that slows down slows all of them; medians and ranges.

With one thread on a CPU the clock is the process' own processor time, which other work on the machine disturbs least;
elsewhere it is wall time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Timing:
    """Seconds of the repetitions of one contender, in their order."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def to_dict(self) -> dict[str, Any]:
        """Median, range and all of them."""
        return {"median": self.median, "min": min(self.seconds), "max": max(self.seconds), "all": list(self.seconds)}


def interleaved(
    contenders: Mapping[str, Callable[[], object]], repetitions: int, *, device: torch.device, warmup: int = 1
) -> dict[str, Timing]:
    """Every contender once, then every one again, `repetitions` times after the warm-up.

    An accelerator is waited for before each reading of the clock.
    """
    now = clock(device)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for repetition in range(warmup + repetitions):
        for name, run in contenders.items():
            wait(device)
            start = now()
            run()
            wait(device)
            if repetition >= warmup:
                seconds[name].append(now() - start)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def ratios(timings: Mapping[str, Timing], over: str, under: str) -> dict[str, float]:
    """Median and range of `over / under` within each repetition, where both met the same machine."""
    found = [a / b for a, b in zip(timings[over].seconds, timings[under].seconds)]
    return {"median": statistics.median(found), "min": min(found), "max": max(found)}


def clock(device: torch.device) -> Callable[[], float]:
    """Processor time for one thread on a CPU, else wall time."""
    return time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
