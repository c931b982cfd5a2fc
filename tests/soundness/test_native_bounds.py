"""Attacks on the native engine's bounds: no point of the ball may fall below any of them, no loss exceed a fused one.

Random networks of every supported operation, in float64; random points, corners and projected gradient steps on each
margin. A bound is broken by anything beyond rounding.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from certtrain.bounds import NativeEngine, margin_matrix
from certtrain.models import Normalize
from certtrain.threat import threat_of

ALL = ("ibp", "crown_ibp", "crown")
CLASSES = 4
# Activations, and whether their slope jumps at 0.
KINKS = {nn.ReLU: True, nn.LeakyReLU: True, nn.Sigmoid: False, nn.Tanh: False, nn.GELU: False, nn.SiLU: False}


class Residual(nn.Module):
    """A block whose shortcut is the input or a convolution of it, added or subtracted."""

    def __init__(self, channels, out, stride, minus):
        super().__init__()
        self.a = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(out)
        self.b = nn.Conv2d(out, out, 3, padding="same")
        self.short = nn.Conv2d(channels, out, 1, stride=stride) if stride > 1 or out != channels else nn.Identity()
        self.relu = nn.ReLU()
        self.minus = minus

    def forward(self, x):
        z = self.b(self.relu(self.bn(self.a(x))))
        z = z - self.short(x) if self.minus else z + self.short(x)
        return self.relu(z)


class Preactivation(nn.Module):
    """ReLU on the input itself, functional layers, and one ReLU module used twice."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.rand(2, 1, 1))
        self.conv = nn.Conv2d(2, 2, 3, padding=1, groups=2)
        self.relu = nn.ReLU()

    def forward(self, x):
        z = 2 * (x - self.shift)
        z = z + self.conv(self.relu(z))
        z = F.avg_pool2d(F.pad(self.relu(z), (1, 1), value=0.25), 2, padding=(1, 0))
        return F.relu(z - 0.5)


def mlp():
    return nn.Sequential(
        Normalize([0.4] * 5, [0.3, 0.2, 0.5, 0.3, 0.1], (5,)),
        nn.Linear(5, 7),
        nn.BatchNorm1d(7),
        nn.ReLU(),
        nn.Linear(7, 6),
        nn.ReLU(),
        nn.Dropout(0.0),
        nn.Linear(6, CLASSES),
    )


