"""Branch and bound decides what mixed-integer programming does, by hand and on random networks; limits prove none."""

import itertools
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import fx, nn

from certtrain.bounds import NativeEngine
from certtrain.bounds.subdomains import Domains, Split
from certtrain.certifiers import CascadeCertifier
from certtrain.certifiers.bab import BranchAndBound
from certtrain.certifiers.milp import Milp
from certtrain.certifiers.verifier import Known, Problems, Subject
from certtrain.data.batch import Batch
from certtrain.errors import UserError
from certtrain.threat import threat_of
from certtrain.threat.scales import Scales

DOUBLE = torch.float64


def by_hand(weight, bias, last, offset):
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor(weight))
        net[0].bias.copy_(torch.tensor(bias))
        net[2].weight.copy_(torch.tensor([last, [0.0, 0.0]]))
        net[2].bias.copy_(torch.tensor([offset, 0.0]))
    return net.eval()


def decide(verifier, net, x, eps, threat=None):
    """The verdicts of the network's own classes."""
    subject = Subject(net)
    with subject.frozen(), torch.no_grad():
        logits = subject.network(x.double())
    threat = threat or threat_of("linf", eps, outward=True)
    problems = Problems(Known(x.double(), logits.argmax(1), logits), torch.arange(len(x)), threat)
    with subject.frozen():
        return list(verifier.verify(subject, problems))


def test_one_split_proves_what_no_slope_does():
    """relu(t) - relu(t - .5) + .5 with t = x1 + x2 in [-2, 2]: -.25 by the best slope; .5 and 1 with t - .5 split."""
    net = by_hand([[1.0, 1.0], [1.0, 1.0]], [0.0, -0.5], [1.0, -1.0], 0.5)
    free = threat_of("linf", 1.0, lower=None, upper=None)
    (found,) = decide(BranchAndBound(time_limit=1000, root_iterations=50), net, torch.zeros(1, 2), 1.0, free)
    assert found.status[0] == "verified"
    assert 0.4 < found.margin[0] <= 0.5 + 1e-9
    (found,) = decide(BranchAndBound(time_limit=1000, domains=1), net, torch.zeros(1, 2), 1.0, free)
    assert found.status[0] == "timeout"
    assert -0.3 < found.margin[0] < -0.2


@pytest.mark.parametrize(("sign", "beta", "expected"), [(1, 1.0, 0.0), (1, 0.0, -1.5), (-1, 0.0, 0.0)])
def test_worked_example_of_a_multiplier(sign, beta, expected):
    """relu(z1) + relu(z2), z = (x1 + x2, x1 - x2) + .5 over [-1, 1]^2, split at z1; slope 0 for z2.

    With z1 >= 0 its line is z1 = x1 + x2 + .5 >= -1.5, and less `beta z1` with beta = 1 nothing is left of it.
    """
    lower, upper = torch.tensor([[-1.5, -1.5]], dtype=DOUBLE), torch.tensor([[2.5, 2.5]], dtype=DOUBLE)
    (lower if sign == 1 else upper)[0, 0] = 0
    split = Split(lower, upper, torch.tensor([[sign, 0]], dtype=torch.int8))
    values = [torch.tensor([[[one, 0.0]]], dtype=DOUBLE) for one in (float(sign == 1), beta)]
    before, constant = split.backward(torch.ones(1, 1, 2, dtype=DOUBLE), values)
    a = before[0, 0] @ torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=DOUBLE)
    assert (before.sum() * 0.5 + constant - a.abs().sum()).item() == pytest.approx(expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_each_half_is_cut_at_one_neuron_and_the_parents_are_left_alone(layout):
    z = torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=layout)
    box, sign = (z - 2, z + 2), torch.zeros_like(z, dtype=torch.int8)
    children, split = Domains(torch.arange(4), torch.zeros(4), {1: box}, {1: sign}, {}, {1: z}).halves()
    place, (lower, upper) = z.flatten(1).argmax(1).repeat(2), children.boxes[1]
    cut = torch.nn.functional.one_hot(place, 12).view(8, 3, 2, 2) * torch.tensor([1] * 4 + [-1] * 4).view(8, 1, 1, 1)
    assert split.all()
    assert torch.equal(children.signs[1], cut)
    assert torch.equal(lower, (z - 2).repeat(2, 1, 1, 1).masked_fill(cut == 1, 0))
    assert torch.equal(upper, (z + 2).repeat(2, 1, 1, 1).masked_fill(cut == -1, 0))
    assert torch.equal(box[0], z - 2)
    assert not sign.any()


def random(seed, sizes=(3, 8, 8, 3)):
    torch.manual_seed(seed)
    layers = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    net = nn.Sequential(*layers[:-1]).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter *= 2
    return net, torch.rand(4, sizes[0])


