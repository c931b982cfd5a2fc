"""Engines that answer from a random table: what a cascade and a grid of bounds say is checked cell by cell.

The table holds for each example, radius, bound and precision a true verdict, among them NaN, infinities and ties; on
the way engines crash, run out of memory and see examples in other orders and pieces. A verified cell must have a
float64 proof at its radius or a larger one that was really computed, and everything that was proved must be reported.
"""

import random
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from certtrain.attacks import Attack, inside
from certtrain.bounds import Bounds
from certtrain.certifiers import BoundCertifier, CascadeCertifier, cascade
from certtrain.data import Batch
from certtrain.radii import radius_text

METHODS = ("ibp", "crown_ibp", "crown", "alpha_crown")
RADII = [Fraction(text) for text in ("1/255", "2/255", "8/255", "0.1", "1/7", "0.3")]
SIZE = 64


class Numbered(nn.Module):
    """Random logits, or NaN, of the example whose number the first input carries, over 64."""

    def __init__(self, n, classes, broken):
        super().__init__()
        table = torch.randn(n, classes, generator=torch.Generator().manual_seed(n)) * 3
        table[broken] = torch.nan
        self.register_buffer("table", table)

    def forward(self, x):
        return self.table[numbers(x)].to(x.dtype)


def numbers(x):
    return (x[:, 0].double() * SIZE).round().long()


class Table:
    """The truth about one random configuration."""

    def __init__(self, seed):
        self.seed, draw = seed, random.Random(seed)
        self.draw, self.n, self.classes = draw, draw.randint(1, 12), draw.choice([2, 3, 5])
        self.methods = draw.sample(METHODS, draw.randint(1, 4))
        self.radii = sorted(draw.sample(RADII, draw.randint(1, 5)))
        self.chance = {
            "proved": draw.random(),
            "broken": draw.choice([0, 0.2]),
            "crash": draw.choice([0, 0.2]),
            "memory": draw.choice([0, 0.3]),
            "hit": draw.choice([0, 0.3]),
        }
        broken = [i for i in range(self.n) if draw.random() < 0.1]
        self.network = Numbered(self.n, self.classes, broken)
        y = self.network.table.argmax(1)
        wrong = torch.tensor([draw.random() < 0.15 for _ in range(self.n)])
        y = torch.where(wrong, (y + 1) % self.classes, y)
        self.correct = [i not in broken and not wrong[i] for i in range(self.n)]
        order = torch.tensor(draw.sample(range(self.n), self.n))
        self.batch = Batch((order / SIZE)[:, None].repeat(1, 2), y[order], order + 100)
        self.seen = set()

    def happens(self, what, *key):
        return random.Random(f"{self.seed} {what} {key}").random() < self.chance[what]

    def cell(self, dtype, method, example, eps):
        """The bounds of one example's margins."""
        key = (str(dtype), method, example, eps)
        draw = random.Random(f"{self.seed} {key}")
        values = [draw.uniform(0.01, 2) for _ in range(self.classes - 1)]
        if not self.happens("proved", *key):
            values[draw.randrange(len(values))] = draw.choice([-1.0, 0.0, -1e-9])
        if self.happens("broken", *key):
            values[draw.randrange(len(values))] = draw.choice([float("nan"), float("inf"), -float("inf")])
        return values

    def proves(self, dtype, method, example, eps):
        return all(np.isfinite(value) and value > 0 for value in self.cell(dtype, method, example, eps))

    def engine(self, network):
        return Engine(self, network)

    def attack(self, x, eps):
        """Margins of an attack that is no attack: hits are random, also beside proofs."""
        found = [-1.0 if self.happens("hit", i, eps) else 1.0 for i in numbers(x).tolist()]
        return Attack(torch.tensor(found, dtype=torch.float64), x)

    def proofs(self, dtype, example):
        """Columns with a proof that was computed."""
        return [
            column
            for column, eps in enumerate(self.radii)
            for method in self.methods
            if (dtype, method, example, eps) in self.seen and self.proves(dtype, method, example, eps)
        ]


class Engine:
    """Answers from the table."""

    name, version, methods = "table", "0", METHODS

    def __init__(self, table, network):
        self.table, self.network = table, network

    def bounds(self, x, y, threat, methods):
        table, dtype, rows = self.table, x.dtype, numbers(x).tolist()
        assert threat.outward or dtype == torch.float32
        eps = threat.eps.flatten().tolist() if isinstance(threat.eps, torch.Tensor) else [threat.eps] * len(rows)
        for what, error in (("memory", torch.OutOfMemoryError), ("crash", ArithmeticError)):
            if (what == "crash" or len(rows) > 1) and table.happens(what, methods, rows, eps, dtype):
                raise error(what)
        table.seen |= {(dtype, m, i, e) for m in methods for i, e in zip(rows, eps, strict=True)}
        margins = {m: [table.cell(dtype, m, i, e) for i, e in zip(rows, eps)] for m in methods}
        return Bounds(self.network(x), {m: torch.tensor(v, dtype=dtype) for m, v in margins.items()}, ())


