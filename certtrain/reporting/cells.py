"""What is published for one data set, threat model and radius: the cells in which methods are compared."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from certtrain.reporting.published import Paper, Published


class Cell(NamedTuple):
    """Figures of one cell may stand beside each other: the same images, perturbed by the same set."""

    data: str
    """Letters and digits of the data set's name: `cifar10` of `CIFAR-10`."""
    norm: str
    eps: str

    @classmethod
    def of(cls, data: str, norm: str, eps: str) -> Cell:
        """The cell, whatever way the data set's name is written."""
        return cls(re.sub("[^a-z0-9]", "", data.lower()), norm, eps)


@dataclass(frozen=True)
class Figure:
    """Natural and certified accuracy of a method at the radius of a cell, as published."""

    method: str
    paper: str
    benchmark: str | None
    """See `Paper`."""
    published: Published
    certified: float

    @property
    def clean(self) -> float | None:
        """Natural accuracy, None where it is not known."""
        return self.published.clean

    @property
    def recalled(self) -> bool:
        """Whether one of the two is from memory."""
        return self.published.is_recalled("certified") or (
            self.clean is not None and self.published.is_recalled("clean")
        )


def figures_of(papers: Iterable[Paper]) -> dict[Cell, list[Figure]]:
    """By cell, in the order of the papers' files. A network may be certified at radii that it was not trained for."""
    found: dict[Cell, list[Figure]] = {}
    for paper in papers:
        listed = [(row.data, row.norm, row.method or row.name, row.published) for row in paper.rows.values() if row.eps]
        listed += [(point.data, point.norm, point.method, point.published) for point in paper.points]
        for data, norm, method, published in listed:
            for radius, certified in (published.certified if published else {}).items():
                figure = Figure(method, paper.name, paper.benchmark, published, certified)
                found.setdefault(Cell.of(data, norm, radius), []).append(figure)
    return found
