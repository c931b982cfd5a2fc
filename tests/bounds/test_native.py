"""The engine against numbers computed by hand, and what must hold between its methods."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from certtrain.bounds import NativeEngine, margin_matrix
from certtrain.errors import UserError
from certtrain.models import Normalize
from certtrain.threat import threat_of

ALL = ("ibp", "crown_ibp", "crown")
FREE = threat_of("linf", 0.5, lower=None, upper=None)


def linear(weight, bias):
    layer = nn.Linear(len(weight[0]), len(weight)).double()
    layer.weight.data, layer.bias.data = (
        torch.tensor(weight, dtype=torch.float64),
        torch.tensor(bias, dtype=torch.float64),
    )
    return layer


@pytest.fixture
def paper():
    """z1 = x1 + x2, z2 = x1 - x2, margin of class 0 = 2 relu(z1) - relu(z2) - 1/2; at x = (0.5, 0.3)."""
    net = nn.Sequential(linear([[1, 1], [1, -1]], [0, 0]), nn.ReLU(), linear([[1, 1], [-1, 2]], [0, 0.5]))
    return NativeEngine(net), torch.tensor([[0.5, 0.3]], dtype=torch.float64), torch.tensor([0]), net


@pytest.mark.parametrize(
    ("threat", "box", "ibp", "crown"),
    [
        # z1 in [-.2, 1.8], z2 in [-.8, 1.2]: IBP -1.2 - .5. CROWN: relu(z1) >= z1, relu(z2) <= .6 (z2 + .8), so the
        # margin >= 1.4 x1 + 2.6 x2 - .98 >= .5 - .5 * 4.
        (FREE, [[-0.2, 1.8], [-0.8, 1.2]], -1.7, -1.5),
        # Clipped, x in [0, 1] x [0, .8]: z1 in [0, 1.8], z2 in [-.8, 1]; relu(z2) <= (z2 + .8)/1.8; minimum at (0, 0).
        (threat_of("linf", 0.5), [[0, 1.8], [-0.8, 1.0]], -1.5, -0.8 / 1.8 - 0.5),
        (threat_of("linf", 0.0), [[0.8, 0.8], [0.2, 0.2]], 0.9, 0.9),
    ],
)
def test_hand_case_linf(paper, threat, box, ibp, crown):
    engine, x, y, _ = paper
    bounds = engine.bounds(x, y, threat, ALL)
    (pre,) = bounds.pre_activations
    torch.testing.assert_close(torch.stack([pre.lower[0], pre.upper[0]], 1), torch.tensor(box, dtype=torch.float64))
    for method, value in (("ibp", ibp), ("crown_ibp", crown), ("crown", crown)):
        assert bounds.margins[method].item() == pytest.approx(value, abs=1e-12)


def test_hand_case_l2(paper):
    engine, x, y, _ = paper
    bounds = engine.bounds(x, y, threat_of("l2", 0.5), ALL)
    r = 0.5 * math.sqrt(2)
    (pre,) = bounds.pre_activations
    torch.testing.assert_close(pre.lower, torch.tensor([[0.8 - r, 0.2 - r]], dtype=torch.float64))
    s = (0.2 + r) / (2 * r)  # the chord of relu(z2); z1 > 0
    crown = (2 - s) * 0.5 + (2 + s) * 0.3 - s * (r - 0.2) - 0.5 - 0.5 * math.hypot(2 - s, 2 + s)
    assert bounds.margins["crown_ibp"].item() == pytest.approx(crown, abs=1e-12)
    assert bounds.margins["ibp"].item() == pytest.approx(2 * (0.8 - r) - (0.2 + r) - 0.5, abs=1e-12)


def test_crown_bounds_each_relu_by_its_own_backward_pass(paper):
    """relu(z1) + relu(z2) and its negative as second neurons: CROWN sees what the intervals lose.

    On FREE: h1 <= .9 (z1 + .2), h2 <= .6 (z2 + .8), so h1 + h2 <= 1.5 x1 + .3 x2 + .66 <= .84 + .66 + .5 * 1.8 = 2.4
    where the interval says 3.0; h1 + h2 >= z1 + z2 = 2 x1 >= 0, the interval's own 0. With u = 2.4 - 1 and l = 0 - 1:
    relu(h1 + h2 - 1) <= 1.4/2.4 (h1 + h2), so -relu >= -1.4.
    """
    _, x, y, net = paper
    deep = nn.Sequential(net[0], nn.ReLU(), linear([[1, 1]], [-1]), nn.ReLU(), linear([[0], [1]], [0, 0]))
    bounds = NativeEngine(deep).bounds(x, y, FREE, ALL)
    assert bounds.margins["ibp"].item() == pytest.approx(-2.0)
    assert bounds.margins["crown_ibp"].item() == pytest.approx(-2 / 3 * 2.4)
    assert bounds.margins["crown"].item() == pytest.approx(-1.4)


def conv_net(seed=0, normalized=True):
    torch.manual_seed(seed)
    return nn.Sequential(
        Normalize([0.3, 0.4], [0.2, 0.5]) if normalized else nn.Identity(),
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(36, 8),
        nn.ReLU(),
        nn.Linear(8, 5),
    )


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.rand(6, 2, 8, 8), torch.randint(0, 5, (6,))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("training", [True, False])
def test_no_perturbation_no_slack(batch, norm, training):
    x, y = batch
    net = conv_net().train(training)
    bounds = NativeEngine(net).bounds(x, y, threat_of(norm, 0.0), ALL)
    margins = (margin_matrix(y, 5) @ bounds.clean[:, :, None]).squeeze(2)
    for method in ALL:
        torch.testing.assert_close(bounds.margins[method], margins, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_float64_agrees_with_float32(batch, norm):
    x, y = batch
    net = conv_net().eval()
    single = NativeEngine(net).bounds(x, y, threat_of(norm, 0.05), ALL)
    wide = copy.deepcopy(net).double()  # the engine does not keep it alive
    double = NativeEngine(wide).bounds(x.double(), y, threat_of(norm, 0.05), ALL)
    for method in ALL:
        assert double.margins[method].dtype == torch.float64
        torch.testing.assert_close(single.margins[method].double(), double.margins[method], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_eps_per_example_is_each_eps_alone(batch, norm):
    x, y = batch
    eps = torch.linspace(0, 0.2, len(x))
    net = conv_net().eval()
    engine = NativeEngine(net)
    together = engine.bounds(x, y, threat_of(norm, eps), ALL)
    for i, e in enumerate(eps.tolist()):
        alone = engine.bounds(x[i : i + 1], y[i : i + 1], threat_of(norm, e), ALL)
        for method in ALL:
            torch.testing.assert_close(together.margins[method][i], alone.margins[method][0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_crown_is_crown_ibp_with_one_hidden_layer_and_no_looser_intervals_with_more(batch, norm):
    x, y = batch
    shallow = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(192, 5))
    bounds = NativeEngine(shallow).bounds(x, y, threat_of(norm, 0.1), ALL)
    torch.testing.assert_close(bounds.margins["crown"], bounds.margins["crown_ibp"])
    net = conv_net().eval()
    deep = NativeEngine(net).bounds(x, y, threat_of(norm, 0.2), ALL)
    assert (deep.margins["crown"] - deep.margins["crown_ibp"]).mean() > 0.01


def test_crown_in_small_chunks_is_crown(batch, monkeypatch):
    x, y = batch
    net = conv_net().double().eval()
    engine = NativeEngine(net)
    whole = engine.bounds(x.double(), y, threat_of("linf", 0.1), ("crown",)).margins["crown"]
    monkeypatch.setattr("certtrain.bounds.crown.CHUNK_ELEMENTS", 500)
    torch.testing.assert_close(engine.bounds(x.double(), y, threat_of("linf", 0.1), ("crown",)).margins["crown"], whole)


class Forked(nn.Module):
    """Affine with every kind of fork: the input itself is added, subtracted and convolved twice."""

    def __init__(self):
        super().__init__()
        self.norm = Normalize([0.3, 0.4], [0.2, 0.5])
        self.a, self.b = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 1)
        self.bn, self.pool, self.fc = nn.BatchNorm2d(2), nn.AvgPool2d(2, padding=1), nn.Linear(50, 5)

    def forward(self, x):
        z = self.norm(x)
        z = z + z - self.b(z)
        z = self.bn(self.a(z)) - z
        return self.fc(torch.flatten(self.pool(F.pad(z, (0, 1, 0, 1), value=0.5)), 1))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_backward_bounds_are_exact_on_affine_networks(batch, norm):
    x, y = batch[0].double(), batch[1]
    torch.manual_seed(0)
    net = Forked().double().eval()
    threat = threat_of(norm, 0.1)
    bounds = NativeEngine(net).bounds(x, y, threat, ALL)
    matrix = torch.autograd.functional.jacobian(lambda z: net(z[None])[0], x[0]).flatten(1)
    functions = margin_matrix(y, 5, torch.float64) @ matrix
    clean = (margin_matrix(y, 5, torch.float64) @ net(x)[:, :, None]).squeeze(2)
    if norm == "l2":
        least = clean - 0.1 * functions.norm(dim=2)
    else:
        lower, upper = ((corner - x).flatten(1)[:, None] for corner in threat.box(x))
        least = clean + torch.minimum(functions * lower, functions * upper).sum(2)
    for method in ("crown_ibp", "crown"):
        torch.testing.assert_close(bounds.margins[method], least)
    assert (bounds.margins["ibp"] <= least + 1e-9).all()


@pytest.mark.parametrize(
    "prefix",
    [
        [Normalize([0.3, 0.4], [0.2, 0.5])],
        [Normalize([0.3, 0.4], [0.2, 0.5]), nn.BatchNorm2d(2), nn.ConstantPad2d((2, 1, 0, 1), 0.3), nn.Identity()],
    ],
)
def test_l2_bounds_of_the_first_layer_are_attained_at_the_border_too(prefix):
    """The worst perturbation of each neuron, from the Jacobian of the composed layer, reaches the bound exactly."""
    torch.manual_seed(0)
    head = nn.Sequential(*copy.deepcopy(prefix), nn.Conv2d(2, 3, 3, stride=2, padding=1)).double().eval()
    x = torch.rand(2, 2, 5, 6).double()
    shape = head(x).shape[1:]
    net = nn.Sequential(head, nn.ReLU(), nn.Flatten(), nn.Linear(shape.numel(), 2).double())
    (pre,) = NativeEngine(net).bounds(x, torch.tensor([0, 1]), threat_of("l2", 0.7), ("ibp",)).pre_activations
    matrix = torch.autograd.functional.jacobian(lambda z: head(z[None])[0], x[0]).reshape(-1, x[0].numel())
    worst = 0.7 * matrix / matrix.norm(dim=1, keepdim=True)
    for i in range(len(x)):
        for sign, bound in ((-1, pre.lower[i]), (1, pre.upper[i])):
            attacked = head(x[i] + sign * worst.reshape(-1, *x[0].shape)).flatten(1).diagonal()
            torch.testing.assert_close(attacked.reshape(shape), bound)


class Early(nn.Module):
    """A sum and a ReLU before any linear layer."""

    def forward(self, x):
        return F.relu(3 * x - x / 2) + F.relu(x)


@pytest.mark.parametrize("eps", [0.5, 2.0])
def test_an_l2_ball_becomes_a_box_where_coordinates_meet_before_a_linear_layer(eps):
    net, x = nn.Sequential(Early(), nn.Linear(3, 2)).double(), torch.rand(2, 3).double()
    bounds = NativeEngine(net).bounds(x, torch.tensor([0, 1]), threat_of("l2", eps), ("ibp",))
    for box, centre, radius in zip(bounds.pre_activations, (2.5 * x, x), (3.5 * eps, eps)):
        torch.testing.assert_close(box.lower, centre - radius)
        torch.testing.assert_close(box.upper, centre + radius)


class Holder(nn.Module):
    """The margins as a function of parameters, input and eps."""

    def __init__(self, net, y, norm):
        super().__init__()
        self.net, self.y, self.norm = net, y, norm
        self.engine = NativeEngine(net)

    def forward(self, x, eps):
        return tuple(self.engine.bounds(x, self.y, threat_of(self.norm, eps), ALL).margins.values())


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("training", [True, False])
def test_gradients(norm, training):
    torch.manual_seed(3)
    net = nn.Sequential(
        Normalize([0.3], [0.5]),
        nn.Conv2d(1, 2, 2, stride=2, padding=1),
        nn.BatchNorm2d(2),
        nn.ReLU(),
        nn.Conv2d(2, 2, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
    net = net.double().train(training)
    x, eps = 0.3 + 0.4 * torch.rand(2, 1, 4, 4).double(), torch.tensor([0.05, 0.1]).double()
    holder = Holder(net, torch.tensor([0, 2]), norm)
    names = [name for name, _ in holder.named_parameters()]
    values = [value.detach().clone().requires_grad_() for value in holder.parameters()]

    def margins(x, eps, *values):
        return torch.func.functional_call(holder, dict(zip(names, values)), (x, eps))

    assert torch.autograd.gradcheck(margins, (x.requires_grad_(), eps.requires_grad_(), *values))


def test_reshapes_and_reuse_change_nothing(batch):
    x, y = batch
    net = conv_net().eval()
    engine = NativeEngine(net)
    first = engine.bounds(x, y, threat_of("linf", 0.1))
    engine.bounds(x[:2], y[:2], threat_of("l2", 0.3), ALL)
    again = engine.bounds(x, y, threat_of("linf", 0.1), ("crown_ibp",))
    assert torch.equal(first.margins["crown_ibp"], again.margins["crown_ibp"])
    assert list(again.margins) == ["crown_ibp"]
    assert first.margins["ibp"].shape == (6, 4)
    torch.testing.assert_close(first.clean, net(x))


def test_a_network_that_does_not_end_in_a_linear_layer(batch):
    x, y = batch
    body = conv_net().double().eval()
    split = nn.Sequential(body, nn.Identity())
    merged = NativeEngine(body).bounds(x.double(), y, threat_of("linf", 0.1), ALL).margins
    apart = NativeEngine(split).bounds(x.double(), y, threat_of("linf", 0.1), ALL).margins
    torch.testing.assert_close(apart["crown"], merged["crown"])
    assert (apart["ibp"] <= merged["ibp"] + 1e-9).all()
    assert (merged["ibp"] - apart["ibp"]).mean() > 0.001


def test_nan_and_degenerate_intervals(batch):
    x, y = batch
    net = conv_net().eval()
    engine = NativeEngine(net)
    with torch.no_grad():
        net[7].weight.zero_()
        net[7].bias.zero_()
    bounds = engine.bounds(x, y, threat_of("linf", 0.1), ALL)
    expected = (margin_matrix(y, 5) @ net[9].bias[:, None]).squeeze(2)
    for method in ALL:
        torch.testing.assert_close(bounds.margins[method], expected, atol=1e-6, rtol=0)
    with torch.no_grad():
        net[4].weight[0, 0, 0, 0] = math.nan
    for margins in engine.bounds(x, y, threat_of("linf", 0.1), ALL).margins.values():
        assert margins.isnan().all()


def test_unknown_method(paper):
    engine, x, y, _ = paper
    with pytest.raises(UserError, match="alpha_crwn") as caught:
        engine.bounds(x, y, FREE, ("alpha_crwn",))
    assert "alpha_crown" in caught.value.fix
    assert "Conv2d" in engine.supported
    assert (engine.name, engine.methods) == ("native", (*ALL, "crown_zero", "alpha_crown"))


class Twice(nn.Module):
    """x beside itself, then the sum of all: its range over a ball is twice that of the sum of x."""

    def __init__(self):
        super().__init__()
        self.sum = linear([[1.0] * 4, [0.0] * 4], [0.0, 0.0])

    def forward(self, x):
        return self.sum(torch.cat([x, x], 1))


@pytest.mark.parametrize(("norm", "least"), [("linf", -4 * 0.1), ("l2", -2 * math.sqrt(2) * 0.1)])
def test_joined_tensors_may_depend_on_the_same_coordinate(norm, least):
    """Taken for coordinates of their own, four of norm eps would only reach -2 eps."""
    net = Twice()
    x, y = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([0])
    margins = NativeEngine(net).bounds(x, y, threat_of(norm, 0.1, lower=None, upper=None), ALL).margins
    assert margins["crown"].item() == pytest.approx(least)
    assert margins["crown_ibp"].item() == pytest.approx(least)
    assert margins["ibp"].item() <= least + 1e-12
