"""Auto-PGD: the paper's checkpoints, points inside the ball, and no weaker than PGD of as many steps."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from certtrain.attacks import apgd_margins, margin, pgd_margins
from certtrain.attacks.apgd import checkpoints
from certtrain.errors import UserError
from certtrain.threat import threat_of


def network(dtype=torch.float32, width=20, classes=3):
    torch.manual_seed(2)
    return nn.Sequential(nn.Flatten(), nn.Linear(50, width), nn.ReLU(), nn.Linear(width, classes)).to(dtype)


def test_the_checkpoints_of_the_paper():
    """p = 0.22, 0.41, 0.57, 0.70, 0.80, 0.87, 0.93, 0.99; w_j = ceil(p_j N)."""
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(10) == [3, 5, 6, 7, 8, 9, 10]
    assert checkpoints(1) == [1]


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["linf", "l2"]),
    st.sampled_from([torch.float32, torch.float64]),
    st.floats(0, 2, width=32),
    st.integers(0, 15),
    st.integers(0, 2),
    st.sampled_from(["cross_entropy", "dlr", "margin"]),
)
def test_stays_in_the_ball_exactly_and_reports_the_margin_of_its_point(norm, dtype, eps, steps, restarts, loss):
    net = network(dtype)
    torch.manual_seed(3)
    x, y = torch.rand(4, 2, 5, 5, dtype=dtype), torch.randint(3, (4,))
    threat = threat_of(norm, eps * torch.tensor([1.0, 0.5, 0.0, 2.0], dtype=torch.float64))
    found = apgd_margins(net, x, y, threat, steps=steps, restarts=restarts, loss=loss)
    if norm == "linf":
        lower, upper = threat.box(x)
        assert bool(((found.x >= lower) & (found.x <= upper)).all())
    else:
        for point, centre, radius in zip(found.x.flatten(1), x.flatten(1), threat.eps_tensor(x).flatten().tolist()):
            offsets = [Fraction(a) - Fraction(b) for a, b in zip(point.tolist(), centre.tolist())]
            assert sum(offset**2 for offset in offsets) <= Fraction(radius) ** 2
        assert bool(((found.x >= 0) & (found.x <= 1)).all())
    with torch.no_grad():
        assert torch.allclose(margin(net(found.x), y), found.margin, atol=1e-5)
        assert bool((found.margin <= margin(net(x), y) + 1e-6).all())
    assert not found.x.requires_grad


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_finds_the_worst_case_of_a_linear_classifier(norm):
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(30, 2)).double()
    x, y = torch.rand(8, 30, dtype=torch.float64), torch.randint(2, (8,))
    w = (net[0].weight[y] - net[0].weight[1 - y]).detach()
    clean = margin(net(x), y).detach()
    if norm == "linf":
        threat = threat_of("linf", torch.linspace(0, 0.7, 8))
        lower, upper = threat.box(x)
        exact = clean + torch.minimum(w * (lower - x), w * (upper - x)).sum(1)
    else:
        threat = threat_of("l2", 0.4, lower=None, upper=None)
        exact = clean - 0.4 * w.norm(dim=1)
    for loss in ("cross_entropy", "dlr"):
        assert torch.allclose(apgd_margins(net, x, y, threat, steps=20, restarts=1, loss=loss).margin, exact, atol=1e-9)


@pytest.fixture(scope="module")
def digits():
    """A small network, trained without any defence, and the test images that it gets right."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x, y = torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 10))
    optimizer = torch.optim.Adam(net.parameters(), 0.005)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x[:1200]), y[:1200]).backward()
        optimizer.step()
    held = net(x).argmax(1) == y
    held[:1200] = False
    return net, x[held], y[held]


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.08), ("l2", 0.5)])
@pytest.mark.parametrize("loss", ["cross_entropy", "dlr"])
def test_at_least_as_strong_as_pgd_of_as_many_steps_on_average(digits, norm, eps, loss):
    net, x, y = digits
    threat = threat_of(norm, eps)
    auto = apgd_margins(net, x, y, threat, steps=30, restarts=1, loss=loss).margin
    plain = pgd_margins(net, x, y, threat, steps=30, restarts=1, loss=loss).margin
    assert 0.1 < (auto > 0).double().mean() < 0.9
    assert (auto > 0).double().mean() <= (plain > 0).double().mean() + 0.005
    if loss == "dlr":  # what it descends is nearly the margin itself
        assert auto.mean() <= plain.mean() + 0.01 * plain.abs().mean()


def test_depends_on_its_own_seed_only_and_leaves_everything_as_it_was():
    net = network().train()
    net[1].weight.grad = torch.ones_like(net[1].weight)
    x, y, threat = torch.rand(4, 2, 5, 5), torch.tensor([0, 1, 2, 0]), threat_of("linf", 0.1)
    state = torch.get_rng_state()
    with torch.inference_mode():
        first = apgd_margins(net, x, y, threat, steps=5, restarts=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training
    assert bool((net[1].weight.grad == 1).all())
    torch.manual_seed(99)
    assert torch.equal(apgd_margins(net, x, y, threat, steps=5, restarts=3).x, first.x)


@pytest.mark.parametrize("wrong", [{"steps": -1}, {"restarts": -1}])
def test_refuses_what_is_no_attack(wrong):
    with pytest.raises(UserError, match="use at least 0"):
        apgd_margins(network(), torch.rand(1, 50), torch.tensor([0]), threat_of("linf", 0.1), **wrong)
