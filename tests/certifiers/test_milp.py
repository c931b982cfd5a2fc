"""The mixed-integer program: equal to the network, to the exact minimum by brute force, and never beyond it."""

import itertools
import sys
import time
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import nn

from certtrain.bounds import NativeEngine
from certtrain.bounds.crown import refine
from certtrain.bounds.forward import propagate
from certtrain.bounds.graph import Graph
from certtrain.bounds.interval import InputSet
from certtrain.certifiers import CascadeCertifier
from certtrain.certifiers.milp import Milp, _Program
from certtrain.data import Batch
from certtrain.errors import UserError
from certtrain.system.work import watched
from certtrain.threat import threat_of
from certtrain.threat.scales import Scales


def dense(seed: int, sizes=(3, 6, 5, 3)) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1]).double().eval()


def exact_least(net: nn.Sequential, x: torch.Tensor, eps: float, function: np.ndarray) -> float:
    """The least of a function of the logits over the box, by one linear program for each pattern of ReLUs."""
    lower, upper = ((x + sign * eps).clamp(0, 1).numpy() for sign in (-1, 1))
    weights = [(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in net if hasattr(layer, "bias")]
    hidden = [len(b) for _, b in weights[:-1]]
    least = np.inf
    for pattern in itertools.product((0, 1), repeat=sum(hidden)):
        a, c, rows, ends, at = np.eye(len(lower)), np.zeros(len(lower)), [], [], 0
        for (w, b), n in zip(weights[:-1], hidden):
            a, c = w @ a, w @ c + b
            on = np.array(pattern[at : at + n])
            at += n
            sign = np.where(on, -1.0, 1.0)  # on: z >= 0, off: z <= 0
            rows.append(sign[:, None] * a)
            ends.append(-sign * c)
            a, c = on[:, None] * a, on * c
        (w, b) = weights[-1]
        a, c = w @ a, w @ c + b
        box = list(zip(lower, upper))
        found = linprog(function @ a, np.vstack(rows), np.concatenate(ends), bounds=box, method="highs")
        if found.status == 0:
            least = min(least, found.fun + function @ c)
    return float(least)


def program(net: nn.Module, x: torch.Tensor, eps: float) -> _Program:
    threat = threat_of().at(eps)
    with torch.no_grad():
        run = propagate(Graph(net), InputSet.of(x[None], threat))
        boxes = {**run.boxes, **refine(run).boxes}
    made = _Program(threat.region(x[None]))
    made.add(run, boxes, {})
    return made


@pytest.mark.parametrize("seed", range(6))
def test_the_least_margin_is_that_of_every_pattern_of_relus(seed, monkeypatch):
    for tolerance in ("TRUST", "REDUCED_COST"):
        monkeypatch.setattr(f"certtrain.certifiers.milp.{tolerance}", 0.0)
    net, x = dense(seed, (3, 3, 3, 3)), torch.rand(3, dtype=torch.float64)
    y = int(net(x[None]).argmax())
    function = np.eye(3)[y] - np.eye(3)[(y + 1) % 3]
    truth = exact_least(net, x, 0.4, function)
    shifted = program(net, x, 0.4)
    shifted.logits.constant[y] -= truth  # so that the sign of the least is not known early: it is 0
    found = shifted.least(function, 60.0)
    assert found.bound == pytest.approx(0, abs=1e-6)


def exact_least_on_a_line(net: nn.Sequential, low: float, high: float, function: np.ndarray) -> float:
    """The least of a function of the logits of one input: at an end, or where some ReLU's input is 0."""
    points = np.array([low, high])
    for depth in range(1, len(net), 2):  # up to each ReLU
        with torch.no_grad():
            z = net[:depth](torch.from_numpy(points)[:, None]).numpy()
        left, right = z[:-1], z[1:]
        piece, neuron = np.nonzero(left * right < 0)
        share = left[piece, neuron] / (left[piece, neuron] - right[piece, neuron])
        kinks = points[piece] + share * (points[piece + 1] - points[piece])
        points = np.unique(np.concatenate([points, kinks]))
    with torch.no_grad():
        return float((net(torch.from_numpy(points)[:, None]).numpy() @ function).min())


@pytest.mark.parametrize("block", range(4))
def test_verdicts_are_the_truth_on_random_networks(block):
    """At radii on both sides of the largest robust one: proved only where the exact minimum is > 0."""
    decided = dict.fromkeys(("verified", "falsified"), 0)
    for seed in range(5 * block, 5 * block + 5):
        net = dense(seed, (1, 12, 8, 2))
        x = torch.rand(4, 1)
        with torch.no_grad():
            net[-1].bias -= (net(x.double()).min(0).values + net(x.double()).max(0).values) / 2  # both classes occur
            y = net(x.double()).argmax(1)
        eps = ["0.05", "0.2", "0.6"]
        cascade = CascadeCertifier(["milp"], eps, NativeEngine, verifiers={"milp": Milp(60)}, attacks=[])
        found = cascade.certify(net.float(), Batch(x, y, torch.arange(4)))
        for row in range(4):
            function = np.eye(2)[int(y[row])] - np.eye(2)[1 - int(y[row])]
            for radius in eps:
                low, high = (min(max(float(x[row]) + sign * float(radius), 0.0), 1.0) for sign in (-1, 1))
                truth = exact_least_on_a_line(net.double(), low, high, function)
                said = found.columns[f"status@{radius}"][row]
                if abs(truth) < 1e-4:
                    continue
                assert said == ("verified" if truth > 0 else "falsified"), (seed, row, radius, truth)
                decided[said] += 1
    assert min(decided.values()) > 3, decided


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.LeakyReLU(0.1), nn.Conv2d(3, 3, 1))
        self.pool, self.head = (
            nn.AvgPool2d(2),
            nn.Sequential(nn.Flatten(), nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 3)),
        )

    def forward(self, x):
        z = self.conv(x)
        z = torch.relu(z - self.block(z))
        return self.head(torch.cat([self.pool(z), self.pool(z * 2)], 1))


