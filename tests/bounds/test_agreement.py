"""Two engines, translating the network each on its own, give the same bounds and gradients; no attack beats either."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from certtrain.attacks import margin, pgd_margins
from certtrain.bounds import lirpa_compat
from certtrain.bounds.auto_lirpa import AutoLirpaEngine
from certtrain.bounds.auto_lirpa import _default_dtype as lirpa_default_dtype
from certtrain.bounds.native import NativeEngine
from certtrain.models.normalize import Normalize
from certtrain.threat import threat_of

BOTH = ("ibp", "crown_ibp", "crown")
# auto_LiRPA has two ways through convolutions, for square images and kernels and for others.
IMAGES = ((3, 8, 8), (3, 6, 8))


class Residual(nn.Module):
    """Shortcuts, a reused ReLU, a difference, BatchNorm after it and beside another reader of its convolution."""

    def __init__(self):
        super().__init__()
        self.normalize = Normalize([0.4, 0.5, 0.3], [0.2, 0.3, 0.25], (3, 8, 8))
        self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.down = nn.Conv2d(4, 6, 1, stride=2)
        self.one, self.two = nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.after = nn.BatchNorm2d(6, affine=False)
        self.last, self.second, self.beside = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.Identity()
        self.relu = nn.ReLU()
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        x = self.relu(self.norm(self.stem(self.normalize(x))))
        x = self.down(x) - self.two(self.relu(self.one(x)))
        x = F.relu(self.after(x)) + x
        z = self.last(x)
        x = F.relu(self.beside(z)) + self.second(z)
        return self.head(F.adaptive_avg_pool2d(self.relu(x), 1).flatten(1))


class Pooled(nn.Module):
    def forward(self, x):
        return F.adaptive_avg_pool2d(F.avg_pool2d(x, 2, 1, padding=1), (1, None)).view(x.size(0), -1)


def convolutional(body, std=(0.2, 0.3, 0.25)):
    def build():
        first = [Normalize([0.4, 0.5, 0.3], std, (3, 8, 8)), nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()]
        return nn.Sequential(*first, *body(), nn.Flatten(), nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 5))

    return build


NETWORKS = {
    "mlp": lambda: nn.Sequential(
        nn.Flatten(), nn.LazyLinear(20), nn.ReLU(), nn.Linear(20, 12, bias=False), nn.ReLU(), nn.Linear(12, 5)
    ),
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(5)),
    "normalized_mlp": lambda: nn.Sequential(
        Normalize([0.4, 0.5, 0.3], [0.2, 0.3, 0.25], (3, 8, 8)),
        nn.Flatten(),
        nn.LazyLinear(16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Linear(16, 16),
        nn.ReLU(),
        nn.BatchNorm1d(16, affine=False),
        nn.Linear(16, 5),
    ),
    "strided": convolutional(lambda: [nn.Conv2d(4, 6, (4, 3), (2, 2), (1, 1)), nn.Identity(), nn.ReLU()]),
    "even_std": convolutional(lambda: [nn.Conv2d(4, 6, 4, 3), nn.ReLU()], std=(0.3, 0.3, 0.3)),
    "rectangular": convolutional(lambda: [nn.Conv2d(4, 6, (2, 4), (1, 2), (0, 2)), nn.ReLU()]),
    "grouped": convolutional(lambda: [nn.Conv2d(4, 6, 3, groups=2, padding=1), nn.ReLU()]),
    "dilated": convolutional(lambda: [nn.Conv2d(4, 6, 3, dilation=2), nn.Dropout(0.5), nn.ReLU()]),
    "same": convolutional(lambda: [nn.Conv2d(4, 6, (4, 3), padding="same"), nn.ReLU()]),
    "padded": convolutional(lambda: [nn.ZeroPad2d((1, 0, 2, 1)), nn.Conv2d(4, 6, 3, 2), nn.ReLU()]),
    "pooled": convolutional(lambda: [nn.AvgPool2d(2), nn.Conv2d(4, 6, 3), nn.ReLU(), Pooled()]),
    "global": convolutional(lambda: [nn.AdaptiveAvgPool2d(1)]),
    "residual": Residual,
}


def prepare(name, dtype, image=IMAGES[0]):
    """The network in eval mode, with BatchNorm statistics of its own, some examples and their classes."""
    torch.manual_seed(sum(map(ord, name)))
    network = NETWORKS[name]().eval()
    network(torch.zeros(1, *image))  # sizes of lazy layers
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                module.weight.data.normal_(0.5)
                module.bias.data.normal_(0, 0.2)
    x = torch.rand(5, *image, dtype=dtype)
    x[0] = (x[0] > 0.5).to(dtype)
    return network.to(dtype), x, torch.arange(5)


# A radius per example, from none to a large one.
THREATS = (threat_of("linf", torch.linspace(0, 0.1, 5)), threat_of("l2", torch.linspace(0, 0.5, 5)))


def assert_agree(ours, theirs, tolerance):
    scale = theirs.abs().max()
    assert (ours - theirs).abs().max() <= tolerance * scale, ((ours - theirs).abs().max() / scale).item()


@pytest.mark.parametrize(
    ("dtype", "image"), [(torch.float32, IMAGES[0]), (torch.float64, IMAGES[0]), (torch.float64, IMAGES[1])]
)
@pytest.mark.parametrize("name", NETWORKS)
def test_bounds_agree(name, dtype, image):
    network, x, y = prepare(name, dtype, image)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-9
    native, lirpa = NativeEngine(network), AutoLirpaEngine(network)
    for threat in THREATS:
        ours, theirs = native.bounds(x, y, threat, BOTH), lirpa.bounds(x, y, threat, BOTH)
        assert torch.equal(theirs.clean, network(x))
        for method in BOTH:
            assert theirs.margins[method].dtype == dtype
            assert_agree(ours.margins[method], theirs.margins[method], tolerance)
        assert [pre.name for pre in ours.pre_activations] == [pre.name for pre in theirs.pre_activations]
        for one, other in zip(ours.pre_activations, theirs.pre_activations):
            assert_agree(one.lower, other.lower, tolerance)
            assert_agree(one.upper, other.upper, tolerance)


@pytest.mark.parametrize(("name", "image"), [*zip(NETWORKS, itertools.cycle(IMAGES))])
def test_no_attack_beats_a_bound(name, image):
    network, x, y = prepare(name, torch.float64, image)
    y = network(x).argmax(1)
    engine = AutoLirpaEngine(network)
    for threat in THREATS:
        bounds = engine.bounds(x, y, threat, (*BOTH, "alpha_crown"))
        found = pgd_margins(network, x, y, threat, steps=20, restarts=3)
        for method, margins in bounds.margins.items():
            assert (margins.min(1).values <= found.margin + 1e-9).all(), method
        # Every margin, not only the least, at random points of the ball.
        share = torch.rand(64, *x.shape, dtype=x.dtype) * 2 - 1
        eps = threat.eps_tensor(x)
        if threat.norm == "l2":
            share = share / share.flatten(2).norm(dim=2)[:, :, None, None, None]
            points = x + eps * share
        else:
            lower, upper = threat.box(x)
            points = torch.minimum(torch.maximum(x + eps * share.sign(), lower), upper)
        with torch.no_grad():
            z = network(points.flatten(0, 1)).unflatten(0, (64, 5))
        true = z.gather(2, y.expand(64, 5)[:, :, None]) - z
        others = torch.ones_like(z[0], dtype=torch.bool).scatter(1, y[:, None], False)
        for method, margins in bounds.margins.items():
            assert (margins <= true[:, others].unflatten(1, margins.shape).amin(0) + 1e-9).all(), method


@pytest.mark.parametrize("name", ["mlp", "strided", "pooled", "residual", "normalized_mlp"])
def test_optimised_slopes_tighten_crown(name):
    network, x, y = prepare(name, torch.float64)
    for threat in (threat_of("linf", 0.08), threat_of("l2", 0.6)):
        margins = AutoLirpaEngine(network).bounds(x, y, threat, ("crown", "alpha_crown")).margins
        assert (margins["alpha_crown"] >= margins["crown"] - 1e-9).all()
        assert (margins["alpha_crown"] - margins["crown"]).mean() > 1e-4


def robust_loss(engine, x, y, threat, method):
    bounds = engine.bounds(x, y, threat, (method,))
    zeros = torch.zeros_like(bounds.margins[method][:, :1])
    robust = F.cross_entropy(torch.cat([zeros, -bounds.margins[method]], 1), torch.zeros_like(y))
    return 0.5 * F.cross_entropy(bounds.clean, y) + 0.5 * robust


@pytest.mark.parametrize("method", ["ibp", "crown_ibp"])
@pytest.mark.parametrize("name", ["mlp", "strided", "grouped", "same", "pooled", "residual", "normalized_mlp"])
def test_loss_and_gradients_agree(name, method):
    """In float64: float32 gradients of the two orders of summation differ by more than 1e-5 in single weights."""
    network, x, y = prepare(name, torch.float64)
    network.train()
    for module in network.modules():  # dropout is refused in training mode
        if isinstance(module, nn.Dropout):
            module.eval()
    state = {key: value.clone() for key, value in network.state_dict().items()}
    found = {}
    for engine in (NativeEngine(network), AutoLirpaEngine(network)):
        network.load_state_dict(state)
        for threat in (threat_of("linf", 0.02), threat_of("l2", 0.1)):
            loss = robust_loss(engine, x, y, threat, method)
            gradients = torch.autograd.grad(loss, list(network.parameters()))
            found.setdefault(threat.norm, []).append((loss, *gradients))
        found.setdefault("running statistics", []).append([buffer.clone() for buffer in network.buffers()])
    for ours, theirs in found.values():
        for one, other in zip(ours, theirs):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-9)


def test_loss_and_gradients_agree_in_float32():
    network, x, y = prepare("strided", torch.float32)
    threat = threat_of("linf", 0.02)
    gradients = []
    for engine in (NativeEngine(network), AutoLirpaEngine(network)):
        loss = robust_loss(engine, x, y, threat, "crown_ibp")
        gradients.append((loss, *torch.autograd.grad(loss, list(network.parameters()))))
    for one, other in zip(*gradients):
        assert_agree(one, other, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["mlp", "linear", "strided", "pooled", "residual", "normalized_mlp"])
def test_fused_losses_agree(name, dtype):
    network, x, y = prepare(name, dtype)
    native, lirpa = NativeEngine(network), AutoLirpaEngine(network)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-9
    for threat in THREATS:
        for method in BOTH:
            ours, theirs = (engine.fused_loss(x, y, threat, method) for engine in (native, lirpa))
            assert theirs.loss.dtype == dtype
            assert_agree(ours.loss, theirs.loss, tolerance)
            assert_agree(ours.margins["ibp"], theirs.margins["ibp"], tolerance)
            assert torch.equal(theirs.clean, network(x))
            assert [pre.name for pre in ours.pre_activations] == [pre.name for pre in theirs.pre_activations]
            if method != "crown" and dtype == torch.float64:
                gradients = [torch.autograd.grad(f.loss.sum(), list(network.parameters())) for f in (ours, theirs)]
                for one, other in zip(*gradients):
                    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def test_optimised_slopes_tighten_the_fused_loss():
    network, x, y = prepare("mlp", torch.float64)
    engine, threat = AutoLirpaEngine(network), threat_of("linf", 0.08)
    crown, alpha = (engine.fused_loss(x, y, threat, method).loss for method in ("crown", "alpha_crown"))
    assert (alpha <= crown + 1e-9).all()
    assert (crown - alpha).mean() > 1e-4
    assert not alpha.requires_grad
    found = pgd_margins(network, x, y, threat, steps=20, restarts=2, loss="cross_entropy")
    assert (alpha >= F.cross_entropy(network(found.x), y, reduction="none") - 1e-9).all()


class LossOfLogits(nn.Module):
    """Xu et al.'s fused output sum_j exp(z_j - z_y), in operations that auto_LiRPA reads on current torch."""

    def __init__(self, network, onehot):
        super().__init__()
        self.network = network
        self.register_buffer("onehot", onehot)

    def forward(self, x):
        z = self.network(x)
        return torch.exp(z - (z * self.onehot).sum(1, keepdim=True)).sum(1, keepdim=True)


