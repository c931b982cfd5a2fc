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
    front = [
        i
        for i, point in enumerate(points)
        if not any(all(a >= b for a, b in zip(other, point)) and tuple(other) != tuple(point) for other in points)
    ]
    return sorted(front, key=lambda i: (*(-value for value in points[i]), i))