def conv():
    return nn.Sequential(
        Normalize([0.3, 0.6], [0.2, 0.4]),
        nn.ZeroPad2d((1, 0, 0, 2)),
        nn.Conv2d(2, 3, 3, stride=2, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Conv2d(3, 4, (2, 3), dilation=(2, 1), padding=(1, 0)),
        nn.ReLU(),
        nn.AvgPool2d(2, stride=1, padding=1),
        nn.Conv2d(4, 4, 2, groups=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, CLASSES),
    )


def residual():
    return nn.Sequential(
        Normalize([0.3, 0.6], [0.2, 0.4]),
        Residual(2, 2, 1, minus=False),
        Residual(2, 3, 2, minus=True),
        nn.Flatten(),
        nn.Linear(27, CLASSES),
    )


def preactivation():
    return nn.Sequential(Preactivation(), nn.Flatten(), nn.LazyLinear(CLASSES))


def bn_last():
    """BatchNorm after the last linear layer: nothing to merge the specification with."""
    return nn.Sequential(nn.Flatten(), nn.Linear(72, 5), nn.ReLU(), nn.Linear(5, CLASSES), nn.BatchNorm1d(CLASSES))


class Scaled(nn.Module):
    """Large activations: small ones would leave every smooth function almost straight."""

    def __init__(self, factor):
        super().__init__()
        self.register_buffer("factor", torch.tensor(factor))

    def forward(self, x):
        return x * self.factor - 0.3


def smooth():
    return nn.Sequential(
        Normalize([0.3, 0.6], [0.2, 0.4]),
        nn.Conv2d(2, 3, 3, stride=2, padding=1),
        nn.GELU(),
        nn.Conv2d(3, 4, 2),
        Scaled(4.0),
        nn.Tanh(),
        nn.Conv2d(4, 4, 2, padding=1),
        Scaled(4.0),
        nn.SiLU(),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.LazyLinear(CLASSES),
    )


def leaky():
    return nn.Sequential(
        nn.Sigmoid(),
        nn.BatchNorm2d(2),
        nn.Conv2d(2, 4, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(4, 4, 3, stride=2),
        Scaled(5.0),
        nn.GELU("tanh"),
        nn.AvgPool2d(2, stride=1),
        nn.Flatten(),
        nn.LazyLinear(6),
        nn.LeakyReLU(0.0),
        nn.Linear(6, CLASSES),
    )


def pooled():
    return nn.Sequential(
        Normalize([0.3, 0.6], [0.2, 0.4]),
        nn.MaxPool2d(2, stride=1, padding=1),
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(4, 4, 2),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.LeakyReLU(0.1),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(4, CLASSES),
    )


class Branches(nn.Module):
    """Joined maps of which some read the same input, upsampling, and a mean."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(2, 3, 2, stride=2), nn.ConvTranspose2d(3, 2, 3, 2, 1, output_padding=1)
        self.relu, self.gelu = nn.ReLU(), nn.GELU()
        self.mixed = nn.Conv2d(6, 3, 3)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x):
        up = self.up(self.relu(self.down(x)))
        z = self.mixed(torch.cat([x, -x, up], 1))
        return self.head(torch.cat((self.gelu(z).mean((2, 3)), z.mean([-1, -2])), dim=-1))


RELU = {"mlp": mlp, "conv": conv, "residual": residual, "preactivation": preactivation, "bn_last": bn_last}
NETWORKS = {**RELU, "smooth": smooth, "leaky": leaky, "pooled": pooled, "branches": Branches}


def build(name, seed):
    """A network with random weights and statistics, and a batch for it."""
    torch.manual_seed(seed)
    net = NETWORKS[name]()
    x = torch.rand(4, *((5,) if name == "mlp" else (2, 6, 6)), dtype=torch.float64)
    x[0] = x[0].round()  # where clipping matters
    net(x.float())  # lazy layers
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_mean.normal_()
            module.running_var.uniform_(0.2, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return net.double(), x, torch.randint(0, CLASSES, (4,))


def freeze_on(net, x):
    """The function that is bounded in training mode: BatchNorm with the statistics of the clean batch."""
    frozen = copy.deepcopy(net).train()
    for module in frozen.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.register_forward_pre_hook(_take_statistics)
    frozen(x)
    for module in frozen.modules():
        module._forward_pre_hooks.clear()
    return frozen.eval()


def _take_statistics(module, args):
    dims = [dim for dim in range(args[0].dim()) if dim != 1]
    statistics = args[0].detach().var(dims, unbiased=False), args[0].detach().mean(dims)
    module.eval()  # its running statistics are replaced now and used from this very call on
    module.running_var, module.running_mean = statistics


def project(delta, x, threat):
    """The nearest allowed perturbations; delta is (M, B, ...)."""
    eps = threat.eps_tensor(x)
    if threat.norm == "l2":
        norms = delta.flatten(2).norm(dim=2).reshape(*delta.shape[:2], *[1] * (x.dim() - 1))
        return delta * (eps / norms.clamp_min(1e-12)).clamp(max=1)
    lower, upper = threat.box(x)
    return torch.clamp(x + delta, lower, upper) - x


def attacked_margins(net, x, y, threat, steps=12):
    """The least of each margin that random points, corners and gradient steps find, (B, K-1)."""
    count = CLASSES - 1
    functions = margin_matrix(y, CLASSES, x.dtype)
    span = threat.eps_tensor(x)

    def margins(delta):
        z = net((x + delta).flatten(0, 1)).unflatten(0, delta.shape[:2])
        return torch.einsum("bsk,mbk->mbs", functions, z)

    random = span * (2 * torch.rand(40, *x.shape, dtype=x.dtype) - 1)
    corners = span * torch.randn(40, *x.shape, dtype=x.dtype).sign()
    with torch.no_grad():
        least = margins(project(torch.cat([random, corners]), x, threat)).amin(0)
    delta = project(torch.cat([torch.zeros_like(random[:count]), random[:count]]), x, threat)
    for step in range(steps):
        delta = delta.detach().requires_grad_()
        found = margins(delta)
        least = torch.minimum(least, found.detach().amin(0))
        # Copy m of the batch goes down margin m.
        goal = torch.stack([found[m, :, m % count] for m in range(2 * count)]).sum()
        (grad,) = torch.autograd.grad(goal, delta)
        scale = 2.0 / (step + 1)
        if threat.norm == "l2":
            norms = grad.flatten(2).norm(dim=2).clamp_min(1e-12).reshape(*grad.shape[:2], *[1] * (x.dim() - 1))
            delta = project(delta.detach() - scale * span * grad / norms, x, threat)
        else:
            delta = project(delta.detach() - scale * span * grad.sign(), x, threat)
    return least


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=6, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), size=st.sampled_from([0.01, 0.1, 0.6]), each=st.booleans())
def test_no_point_of_the_ball_beats_a_bound(name, norm, training, seed, size, each):
    net, x, y = build(name, seed)
    net.train(training)
    eps = size * torch.tensor([1.0, 0.5, 0.0, 2.0], dtype=torch.float64) if each else size
    threat = threat_of(norm, eps)
    peer = freeze_on(net, x) if training else net
    with torch.no_grad():
        bounds = NativeEngine(net).bounds(x, y, threat, ALL)
    torch.testing.assert_close(bounds.clean, peer(x))
    found = attacked_margins(peer.eval(), x, y, threat)
    for method in ALL:
        slack = found - bounds.margins[method]
        assert slack.isfinite().all()
        assert slack.min() > -1e-9 * (1 + found.abs().max()), f"{method} is broken by {-slack.min():.3g}"


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=2, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    size=st.sampled_from([0.05, 0.4]),
    shared=st.booleans(),
    precision=st.sampled_from([torch.float64, torch.float32]),
)
def test_no_point_of_the_ball_beats_a_bound_through_optimised_lines(name, norm, seed, size, shared, precision):
    net, x, y = build(name, seed)
    net.eval()
    threat = threat_of(norm, size * torch.tensor([1.0, 0.5, 0.0, 2.0], dtype=torch.float64))
    found = attacked_margins(net, x, y, threat)
    engine = NativeEngine(net.to(precision), iterations=4, shared=shared, stop=False)
    margins = engine.bounds(x.to(precision), y, threat, ("crown", "crown_zero", "alpha_crown")).margins
    tolerance = 1e-9 if precision == torch.float64 else 1e-5
    for method in ("crown_zero", "alpha_crown"):
        slack = found - margins[method]
        assert slack.isfinite().all()
        assert slack.min() > -tolerance * (1 + found.abs().max()), f"{method} is broken by {-slack.min():.3g}"
        assert (margins[method] >= margins["crown"]).all()


def attacked_losses(net, x, y, threat, steps=12):
    """The greatest cross-entropy that random points, corners and gradient steps find, (B,)."""
    span = threat.eps_tensor(x)

    def losses(delta):
        z = net((x + delta).flatten(0, 1))
        return F.cross_entropy(z, y.repeat(len(delta)), reduction="none").view(len(delta), -1)

    random = span * (2 * torch.rand(40, *x.shape, dtype=x.dtype) - 1)
    corners = span * torch.randn(40, *x.shape, dtype=x.dtype).sign()
    with torch.no_grad():
        most = losses(project(torch.cat([random, corners]), x, threat)).amax(0)
    delta = project(torch.cat([torch.zeros_like(random[:1]), random[:3]]), x, threat)
    for step in range(steps):
        delta = delta.detach().requires_grad_()
        found = losses(delta)
        most = torch.maximum(most, found.detach().amax(0))
        (grad,) = torch.autograd.grad(found.sum(), delta)
        if threat.norm == "l2":
            grad = grad / grad.flatten(2).norm(dim=2).clamp_min(1e-12).reshape(*grad.shape[:2], *[1] * (x.dim() - 1))
        else:
            grad = grad.sign()
        delta = project(delta.detach() + 2.0 / (step + 1) * span * grad, x, threat)
    return most


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    size=st.sampled_from([0.01, 0.1, 0.6]),
    each=st.booleans(),
    scale=st.sampled_from([1.0, 100.0]),
)
def test_no_point_of_the_ball_beats_the_fused_loss(name, norm, training, seed, size, each, scale):
    net, x, y = build(name, seed)
    net.train(training)
    with torch.no_grad():
        for parameter in list(net.parameters())[-2:]:  # of the last layer: large logits
            parameter *= scale
    eps = size * torch.tensor([1.0, 0.5, 0.0, 2.0], dtype=torch.float64) if each else size
    threat = threat_of(norm, eps)
    peer = freeze_on(net, x).eval() if training else net
    engine = NativeEngine(net)
    with torch.no_grad():
        bounds = {method: engine.fused_loss(x, y, threat, method).loss for method in ALL}
    found = attacked_losses(peer, x, y, threat)
    for method, loss in bounds.items():
        assert loss.isfinite().all()
        worst = (found - loss).max()
        assert worst < 1e-9 * (1 + found.abs().max()), f"{method} is broken by {worst:.3g}"


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", sorted(set(NETWORKS) - set(RELU)))
def test_inputs_of_other_activations_stay_inside_their_boxes(name, norm):
    net, x, y = build(name, 7)
    net.eval()
    boxes = NativeEngine(net).bounds(x, y, threat_of(norm, 0.2), ("ibp",)).pre_activations
    assert len(boxes) == sum(type(module) in KINKS for module in net.modules()) > 0
    seen = {}
    for box in boxes:
        module = net.get_submodule(box.name)
        assert box.kink == KINKS[type(module)]
        module.register_forward_pre_hook(lambda module, args, name=box.name: seen.update({name: args[0]}))
    random = 2 * torch.rand(100, *x.shape, dtype=x.dtype) - 1
    with torch.no_grad():
        net((x + project(0.2 * random * (8 if norm == "l2" else 1), x, threat_of(norm, 0.2))).flatten(0, 1))
    for box in boxes:
        values = seen[box.name].unflatten(0, (100, len(x)))
        assert (values >= box.lower - 1e-9).all(), box.name
        assert (values <= box.upper + 1e-9).all(), box.name


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", RELU)
def test_activations_stay_inside_their_boxes(name, norm, monkeypatch):
    net, x, y = build(name, 7)
    net.eval()
    threat = threat_of(norm, 0.2)
    boxes = NativeEngine(net).bounds(x, y, threat, ("ibp",)).pre_activations
    seen = []
    monkeypatch.setattr(F, "relu", lambda z, inplace=False: seen.append(z) or z.clamp(min=0))
    random = 2 * torch.rand(100, *x.shape, dtype=x.dtype) - 1
    points = x + project(0.2 * random * (8 if norm == "l2" else 1), x, threat)
    with torch.no_grad():
        net(points.flatten(0, 1))
    assert len(seen) == len(boxes)
    for box, values in zip(boxes, seen):
        values = values.unflatten(0, (100, len(x)))
        assert (values >= box.lower - 1e-9).all(), box.name
        assert (values <= box.upper + 1e-9).all(), box.name


def test_the_attack_is_strong_enough_to_find_the_minimum_of_an_affine_network():
    torch.manual_seed(0)
    net = nn.Linear(5, CLASSES).double()
    x, y = torch.rand(4, 5, dtype=torch.float64), torch.randint(0, CLASSES, (4,))
    for norm in ("linf", "l2"):
        threat = threat_of(norm, 0.1)
        least = NativeEngine(net).bounds(x, y, threat, ("ibp",)).margins["ibp"]
        torch.testing.assert_close(attacked_margins(net, x, y, threat), least)
        two = nn.Linear(5, 2).double()  # with two classes the fused loss is attained
        loss = NativeEngine(two).fused_loss(x, y % 2, threat).loss
        torch.testing.assert_close(attacked_losses(two, x, y % 2, threat), loss)
