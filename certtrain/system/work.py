"""Between two units of a long computation: whoever waits for it hears how far it is, and may end it there.

`certify`, `falsify` and what they call know nothing of signals or bars. They call `pause` between units of work that
cannot be cut any further, such as a layer, a step of an attack or one forward pass, and `tell` where they know which
share of their work is done. Whoever runs them wraps the call in `watched`; without it both do nothing.

    with watched(stop=flag.raise_if_overdue, told=bar.often):
        certifier.certify(network, batch)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch


def _never() -> None:
    """Ends nothing."""


class _Watcher(NamedTuple):
    stop: Callable[[], None]
    told: Callable[[float, str], None]
    low: float = 0.0
    width: float = 1.0


_WATCHER: ContextVar[_Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watched(
    stop: Callable[[], None] | None = None, told: Callable[[float, str], None] = lambda share, doing: None
) -> Iterator[None]:
    """Within it, `stop` is called between units of work and may raise; `told` hears the share done and what is done.

    Args:
        stop: raises to end the work; None: as around. What it raises must not be an `Exception`, which work records as
            a failure of some examples and goes on.
        told: the share of the work within, in [0, 1], and a few words.
    """
    around = _WATCHER.get()
    if stop is None:
        stop = _never if around is None else around.stop
    token = _WATCHER.set(_Watcher(stop, told))
    try:
        yield
    finally:
        _WATCHER.reset(token)


@contextmanager
def part(low: float, high: float) -> Iterator[None]:
    """Within it, a share that is told is one of the part from `low` to `high` of the work around."""
    watcher = _WATCHER.get()
    if watcher is None:
        yield
        return
    width = watcher.width * (high - low)
    token = _WATCHER.set(watcher._replace(low=watcher.low + watcher.width * low, width=width))
    try:
        yield
    finally:
        _WATCHER.reset(token)


def pause() -> None:
    """Between two units of work: the work may be ended here."""
    if torch.compiler.is_compiling():
        return
    if (watcher := _WATCHER.get()) is not None:
        watcher.stop()


def tell(share: float, doing: str = "") -> None:
    """Between two units of work, of which a share is done.

    Args:
        share: in [0, 1].
        doing: what is done now, in a few words; empty: as before.
    """
    if torch.compiler.is_compiling():
        return
    if (watcher := _WATCHER.get()) is not None:
        watcher.stop()
        watcher.told(watcher.low + watcher.width * share, doing)