@pytest.mark.parametrize("make", [Residual, lambda: dense(1), lambda: dense(2, (3, 9, 9, 9, 4))])
def test_with_its_inputs_fixed_the_program_is_the_network(make):
    torch.manual_seed(0)
    net = make().double().eval()
    shape = (2, 4, 4) if isinstance(net, Residual) else (3,)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    x = torch.rand(shape, dtype=torch.float64)
    logits = net(x[None]).shape[1]
    for _ in range(3):
        made = program(net, x, 0.2)
        point = (x + torch.empty_like(x).uniform_(-0.2, 0.2)).clamp(0, 1)
        fixed = point.flatten().numpy()
        made._bounds[0] = (fixed, fixed, False)
        value = net(point[None])[0].detach().numpy()
        for j in range(logits):
            for sign in (1, -1):
                function = sign * np.eye(logits)[j]
                made.logits.constant[j] -= value[j]
                assert made.least(function, 60.0).bound == pytest.approx(0, abs=1e-4)
                made.logits.constant[j] += value[j]


def test_a_union_of_boxes_is_proved_where_every_combination_of_categories_keeps_the_class():
    """Columns of 3 and 2 categories beside a number that hardly changes: six inputs are the whole set."""
    sizes = (*[Fraction(0)] * 5, Fraction(1, 10**9))
    scales = Scales(tuple("abcdef"), sizes, (0,) * 6, "any", (("p", (0, 1, 2)), ("q", (3, 4))))
    net = dense(3, (6, 10, 8, 2)).float()
    net[0].weight.data *= torch.tensor([0.7] * 5 + [5.0])  # the number says more than the categories
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(40, 6)
    x[:, 5] = torch.rand(40, generator=generator)
    x[torch.arange(40), torch.randint(3, (40,), generator=generator)] = 1
    x[torch.arange(40), 3 + torch.randint(2, (40,), generator=generator)] = 1
    with torch.no_grad():
        net[-1].bias -= net(x).mean(0)
        y = net(x).argmax(1)
        every = [
            torch.cat([torch.eye(3)[p].expand(40, 3), torch.eye(2)[q].expand(40, 2), x[:, 5:]], 1)
            for p in range(3)
            for q in range(2)
        ]
        robust = torch.stack([net(other).argmax(1) == y for other in every]).all(0).numpy()
    options = {"verifiers": {"milp": Milp()}, "attacks": [], "scales": scales}
    found = CascadeCertifier(["milp"], ["0.1"], NativeEngine, **options).certify(net, Batch(x, y, torch.arange(40)))
    assert found.columns["status@0.1"].tolist() == np.where(robust, "verified", "falsified").tolist()
    assert 0 < robust.sum() < 40


