"""The standing check finds the bugs that bound propagation is known for, and nothing in bounds that are right."""

import dataclasses
from fractions import Fraction

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from certtrain.bounds import NativeEngine
from certtrain.certifiers import CascadeCertifier
from certtrain.data import Batch


class SmallerRadius(NativeEngine):
    """Bounds of half the radius: a certificate of a smaller ball reused for a larger one."""

    def bounds(self, x, y, threat, methods=("ibp",)):
        return super().bounds(x, y, threat.at(threat.eps / 2), methods)


class NoBox(NativeEngine):
    """Bounds of the input alone: the perturbation is lost on the way."""

    def bounds(self, x, y, threat, methods=("ibp",)):
        return super().bounds(x, y, threat.at(Fraction(0)), methods)


class OneClass(NativeEngine):
    """The margin against the first other class only."""

    def bounds(self, x, y, threat, methods=("ibp",)):
        found = super().bounds(x, y, threat, methods)
        first = {method: margins[:, :1].expand_as(margins) for method, margins in found.margins.items()}
        return dataclasses.replace(found, margins=first)


class MeanOfBounds(NativeEngine):
    """The middle between a lower bound and the clean margin: what a wrong sign in a bias or a slope looks like."""

    def bounds(self, x, y, threat, methods=("ibp",)):
        found, clean = super().bounds(x, y, threat, methods), super().bounds(x, y, threat.at(Fraction(0)), ("ibp",))
        middle = {method: (margins + clean.margins["ibp"]) / 2 for method, margins in found.margins.items()}
        return dataclasses.replace(found, margins=middle)


@pytest.fixture(scope="module")
def digits():
    """A small network trained without any defence, and 120 of its test images."""
    data = load_digits()
    x, y = torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(net.parameters(), 0.01, weight_decay=1e-3)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x[:1200]), y[:1200]).backward()
        optimizer.step()
    return net, Batch(x[1200:1320], y[1200:1320], torch.arange(120))


def checked(engine, digits, norm):
    net, data = digits
    grid = {"linf": [f"{k}/200" for k in range(1, 31)], "l2": [f"{k}/40" for k in range(1, 41)]}[norm]
    cascade = CascadeCertifier(["ibp", "crown"], grid, engine, norm=norm, attacks=[])
    found = cascade.certify(net, data)
    return cascade.falsify(net, data, found, steps=50)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("engine", [SmallerRadius, NoBox, OneClass, MeanOfBounds])
def test_a_known_bug_is_caught(digits, engine, norm):
    outcome = checked(engine, digits, norm)
    assert outcome.failed
    assert all(hit.margin <= 0 and hit.distance <= hit.radius for hit in outcome.hits)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_right_bounds_stand_close_to_where_they_end(digits, norm):
    outcome = checked(NativeEngine, digits, norm)
    assert outcome.attacked > 100
    assert not outcome.failed
