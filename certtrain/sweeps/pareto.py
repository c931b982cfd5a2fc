"""The Pareto front: which of many runs no other run beats in everything."""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(points: Sequence[Sequence[float]]) -> list[int]:
    """The indices of the points that no other point dominates, by descending first coordinate; larger is better.

    A point dominates another when it is at least as good in every coordinate and better in one. Of equal points all are
    kept.

    Args:
        points: (n, k) values.
    """
    front: list[int] = []
    # Whatever dominates a point comes before it in this order, and what dominates that one does so, too.
    for i in sorted(range(len(points)), key=lambda i: (*(-value for value in points[i]), i)):
        point = tuple(points[i])
        if not any(_dominates(points[other], point) for other in front):
            front.append(i)
    return front


def _dominates(one: Sequence[float], other: tuple[float, ...]) -> bool:
    return tuple(one) != other and all(a >= b for a, b in zip(one, other))