def test_a_margin_within_the_solvers_tolerances_is_not_proved():
    """Shifted so that the least margin is one that a solver's tolerance can make, and, doubled, what is proved."""
    net, x = dense(1, (3, 4, 4, 3)), torch.rand(3, dtype=torch.float64)
    made = program(net, x, 0.4)
    function = np.array([1.0, -1.0, 0.0])
    least = made.least(function, 60.0).bound
    made.logits.constant[0] -= least  # the proved bound is 0 now, the least itself what is held back
    assert abs(made.least(function, 60.0).bound) < 1e-9
    held = exact_least(net, x, 0.4, function) - least
    assert held > 1e-5
    made.logits.constant[0] += held / 2
    assert made.least(function, 60.0).bound > 0
    made.logits.constant[0] -= held
    assert not made.least(function, 60.0).bound > 0


def test_no_time_is_a_timeout_and_nothing_is_claimed():
    net = dense(0, (8, 40, 40, 3)).float()
    x = torch.rand(4, 8)
    batch = Batch(x, net(x).argmax(1), torch.arange(4))
    cascade = CascadeCertifier(["milp"], ["0.5"], NativeEngine, verifiers={"milp": Milp(1e-9)}, attacks=[])
    found = cascade.certify(net, batch)
    assert set(found.columns["status@0.5"]) <= {"timeout", "falsified"}
    assert found.radius.tolist() == [0] * 4
    assert (found.columns["status@0.5"] == "timeout").any()


def test_a_signal_ends_a_long_search():
    class Stop(BaseException):
        pass

    net = dense(0, (30, 60, 60, 60, 3)).float()
    x = torch.rand(1, 30)
    began = time.monotonic()

    def stop():
        if time.monotonic() - began > 1.5:
            raise Stop

    cascade = CascadeCertifier(["milp"], ["0.2"], NativeEngine, verifiers={"milp": Milp(600)}, attacks=[])
    with pytest.raises(Stop), watched(stop=stop):
        cascade.certify(net, Batch(x, net(x).argmax(1), torch.arange(1)))


@pytest.mark.parametrize(
    ("net", "norm", "message"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), "l2", "not over the set of l2"),
        (nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 2)), "linf", "1 .Sigmoid. is not one"),
        (nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1, 2)), "linf", "MaxPool"),
    ],
)
def test_what_it_is_not_about_is_refused_before_any_work(net, norm, message):
    cascade = CascadeCertifier(["milp"], ["0.1"], NativeEngine, verifiers={"milp": Milp()}, norm=norm, attacks=[])
    with pytest.raises(UserError, match=message):
        cascade.certify(net, Batch(torch.rand(2, 4), torch.zeros(2, dtype=torch.int64), torch.arange(2)))


@pytest.mark.parametrize("limit", [0, -1, float("nan"), "60", True, None])
def test_a_limit_that_is_none_is_refused(limit):
    with pytest.raises(UserError, match="is not a number of seconds > 0"):
        Milp(limit)


def test_a_missing_solver_is_said_before_any_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "highspy", None)
    with pytest.raises(UserError, match="highspy is not installed"):
        Milp()