@pytest.mark.parametrize("seed", range(5))
def test_it_decides_as_mixed_integer_programming_does(seed):
    net, x = random(seed)
    ours = decide(BranchAndBound(time_limit=1000, domains=150), net, x[:3], 0.12)
    for mine, theirs in zip(ours, decide(Milp(1000), net, x[:3], 0.12), strict=True):
        assert (mine.status[0] == "verified") == (theirs.status[0] == "verified"), (mine, theirs)
        if mine.status[0] == "verified":  # both are lower bounds of what is > 0
            assert mine.margin[0] > 0


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_point_beats_the_bound_that_was_reached_when_time_was_over(norm):
    net, x = random(3, (4, 12, 10, 3))
    threat = threat_of(norm, 0.2)
    y = net(x).argmax(1)
    noise = torch.randn(4000, *x.shape)
    if norm == "l2":
        points = x + 0.2 * noise / noise.norm(dim=2, keepdim=True)
    else:
        points = (x + 0.2 * noise.sign()).clamp(0, 1)
    with torch.no_grad():
        logits = net(points)
    own = logits.gather(2, y.expand(len(logits), -1)[:, :, None])
    least = (own - logits).masked_fill(nn.functional.one_hot(y, 3).bool(), torch.inf).amin((0, 2))
    for domains in (1, 40):
        for at, found in enumerate(decide(BranchAndBound(time_limit=1000, domains=domains), net, x, 0.2, threat)):
            assert found.margin[0] <= least[at] + 1e-5
            assert found.status[0] in ("verified", "timeout", "unknown")


def test_as_the_last_stage_of_a_cascade_it_leaves_nothing_open():
    net, x = random(5)
    stages = ["crown", "bab"]
    verifiers = {"bab": BranchAndBound(time_limit=1000, domains=1000)}
    cascade = CascadeCertifier(stages, ["0.12"], NativeEngine, verifiers=verifiers, attack_steps=20)
    found = cascade.certify(net, Batch(x, net(x).argmax(1), torch.arange(len(x))))
    assert set(found.columns["status@0.12"]) <= {"verified", "falsified"}
    assert cascade.settings()["stages"][1]["domains"] == 1000


def test_a_union_is_taken_apart_by_one_stage_and_bounded_whole_by_the_next():
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval(), torch.tensor([[0.5, 1.0, 0.0]])
    scales = Scales(("x", "a", "b"), (Fraction(1), Fraction(0), Fraction(0)), (0, 0, 0), groups=(("c", (1, 2)),))
    data = Batch(x, torch.zeros(1, dtype=torch.long), torch.arange(1))
    with torch.no_grad():
        net[2].bias[0] = 5.0
    verifiers = {"bab": BranchAndBound(time_limit=1000, domains=1, root_iterations=0)}
    for stages in (["bab", "ibp"], ["ibp", "bab"]):
        cascade = CascadeCertifier(stages, ["0.01", "0.02"], NativeEngine, verifiers=verifiers, scales=scales)
        subject = Subject(net)
        with subject.frozen(), torch.no_grad():
            problems = Problems(Known(x.double(), data.y, subject.network(x.double())), data.index, cascade.threat)
            for verifier in cascade.verifiers:
                (found,) = verifier.verify(subject, replace(problems, threat=cascade.threat.at(cascade.radii[0])))
                assert found.status[0] == "verified", found.reason


@pytest.mark.parametrize("kind", [BranchAndBound, Milp])
def test_a_network_that_is_another_where_it_is_traced_is_refused(kind):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = random(0)[0]

        def forward(self, x):
            return self.net(x) if isinstance(x, fx.Proxy) else -self.net(x)

    with pytest.raises(UserError, match="logits are not those"):
        decide(kind(1000), Odd().eval(), torch.rand(1, 3), 0.0)


@pytest.mark.parametrize(
    "options",
    [
        {"time_limit": 0},
        {"time_limit": float("nan")},
        {"domains": 0},
        {"batch_size": 1.5},
        {"iterations": -1},
        {"rate": 2.0},
    ],
)
def test_limits_that_make_no_sense_are_refused(options):
    with pytest.raises(UserError, match=next(iter(options))):
        BranchAndBound(**options)


def test_a_network_without_a_relu_is_refused():
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).eval()
    subject = Subject(net)
    x = torch.zeros(1, 2, dtype=DOUBLE)
    problems = Problems(Known(x, torch.tensor([0]), torch.empty(0)), torch.tensor([0]), threat_of("linf", 0.1))
    with pytest.raises(UserError, match="no ReLU to split"):
        BranchAndBound().check(subject, problems)
