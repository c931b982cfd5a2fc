"""What the engine must leave alone, must notice and must refuse; its bounds are in test_agreement.py."""

import subprocess
import sys
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from certtrain.bounds import lirpa_compat
from certtrain.bounds.auto_lirpa import CACHED_SHAPES, AutoLirpaEngine
from certtrain.errors import UserError
from certtrain.models.normalize import Normalize
from certtrain.threat import threat_of

LINF = threat_of("linf", 0.02)

METHODS = AutoLirpaEngine.methods


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        Normalize([0.4, 0.5], [0.2, 0.3]),
        *(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3)),
    ).eval()


def batch(n=4, dtype=torch.float32):
    generator = torch.Generator().manual_seed(n)
    return torch.rand(n, 2, 6, 6, generator=generator).to(dtype), torch.randint(3, (n,), generator=generator)


def test_hand_case():
    """relu(x1 + x2) - relu(x1 - x2) as the margin, l-inf 0.5 around (0.5, 0.3) without a range; see test_native.py."""
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2)).double()
    net[0].weight.data = torch.tensor([[1.0, 1.0], [1.0, -1.0]]).double()
    net[2].weight.data, net[2].bias.data = (
        torch.tensor([[1.0, 1.0], [-1.0, 2.0]]).double(),
        torch.tensor([0, 0.5]).double(),
    )
    x = torch.tensor([[0.5, 0.3]], dtype=torch.float64)
    threat = threat_of("linf", 0.5, lower=None, upper=None)
    bounds = AutoLirpaEngine(net).bounds(x, torch.tensor([0]), threat, METHODS)
    assert bounds.margins["ibp"].item() == pytest.approx(-1.7)
    assert bounds.margins["crown_ibp"].item() == bounds.margins["crown"].item() == pytest.approx(-1.5)
    # alpha z1 with alpha in [0, 1] under relu(z1): nothing beats 1 here.
    assert -1.5 - 1e-9 <= bounds.margins["alpha_crown"].item() <= -0.5
    (pre,) = bounds.pre_activations
    torch.testing.assert_close(pre.lower, torch.tensor([[-0.2, -0.8]]).double())
    torch.testing.assert_close(pre.upper, torch.tensor([[1.8, 1.2]]).double())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_under_a_dispatch_mode_the_bounds_are_the_same(network, norm):
    """Certifiers measure their memory by one, and torch then makes no subclass of a tensor that came through it."""

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    x, y = batch()
    expected = AutoLirpaEngine(network).bounds(x, y, threat_of(norm, 0.02), METHODS).margins
    with Mode():
        found = AutoLirpaEngine(network).bounds(x, y, threat_of(norm, 0.02), METHODS).margins
    for method in METHODS:
        assert torch.equal(found[method], expected[method])


def test_batch_sizes_and_examples_do_not_mix(network):
    engine = AutoLirpaEngine(network)
    x, y = batch(7)
    for threat in (LINF, threat_of("l2", 0.1)):
        whole = engine.bounds(x, y, threat, ("ibp", "crown_ibp", "crown"))
        for part in (slice(0, 1), slice(2, 7), slice(0, 3)):
            some = engine.bounds(x[part], y[part], threat, ("crown", "ibp", "crown_ibp"))
            assert list(some.margins) == ["crown", "ibp", "crown_ibp"]
            for method, margins in some.margins.items():
                torch.testing.assert_close(margins, whole.margins[method][part], rtol=1e-4, atol=1e-5)
            for one, all_ in zip(some.pre_activations, whole.pre_activations):
                torch.testing.assert_close(one.lower, all_.lower[part], rtol=1e-4, atol=1e-5)


def test_leaves_the_network_and_torch_as_they_were(network):
    for frozen in network[1].parameters():
        frozen.requires_grad_(False)
    for parameter in network[4].parameters():
        parameter.grad = torch.ones_like(parameter)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    wanted = [parameter.requires_grad for parameter in network.parameters()]
    modules, rng = list(network.modules()), torch.get_rng_state()
    engine = AutoLirpaEngine(network)
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            bounds = engine.bounds(*batch(), LINF, METHODS)
            assert (bounds.margins["alpha_crown"] >= bounds.margins["crown"] - 1e-6).all()
            assert not bounds.margins["alpha_crown"].requires_grad
            assert torch.is_grad_enabled() == (mode is torch.enable_grad)
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(torch.get_rng_state(), rng)
    assert list(network.modules()) == modules
    assert not any(module.training or module._forward_pre_hooks for module in modules)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert list(network.state_dict()) == list(state)
    assert [parameter.requires_grad for parameter in network.parameters()] == wanted
    assert all((parameter.grad == 1).all() for parameter in network[4].parameters())
    assert all(p.grad is None for module in (network[1], network[7]) for p in module.parameters())


