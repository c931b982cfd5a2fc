"""The fused loss against numbers worked out by hand, brute force, and everything that could make it smaller."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from certtrain.bounds import FusedLoss, NativeEngine
from certtrain.bounds.loss_fusion import SERIES_BELOW, _mean_decay, fused_upper_bound
from certtrain.errors import UserError
from certtrain.models import Normalize
from certtrain.threat import threat_of

ALL = ("ibp", "crown_ibp", "crown")


def free(eps, norm="linf"):
    return threat_of(norm, eps, lower=None, upper=None)


def layer(weight, bias):
    weight, bias = torch.tensor(weight, dtype=torch.float64), torch.tensor(bias, dtype=torch.float64)
    linear = nn.Linear(weight.shape[1], weight.shape[0]).double()
    linear.weight.data, linear.bias.data = weight, bias
    return linear


def robust_loss(margins):
    return torch.logsumexp(F.pad(-margins, (1, 0)), 1)


def test_opposite_margins_by_hand():
    """m = (x, -x) for x in [-e, e]: the slopes cancel and 1 + exp(e) + exp(-e) is exact; unfused 1 + 2 exp(e)."""
    network, e = layer([[0.0], [-1.0], [1.0]], [0.0] * 3), 0.75
    x, y = torch.zeros(1, 1, dtype=torch.float64), torch.tensor([0])
    for method in ALL:
        fused = NativeEngine(network).fused_loss(x, y, free(e), method)
        assert fused.loss.item() == pytest.approx(math.log(1 + 2 * math.cosh(e)), abs=1e-12)
        assert robust_loss(fused.margins["ibp"]).item() == pytest.approx(math.log(1 + 2 * math.exp(e)))


def test_two_neurons_by_hand():
    """m = 2 relu(x) - relu(x - 1/2) around x = 1/2: IBP gives [1 - 3e, 1 + 2e], CROWN-IBP 1 - 2e, which is the minimum.

    `exp(-m) <= exp(-1.5) + s (1.5 - m)` with s = (exp(-1/4) - exp(-3/2)) / (5/4), at m >= 1/2: here looser than the
    loss at the worst margin, log(1 + exp(-1/2)).
    """
    network = nn.Sequential(layer([[1.0], [1.0]], [-0.5, 0.0]), nn.ReLU(), layer([[-1.0, 2.0], [0.0, 0.0]], [0.0, 0.0]))
    x, y = torch.full((1, 1), 0.5, dtype=torch.float64), torch.tensor([0])
    fused = NativeEngine(network).fused_loss(x, y, threat_of(eps=0.25))
    slope = (math.exp(-0.25) - math.exp(-1.5)) / 1.25
    assert fused.loss.item() == pytest.approx(math.log(1 + math.exp(-1.5) + slope), abs=1e-12)
    assert fused.loss.item() == pytest.approx(0.511425, abs=1e-6)
    assert fused.loss.item() > math.log(1 + math.exp(-0.5))
    assert fused.margins["ibp"].item() == pytest.approx(0.25)
    assert list(fused.margins) == ["ibp"]
    assert isinstance(fused, FusedLoss)
    torch.testing.assert_close(fused.clean, network(x))
    (pre,) = fused.pre_activations
    torch.testing.assert_close(pre.lower, torch.tensor([[-0.25, 0.25]], dtype=torch.float64))


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_linear_networks_against_every_corner(classes):
    """The loss is convex in x: its maximum over a box is at a corner. With two classes the chord's end is attained."""
    torch.manual_seed(classes)
    network, eps = nn.Linear(5, classes).double(), 0.3
    x, y = torch.rand(4, 5, dtype=torch.float64), torch.randint(classes, (4,))
    corners = x + eps * torch.tensor(list(itertools.product([-1, 1], repeat=5)), dtype=torch.float64)[:, None]
    losses = F.cross_entropy(network(corners.flatten(0, 1)), y.repeat(32), reduction="none").view(32, 4)
    worst = losses.amax(0)
    for method in ALL:
        fused = NativeEngine(network).fused_loss(x, y, free(eps), method)
        assert (fused.loss >= worst - 1e-12).all()
        assert (fused.loss <= robust_loss(fused.margins["ibp"]) + 1e-12).all()
        if classes == 2:
            torch.testing.assert_close(fused.loss, worst)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_two_inputs_against_a_dense_grid(norm):
    torch.manual_seed(5)
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 3)).double()
    x, y = torch.rand(6, 2, dtype=torch.float64), torch.arange(6) % 3
    axis = torch.linspace(-1, 1, 201, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    grid = grid[grid.norm(dim=1) <= 1] if norm == "l2" else grid
    for eps in (0.05, 0.5, 3.0):
        network[2].weight.data *= 1.5
        points = (x + eps * grid[:, None]).flatten(0, 1)
        worst = F.cross_entropy(network(points), y.repeat(len(grid)), reduction="none").view(len(grid), 6).amax(0)
        for method in ALL:
            fused = NativeEngine(network).fused_loss(x, y, free(eps, norm), method)
            assert (fused.loss >= worst - 1e-12).all(), (eps, method)
            assert fused.loss.isfinite().all()


@settings(deadline=None, max_examples=150)
@given(
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 10**6),
    size=st.sampled_from([1e-6, 1e-2, 1.0, 30.0, 300.0, 1e5]),
    shrink=st.sampled_from([0.0, 1e-3, 1.0]),
)
def test_no_point_between_the_bounds_beats_it_even_when_the_linear_bound_is_exact(dtype, seed, size, shrink):
    """Margins may be any of a few points, perhaps all near the bounds' far corner, where two large sums cancel."""
    generator = torch.Generator().manual_seed(seed)
    lower = size * torch.randn(6, 4, generator=generator, dtype=torch.float64)
    upper = lower + size * torch.rand(6, 4, generator=generator, dtype=torch.float64).pow(6)
    share = torch.rand(8, 6, 4, generator=generator, dtype=torch.float64)
    share[:, :, 0] *= shrink
    share[:, :3] *= shrink
    lower, upper, points = (tensor.to(dtype) for tensor in (lower, upper, upper - share * (upper - lower)))
    bound = fused_upper_bound(lower, upper, lambda weights: (weights[:, 0] * points).sum(2).amin(0)[:, None])
    worst = torch.stack([robust_loss(point) for point in points.double()]).amax(0)
    rounding = 8 * torch.finfo(dtype).eps * (1 + size + worst)
    assert (bound.double() >= worst - rounding).all()
    assert (bound.double() <= robust_loss(lower.double()) + rounding).all()


