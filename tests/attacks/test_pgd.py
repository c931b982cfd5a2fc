import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from certtrain.attacks import margin, pgd_margins
from certtrain.errors import UserError
from certtrain.threat import threat_of


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(36, 4)
    )


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(6, 2, 5, 5, generator=generator)
    x[0] = (x[0] > 0.5).float()  # at the border of the range
    return x, torch.randint(4, (6,), generator=generator)


def inside(x, found, threat):
    if threat.norm == "linf":
        lower, upper = threat.box(x)
        return bool(((found >= lower) & (found <= upper)).all())
    distance = (found.double() - x.double()).flatten(1).norm(dim=1)
    return bool(
        (distance <= threat.eps_tensor(x.double()).flatten()).all() and (found >= 0).all() and (found <= 1).all()
    )


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["linf", "l2"]),
    st.sampled_from([torch.float32, torch.float64]),
    st.floats(0, 2, width=32),
    st.booleans(),
    st.integers(0, 12),
    st.sampled_from(["margin", "cross_entropy"]),
    st.sampled_from([None, 0.3]),
)
def test_stays_in_the_ball_and_reports_the_margin_of_its_point(norm, dtype, eps, per_example, steps, loss, step_size):
    torch.manual_seed(2)
    network = nn.Sequential(nn.Flatten(), nn.Linear(50, 20), nn.ReLU(), nn.Linear(20, 3)).to(dtype)
    x, y = torch.rand(4, 2, 5, 5, dtype=dtype), torch.randint(3, (4,))
    radius = eps * torch.tensor([1.0, 0.5, 0.0, 2.0], dtype=torch.float64) if per_example else eps
    threat = threat_of(norm, radius)
    found = pgd_margins(network, x, y, threat, steps=steps, restarts=2, loss=loss, step_size=step_size)
    assert inside(x, found.x, threat)
    with torch.no_grad():
        assert torch.allclose(margin(network(found.x), y), found.margin, atol=1e-5)
        assert (found.margin <= margin(network(x), y) + 1e-6).all()
    assert not found.margin.requires_grad
    assert not found.x.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finds_the_worst_case_of_a_linear_classifier(dtype):
    torch.manual_seed(3)
    network = nn.Sequential(nn.Linear(30, 2)).to(dtype)
    x, y = torch.rand(8, 30, dtype=dtype), torch.randint(2, (8,))
    w = (network[0].weight[y] - network[0].weight[1 - y]).detach()
    clean = margin(network(x), y).detach()
    threat = threat_of("linf", torch.linspace(0, 0.7, 8))
    lower, upper = threat.box(x)
    exact = clean + torch.minimum(w * (lower - x), w * (upper - x)).sum(1)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    assert torch.allclose(pgd_margins(network, x, y, threat, steps=10, restarts=1).margin, exact, atol=tolerance)

    threat = threat_of("l2", 0.4, lower=None, upper=None)
    exact = clean - 0.4 * w.norm(dim=1)
    assert torch.allclose(pgd_margins(network, x, y, threat, steps=10, restarts=1).margin, exact, atol=tolerance)


def test_random_starts_reach_what_the_first_cannot():
    class Plateau(nn.Module):
        def forward(self, x):  # no gradient at 0.5, classes change at a distance
            far = (x - 0.5).abs().sum(1, keepdim=True).sub(0.3).relu()
            return torch.cat([torch.ones_like(far), 20 * far], 1)

    x, y = torch.full((4, 4), 0.5), torch.zeros(4, dtype=torch.long)
    threat = threat_of("linf", 0.2)
    assert (pgd_margins(Plateau(), x, y, threat, restarts=1).margin == 1).all()
    assert (pgd_margins(Plateau(), x, y, threat, restarts=9).margin < 0).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_more_steps_and_restarts_never_find_less(network, batch, norm):
    x, y = batch
    threat = threat_of(norm, 0.3)
    network.eval()
    clean = margin(network(x), y).detach()
    before = pgd_margins(network, x, y, threat, steps=0, restarts=1).margin
    assert torch.allclose(before, clean)
    for steps, restarts in ((1, 1), (5, 1), (5, 2), (15, 2), (25, 2), (25, 4)):
        now = pgd_margins(network, x, y, threat, steps=steps, restarts=restarts).margin
        assert (now <= before).all()
        before = now
    assert (before < clean - 0.05).all()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_leaves_everything_as_it_was(network, batch, mode):
    network.train()
    network[1].eval()
    modes = [module.training for module in network.modules()]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    rng = torch.get_rng_state()
    with mode():
        x, y = (tensor.clone() for tensor in batch)
        found = pgd_margins(network, x, y, threat_of("linf", 0.1), steps=3)
    assert torch.equal(torch.get_rng_state(), rng)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert all(parameter.requires_grad and (parameter.grad == 1).all() for parameter in network.parameters())
    network.eval()
    assert (found.margin < margin(network(batch[0]), batch[1])).all()


def test_depends_on_its_own_seed_only(network, batch):
    x, y = batch
    attack = {"steps": 2, "restarts": 3, "step_size": 0.01}
    threat = threat_of("l2", 0.5)
    first = pgd_margins(network, x, y, threat, **attack)
    torch.manual_seed(99)
    assert torch.equal(pgd_margins(network, x, y, threat, **attack).x, first.x)
    assert not torch.equal(pgd_margins(network, x, y, threat, generator_seed=1, **attack).x, first.x)


def test_nan_is_not_robust(batch):
    class Nan(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :4] * math.nan

    assert not (pgd_margins(Nan(), *batch, threat_of("linf", 0.1), steps=2).margin > 0).any()


@pytest.mark.parametrize("wrong", [{"loss": "margn"}, {"steps": -1}, {"restarts": -1}])
def test_refuses_what_is_no_attack(network, batch, wrong):
    with pytest.raises(UserError):
        pgd_margins(network, *batch, threat_of("linf", 0.1), **wrong)


def test_an_l2_point_lies_in_the_ball_after_rounding():
    torch.manual_seed(4)
    network = nn.Sequential(nn.Linear(2000, 2))
    x, threat = torch.rand(16, 2000), threat_of("l2", 0.01)
    found = pgd_margins(network, x, torch.randint(2, (16,)), threat, steps=20)
    assert inside(x, found.x, threat)
    assert ((found.x.double() - x.double()).norm(dim=1) > 0.0099).all()