def test_sees_updates_without_building_again(network):
    engine = AutoLirpaEngine(network)
    x, y = batch()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    before = engine.bounds(x, y, LINF)
    F.softplus(-before.margins["crown_ibp"]).sum().backward()
    optimizer.step()
    network[2].running_mean.add_(0.1)
    copies = list(engine._copies.values())
    after = engine.bounds(x, y, LINF)
    assert list(engine._copies.values()) == copies
    fresh = AutoLirpaEngine(network).bounds(x, y, LINF)
    for method in ("ibp", "crown_ibp"):
        assert torch.equal(after.margins[method], fresh.margins[method])
        assert not torch.allclose(after.margins[method], before.margins[method])
    assert torch.equal(after.clean, network(x))


def test_keeps_nothing_of_a_batch(network):
    engine = AutoLirpaEngine(network)
    engine.bounds(*batch(), LINF, METHODS)
    (copy,) = engine._copies.values()
    before = [dict(vars(node)) for node in copy.bounded._modules.values()]
    engine.bounds(*batch(3), LINF, METHODS)
    for node, fresh in zip(copy.bounded._modules.values(), before):
        assert vars(node).keys() == fresh.keys()
        for tensor in (*node.buffers(), getattr(node, "lower", None), getattr(node, "forward_value", None)):
            assert tensor is None or not torch.is_tensor(tensor) or not tensor.requires_grad


def test_follows_dtype_and_size_and_forgets_the_oldest(network):
    engine = AutoLirpaEngine(network)
    single = engine.bounds(*batch(), LINF)
    network.double()
    double = engine.bounds(*batch(dtype=torch.float64), LINF)
    assert double.margins["ibp"].dtype == torch.float64
    torch.testing.assert_close(double.margins["ibp"].float(), single.margins["ibp"], rtol=1e-4, atol=1e-5)
    pooling = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
    engine = AutoLirpaEngine(pooling)
    for size in range(4, 6 + CACHED_SHAPES):
        engine.bounds(torch.rand(2, 1, size, size), torch.tensor([0, 1]), LINF, ("ibp",))
    assert len(engine._copies) == CACHED_SHAPES


def test_mean_over_the_image_is_average_pooling():
    class Mean(nn.Module):
        def __init__(self, mean):
            super().__init__()
            torch.manual_seed(1)
            self.mean, self.conv, self.head = mean, nn.Conv2d(2, 4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.mean(self.conv(x).relu()))

    x, y = batch()
    spellings = (
        lambda x: torch.flatten(F.adaptive_avg_pool2d(x, 1), 1),
        lambda x: x.mean((2, 3)),
        lambda x: torch.mean(x, dim=[-2, -1]),
        lambda x: x.mean((2, 3), keepdim=True).reshape(x.shape[0], -1),
    )
    networks = [Mean(mean) for mean in spellings]
    found = [AutoLirpaEngine(network).bounds(x, y, LINF, ("crown",)).margins["crown"] for network in networks]
    for margins in found[1:]:
        torch.testing.assert_close(margins, found[0])


class Forward(nn.Module):
    """A small network around any function."""

    def __init__(self, function):
        super().__init__()
        self.function, self.conv, self.head = function, nn.Conv2d(2, 2, 3, padding=1), nn.Linear(72, 3)

    def forward(self, x):
        return self.head(self.function(self.conv, x).flatten(1))


class Pretending(nn.Conv2d):
    def forward(self, x):
        return super().forward(x).exp()