def rows_of(table, found):
    """(example, its statuses, its place) of the correct rows; the others are checked here."""
    assert found.index.tolist() == table.batch.index.tolist()
    for row, example in enumerate((found.index - 100).tolist()):
        status = [found.columns[f"status@{radius_text(radius)}"][row] for radius in table.radii]
        assert found.correct[row] == table.correct[example]
        if table.correct[example]:
            yield example, status, row
        else:
            assert set(status) == {"misclassified"}
            assert found.radius[row] == 0


def check_proofs(table, found, dtype, example, status, row):
    """Verified at and below the largest computed proof, nowhere else; returns its column, -1 for none."""
    top = max(table.proofs(dtype, example), default=-1)
    assert [said == "verified" for said in status] == [column <= top for column in range(len(status))]
    assert found.radius[row] == (float(table.radii[top]) if top >= 0 else 0)
    if top >= 0:
        method = found.columns["decided_by"][row]
        cell = table.cell(dtype, method, example, table.radii[top])
        assert table.proves(dtype, method, example, table.radii[top])
        assert found.columns["margin"][row] == pytest.approx(min(cell), rel=1e-6)
    return top


@pytest.mark.parametrize("block", range(4))
def test_every_status_of_a_cascade_follows_from_the_table(block, monkeypatch):
    for seed in range(50 * block, 50 * block + 50):
        table = Table(seed)
        draw, radii = table.draw, table.radii
        monkeypatch.setattr(
            cascade, "strongest", lambda names, net, x, y, threat, t=table, **_: t.attack(x, threat.eps)
        )
        bisect = {"bisect": "0.01", "bisect_up_to": draw.choice([None, "0.5"])} if draw.random() < 0.4 else {}
        screen, steps, size = draw.random() < 0.5, draw.choice([0, 3]), draw.choice([1, 2, 3, 100])
        certifier = CascadeCertifier(
            table.methods, radii, table.engine, attack_steps=steps, screen=screen, batch_size=size, **bisect
        )
        certifier.check_network(table.network, table.batch)
        table.seen.clear()  # of that look at one example nothing is kept
        found = certifier.certify(table.network, table.batch)
        for example, status, row in rows_of(table, found):
            top = check_proofs(table, found, torch.float64, example, status, row)
            fallen = [steps > 0 and table.happens("hit", example, inside(radius)) for radius in radii]
            for column, said in enumerate(status):
                computed = [m for m in table.methods if (torch.float64, m, example, radii[column]) in table.seen]
                if said == "falsified":
                    assert any(fallen[: column + 1])
                elif said == "invalid":
                    assert any(
                        not np.isfinite(table.cell(torch.float64, m, example, radii[column])).all() for m in computed
                    )
                elif said == "error":
                    assert table.chance["crash"]
                    assert found.columns["reason"][row]
                elif said == "unknown":
                    assert screen or computed == table.methods
            if bisect:
                largest = found.columns["largest_eps"][row]
                end = float([*radii, Fraction(bisect["bisect_up_to"] or radii[-1])][top + 1])
                here = [key for key in table.seen if (key[0], key[2]) == (torch.float64, example)]
                proofs = [key[3] for key in here if table.proves(*key)]
                assert found.radius[row] <= largest <= end
                assert largest == found.radius[row] or any(largest <= e for e in proofs)


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_every_status_of_a_grid_of_bounds_follows_from_the_table(precision, monkeypatch):
    for seed in range(100):
        table = Table(seed)
        size, steps = table.draw.choice([1, 2, 3, 100]), table.draw.choice([0, 3])
        monkeypatch.setattr(
            cascade, "strongest", lambda names, net, x, y, threat, t=table, **_: t.attack(x, threat.eps)
        )
        certifier = BoundCertifier(
            table.methods, table.radii, table.engine, precision=precision, attack_steps=steps, batch_size=size
        )
        certifier.check_network(table.network, table.batch)
        table.seen.clear()
        found = certifier.certify(table.network, table.batch)
        for example, status, row in rows_of(table, found):
            top = check_proofs(table, found, certifier.dtype, example, status, row)
            for column, said in enumerate(status[top + 1 :], start=top + 1):
                assert said in (
                    ("unknown", "invalid", "error", "falsified") if steps else ("unknown", "invalid", "error")
                )
                if said == "unknown":
                    assert any((certifier.dtype, m, example, table.radii[column]) in table.seen for m in table.methods)