def test_a_class_whose_slope_underflows_still_counts():
    """Class 1 may reach a margin of -200, but the linear bound knows that it is at 200; class 2 comes to -49."""
    for dtype in (torch.float32, torch.float64):
        lower, upper = torch.tensor([[-200.0, -50.0]], dtype=dtype), torch.tensor([[200.0, 50.0]], dtype=dtype)
        bound = fused_upper_bound(lower, upper, lambda weights: weights[:, 0] @ weights.new_tensor([[200.0], [-49.0]]))
        assert bound.item() >= 49


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_slope_is_never_too_small_nor_its_gradient_wrong(dtype):
    width = torch.logspace(-12, 2.5, 400, dtype=dtype).requires_grad_()
    found = _mean_decay(width)
    wide = width.detach().double()
    expected = -torch.expm1(-wide) / wide
    assert (found.double() >= expected * (1 - 4 * torch.finfo(dtype).eps)).all()
    torch.testing.assert_close(found.double(), expected, rtol=1e-6 if dtype == torch.float32 else 1e-9, atol=0)
    (grad,) = torch.autograd.grad(found.sum(), width)
    exact = torch.where(wide < 1e-2, -0.5 + wide / 3, (torch.exp(-wide) - expected) / wide)
    torch.testing.assert_close(grad.double(), exact, rtol=1e-3, atol=1e-4)
    edge = torch.tensor([0.0, SERIES_BELOW], dtype=dtype, requires_grad=True)
    assert torch.autograd.grad(_mean_decay(edge).sum(), edge)[0].isfinite().all()