@pytest.mark.parametrize(
    ("network", "named"),
    [
        (lambda: Forward(lambda conv, x: torch.sigmoid(conv(x))), "sigmoid"),
        (lambda: Forward(lambda conv, x: F.dropout(conv(x))), "dropout"),
        (lambda: Forward(lambda conv, x: conv(x) * x), "mul"),
        (lambda: Forward(lambda conv, x: conv(x) + 1.0), "add"),
        (lambda: Forward(lambda conv, x: torch.add(conv(x), x, alpha=2)), "add"),
        (lambda: Forward(lambda conv, x: conv(x).view(-1, 72)[:, :72].reshape(-1, 2, 6, 6)), "view|getitem|reshape"),
        (lambda: Forward(lambda conv, x: F.avg_pool2d(conv(x), 3, 1, 1, count_include_pad=False)), "avg_pool2d"),
        (lambda: Forward(lambda conv, x: F.max_pool2d(conv(x), 3, 1, 1)), "max_pool2d"),
        (lambda: nn.Sequential(nn.Sequential(nn.Conv2d(2, 3, 6), nn.Tanh()), nn.Flatten()), r"0\.1 \(Tanh"),
        (lambda: nn.Sequential(Pretending(2, 3, 6), nn.Flatten()), r"0\.conv2d"),
        (lambda: nn.Sequential(nn.Conv2d(2, 3, 6, padding=1, padding_mode="circular"), nn.Flatten()), "circular"),
        (lambda: nn.Sequential(nn.ConstantPad2d(1, 0.5), nn.Flatten(), nn.Linear(128, 3)), r"0 \(ConstantPad2d"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(72, 3)), r"1 \(Dropout\) is in training"),
        (lambda: nn.Sequential(nn.Conv2d(2, 3, 6)), "output"),
        (lambda: nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten()).eval(), r"0 \(BatchNorm2d"),
    ],
)
def test_refuses_by_name_what_it_cannot_bound(network, named):
    network = network()  # the engine does not keep it alive
    with pytest.raises(UserError, match=named) as caught:
        AutoLirpaEngine(network).bounds(*batch(), LINF)
    assert caught.value.where == "bounds=auto_lirpa"
    assert caught.value.fix
    if named == "max_pool2d":  # a cascade meets this engine in its last stage
        assert "certifier.cascade.stages=[ibp,crown_ibp,crown]" in caught.value.fix


def test_refuses_an_l2_ball_that_meets_a_relu_before_a_layer():
    network = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(72, 3))
    AutoLirpaEngine(network).bounds(*batch(), LINF)
    with pytest.raises(UserError, match="1 \\(relu\\)"):
        AutoLirpaEngine(network).bounds(*batch(), threat_of("l2", 0.1))


def test_notices_what_torch_fx_does_not_see():
    class Hidden(nn.Sequential):
        def forward(self, x):
            return super().forward(x)

        def __call__(self, x):  # what fx traces is forward
            return super().__call__(x) * 2

    network = Hidden(nn.Flatten(), nn.Linear(72, 3))
    with pytest.raises(UserError, match="logits"):
        AutoLirpaEngine(network).bounds(*batch(), LINF)


def test_unknown_method_names_its_neighbour(network):
    with pytest.raises(UserError, match="no method 'crown-ibp'") as caught:
        AutoLirpaEngine(network).bounds(*batch(), LINF, ("crown-ibp",))
    assert "crown_ibp" in caught.value.fix


def test_import_leaves_warnings_and_logging_alone():
    code = (
        "import logging, sys, torch, warnings\n"
        "before = list(warnings.filters), list(logging.getLogger().handlers), logging.root.manager.disable\n"
        "from certtrain.bounds.lirpa_compat import load\n"
        "assert load().__version__ and 'numpy.lib.arraysetops' not in sys.modules\n"
        "assert before == (list(warnings.filters), logging.getLogger().handlers, logging.root.manager.disable)\n"
    )
    done = subprocess.run([sys.executable, "-W", "default", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("missing", ["auto_LiRPA", "appdirs"])
def test_says_how_to_install_what_is_missing(monkeypatch, network, missing):
    for name in [name for name in sys.modules if name.partition(".")[0] == "auto_LiRPA"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError) as caught:
        AutoLirpaEngine(network)
    assert "pip install --no-deps auto_LiRPA==0.3 && pip install appdirs setuptools tqdm" in caught.value.fix
    assert missing in caught.value.what


def test_is_quiet(network, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AutoLirpaEngine(network).bounds(*batch(), LINF, METHODS)
    assert capfd.readouterr() == ("", "")


def test_version_is_that_of_the_library(network):
    engine = AutoLirpaEngine(network)
    assert (engine.name, engine.methods) == ("auto_lirpa", ("ibp", "crown_ibp", "crown", "alpha_crown"))
    assert engine.version == lirpa_compat.version()


def test_the_recursion_limit_is_pythons_own_but_within_the_engines_work(network):
    """At the 1,000,000 that auto_LiRPA sets when it is imported, a file that is nested without end ends the process."""
    code = (
        "import sys, json; limit = sys.getrecursionlimit()\n"
        "from certtrain.bounds import lirpa_compat\n"
        "lirpa_compat.load(); assert sys.getrecursionlimit() == limit\n"
        "try: json.loads('[' * 200_000)\n"
        "except RecursionError: print('refused')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "refused\n", done.stderr
    limit = sys.getrecursionlimit()
    AutoLirpaEngine(network).bounds(*batch(), LINF)
    assert sys.getrecursionlimit() == limit
    with lirpa_compat.deep_recursion():
        assert sys.getrecursionlimit() >= lirpa_compat.RECURSION