@pytest.mark.parametrize("name", ["mlp", "strided"])
def test_the_library_bounds_its_own_exp_alike(name):
    """The library does not see that z_j and z_y share the last layer: its chords are over wider intervals, as ours are
    after an Identity. Nor that z_y - z_y = 0: for 1 it has the chord's height over [-w, w] at 0, cosh(w)."""
    lirpa = lirpa_compat.load()
    network, x, y = prepare(name, torch.float64)
    if name == "strided":  # normalisation fails there in CROWN
        network = network[1:]
    model = LossOfLogits(network, F.one_hot(y, 5).double())
    threat = threat_of("linf", 0.03)
    with lirpa_default_dtype(torch.float64):
        bounded = lirpa_compat.bounded_module_class()(model, x, {"conv_mode": "matrix"})
        lower, upper = threat.box(x)
        ball = lirpa.BoundedTensor(x, lirpa.PerturbationLpNorm(norm=float("inf"), x_L=lower, x_U=upper))
        bounded.compute_bounds(x=(ball,), method=None, IBP=True)
        _, fused = bounded.compute_bounds(x=None, method="backward", IBP=False, bound_lower=False)
    apart = nn.Sequential(network, nn.Identity())
    ours = NativeEngine(apart).fused_loss(x, y, threat).loss
    ending = nn.Sequential(network, nn.ReLU())
    logits = NativeEngine(ending).bounds(x, y, threat, ("ibp",)).pre_activations[-1]
    width = (logits.upper - logits.lower).gather(1, y[:, None])
    torch.testing.assert_close(ours.exp() - 1 + width.squeeze(1).cosh(), fused.squeeze(1), rtol=1e-8, atol=1e-8)
    merged = AutoLirpaEngine(network).fused_loss(x, y, threat).loss
    assert (merged <= ours + 1e-9).all()
    assert (merged < ours - 1e-4).any()


def test_margin_of_the_attack_is_that_of_the_bounds():
    network, x, y = prepare("mlp", torch.float64)
    bounds = AutoLirpaEngine(network).bounds(x, y, threat_of("linf", 0.0), BOTH)
    for margins in bounds.margins.values():
        torch.testing.assert_close(margins.min(1).values, margin(network(x), y))