def conv_net(classes=5):
    return nn.Sequential(
        Normalize([0.3, 0.4], [0.2, 0.5]),
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(36, 8),
        nn.ReLU(),
        nn.Linear(8, classes),
    )


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.rand(6, 2, 6, 6), torch.arange(6) % 5


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("training", [True, False])
def test_no_perturbation_gives_the_clean_loss_and_its_gradient(batch, norm, training):
    x, y = batch
    torch.manual_seed(0)
    network = conv_net().train(training)
    parameters = list(network.parameters())
    expected = F.cross_entropy(network(x), y, reduction="none")
    wanted = torch.autograd.grad(expected.sum(), parameters)
    for method in ALL:
        loss = NativeEngine(network).fused_loss(x, y, threat_of(norm, 0.0), method).loss
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
        for found, grad in zip(torch.autograd.grad(loss.sum(), parameters), wanted):
            torch.testing.assert_close(found, grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_eps_per_example_and_examples_apart(batch, norm):
    x, y = batch
    network = conv_net().eval()
    engine, eps = NativeEngine(network), torch.linspace(0, 0.2, len(x))
    for method in ALL:
        together = engine.fused_loss(x, y, threat_of(norm, eps), method).loss
        assert (together[1:] > F.cross_entropy(network(x), y, reduction="none")[1:]).all()
        for i, e in enumerate(eps.tolist()):
            alone = engine.fused_loss(x[i : i + 1], y[i : i + 1], threat_of(norm, e), method).loss
            torch.testing.assert_close(together[i], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_with_ibp_it_is_at_most_the_loss_of_the_ibp_margins(batch, norm):
    x, y = batch
    network = conv_net().double().eval()
    for eps in (0.001, 0.05, 0.5):
        fused = NativeEngine(network).fused_loss(x.double(), y, threat_of(norm, eps), "ibp")
        assert (fused.loss <= robust_loss(fused.margins["ibp"]) + 1e-9).all()
        assert (fused.loss < robust_loss(fused.margins["ibp"]) - 1e-6).any()
        bounds = NativeEngine(network).bounds(x.double(), y, threat_of(norm, eps), ("ibp",))
        torch.testing.assert_close(fused.margins["ibp"], bounds.margins["ibp"])


def test_a_network_that_does_not_end_in_a_linear_layer(batch):
    """The last layer unmerged, the margins' intervals are wider and the chords higher."""
    x, y = batch
    body = conv_net().double().eval()
    apart_network = nn.Sequential(body, nn.Identity())
    threat = threat_of("linf", 0.1)
    merged = NativeEngine(body).fused_loss(x.double(), y, threat)
    apart = NativeEngine(apart_network).fused_loss(x.double(), y, threat)
    assert (apart.margins["ibp"] <= merged.margins["ibp"] + 1e-9).all()
    assert (apart.loss >= merged.loss - 1e-9).all()
    ending = nn.Sequential(body, nn.ReLU())
    fused = NativeEngine(ending).fused_loss(x.double(), y, threat)
    assert (fused.loss >= F.cross_entropy(ending(x.double()), y, reduction="none")).all()


@pytest.mark.parametrize("scale", [1e3, 1e6, 1e30])
def test_huge_logits_neither_overflow_nor_lose_the_gradient(batch, scale):
    x, y = batch
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(72, 8), nn.ReLU(), nn.Linear(8, 5))
    network[3].weight.data *= scale
    for eps in (0.0, 0.05):
        fused = NativeEngine(network).fused_loss(x, y, threat_of(eps=eps))
        clean = F.cross_entropy(network(x), y, reduction="none")
        assert fused.loss.isfinite().all()
        assert (fused.loss >= clean * (1 - 1e-5) - 1e-3).all()
        gradients = torch.autograd.grad(fused.loss.mean(), list(network.parameters()))
        assert all(grad.isfinite().all() for grad in gradients)
        assert gradients[0].abs().sum() > 0


def test_what_overflows_or_is_nan_is_no_small_loss(batch):
    x, y = batch
    for value in (math.nan, math.inf):
        network = nn.Sequential(nn.Flatten(), nn.Linear(72, 8), nn.ReLU(), nn.Linear(8, 5))
        network[3].weight.data[1, 2] = value
        loss = NativeEngine(network).fused_loss(x, y, threat_of(eps=0.1)).loss
        assert (loss.isnan() | loss.isposinf()).all()


class Holder(nn.Module):
    """The fused loss as a function of parameters, input and eps."""

    def __init__(self, network, y, norm, method):
        super().__init__()
        self.network, self.y, self.norm, self.method = network, y, norm, method
        self.engine = NativeEngine(network)

    def forward(self, x, eps):
        return self.engine.fused_loss(x, self.y, threat_of(self.norm, eps), self.method).loss


@pytest.mark.parametrize(
    ("norm", "method", "training"),
    [("linf", "crown_ibp", False), ("l2", "crown_ibp", True), ("linf", "ibp", True)],
)
def test_gradients(norm, method, training):
    torch.manual_seed(3)
    network = nn.Sequential(
        *(Normalize([0.3], [0.5]), nn.Conv2d(1, 2, 2, stride=2, padding=1), nn.BatchNorm2d(2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(18, 4), nn.ReLU(), nn.Linear(4, 3)),
    )
    holder = Holder(network.double().train(training), torch.tensor([0, 2]), norm, method)
    x, eps = 0.3 + 0.4 * torch.rand(2, 1, 4, 4).double(), torch.tensor([0.05, 0.1]).double()
    names = [name for name, _ in holder.named_parameters()]
    values = [value.detach().clone().requires_grad_() for value in holder.parameters()]

    def loss(x, eps, *values):
        return torch.func.functional_call(holder, dict(zip(names, values)), (x, eps))

    assert torch.autograd.gradcheck(loss, (x.requires_grad_(), eps.requires_grad_(), *values))


def test_one_logit_has_no_loss_and_an_unknown_method_is_named():
    network = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))
    engine, x, y = NativeEngine(network), torch.rand(2, 3), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(UserError, match="K = 1 logits"):
        engine.fused_loss(x, y, threat_of(eps=0.1))
    with pytest.raises(UserError, match="no method 'crown-ibp'") as caught:
        engine.fused_loss(x, y, threat_of(eps=0.1), "crown-ibp")
    assert "crown_ibp" in caught.value.fix
