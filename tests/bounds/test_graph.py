"""What the engine accepts, how it names things, and what it leaves alone."""

import copy
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from certtrain.bounds import NativeEngine
from certtrain.bounds.graph import Graph
from certtrain.bounds.lirpa_network import SUPPORTED
from certtrain.errors import UserError
from certtrain.models import Normalize
from certtrain.threat import threat_of


class Net(nn.Module):
    """Layers in a block, and a forward given from outside."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.block = nn.Module()
        self.block.fc = nn.Linear(4, 4)
        self.relu = nn.ReLU()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self._forward = forward

    def forward(self, x):
        return self._forward(self, x)


class Block(nn.Module):
    def forward(self, x):
        return F.relu(x) + x.relu()


def bound(net, training=False):
    net.train(training)
    return NativeEngine(net).bounds(torch.rand(3, 4), torch.tensor([0, 1, 2]), threat_of("linf", 0.1))


def test_nodes_are_named_by_path_and_a_reused_module_is_two_nodes():
    net = nn.Sequential(nn.Linear(4, 4), nn.Sequential(Block()))
    net.append(nn.Linear(4, 4))
    engine = NativeEngine(net)
    bounds = engine.bounds(torch.rand(3, 4), torch.tensor([0, 1, 2]), threat_of("linf", 0.1))
    assert [box.name for box in bounds.pre_activations] == ["1.0.relu", "1.0.relu#2"]
    reused = bound(Net(lambda n, x: n.relu(n.block.fc(n.relu(n.block.fc(x))))))
    assert [box.name for box in reused.pre_activations] == ["relu", "relu#2"]
    assert (reused.pre_activations[0].upper != reused.pre_activations[1].upper).any()


@pytest.mark.parametrize(
    ("net", "path"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Identity(), nn.Softsign())), r"1\.1 \(Softsign\)"),
        (Net(lambda n, x: F.dropout(n.block.fc(x), 0.5, n.training)), r"dropout"),
        (Net(lambda n, x: n.block.fc(x).exp()), r"exp"),
        (Net(lambda n, x: F.batch_norm(x, n.mean, n.mean), mean=None), r"batch_norm"),
        (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), r"1 \(LayerNorm\) has no bound: it divides by a deviation"),
        (nn.Sequential(nn.GroupNorm(2, 4)), r"0 \(GroupNorm\) has no bound: .* BatchNorm in eval mode"),
        (Net(lambda n, x: F.layer_norm(n.block.fc(x), (4,))), r"layer_norm\) has no bound: it divides"),
        (Net(lambda n, x: F.group_norm(n.block.fc(x), 2)), r"group_norm\) has no bound: it divides"),
        (nn.Sequential(nn.PReLU()), r"0 \(PReLU\) has no bound: its learned slope may leave \[0, 1\)"),
    ],
)
def test_an_operation_without_a_rule_is_named(net, path):
    with pytest.raises(UserError, match=path) as caught:
        NativeEngine(net)
    assert "Conv2d" in caught.value.fix
    assert "auto_lirpa" not in caught.value.fix


IMAGE_LAYERS = {
    "Linear": lambda: nn.Linear(4, 4),
    "Conv2d": lambda: nn.Conv2d(2, 3, 3, padding=1, groups=1),
    "BatchNorm1d": lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(32)),
    "BatchNorm2d": lambda: nn.BatchNorm2d(2),
    "ReLU": nn.ReLU,
    "sums and differences of tensors": lambda: Net(lambda n, x: (x + n.relu(x)) - torch.sub(x, n.relu(x))),
    "AvgPool2d": lambda: nn.AvgPool2d(2),
    "AdaptiveAvgPool2d": lambda: nn.AdaptiveAvgPool2d((2, 1)),
    "mean over both image dimensions": lambda: Net(lambda n, x: x.mean((2, 3)) + torch.mean(x, (-1, -2))),
    "Flatten": nn.Flatten,
    "ZeroPad2d": lambda: nn.ZeroPad2d((0, 1, 2, 1)),
    "Normalize": lambda: Normalize((0.4, 0.5), (0.2, 0.3)),
    "Identity": nn.Identity,
    "Dropout in eval mode": lambda: nn.Dropout(0.5),
}


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_what_the_other_engine_bounds_is_bounded_here(norm):
    """So that no refusal needs to name it as a way out."""
    assert set(IMAGE_LAYERS) == set(SUPPORTED.split(", "))
    for make in IMAGE_LAYERS.values():
        net = nn.Sequential(make(), nn.Flatten(), nn.LazyLinear(3)).eval()
        x = torch.rand(2, 2, 4, 4)
        net(x)
        found = NativeEngine(net).bounds(x, torch.tensor([0, 1]), threat_of(norm, 0.1), ("ibp", "crown"))
        assert all(margins.isfinite().all() for margins in found.margins.values())


class Loud(nn.Linear):
    """A subclass may compute anything."""

    def forward(self, x):
        return 2 * super().forward(x)


def hooked():
    layer = nn.Linear(4, 4)
    layer.register_forward_hook(lambda module, args, out: 2 * out)
    return layer


def patched():
    layer = nn.Linear(4, 4)
    layer.forward = lambda x: 2 * x
    return layer


@pytest.mark.parametrize("make", [lambda: Loud(4, 4), hooked, patched])
def test_a_layer_that_is_not_what_its_class_says_is_refused(make):
    with pytest.raises(UserError):
        NativeEngine(nn.Sequential(nn.Linear(4, 4), make(), nn.ReLU(), nn.Linear(4, 3)))


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (Net(lambda n, x: x.t() if x.sum() > 0 else x), "traced"),
        (Net(lambda n, x: (x, x)), "tuple"),
        (Net(lambda n, x: n.inplace(x) + x, inplace=nn.ReLU(inplace=True)), "in place"),
        (Net(lambda n, x: F.relu(x.view(-1, 4), inplace=True) + x), "in place"),
        (Net(lambda n, x: x.add_(1) + x), "in place"),
    ],
)
def test_graphs_that_would_be_bounded_wrongly_are_refused(net, message):
    with pytest.raises(UserError, match=message):
        NativeEngine(net)


@pytest.mark.parametrize(
    "forward",
    [
        lambda n, x: n.block.fc(x) if x.shape[0] > 1 else x,
        lambda n, x: n.block.fc(x) if x.dim() == 2 and x.size(1) % 2 == 0 else x,
        lambda n, x: sum(n.block.fc(x) for _ in range(x.shape[1])),
        lambda n, x: sum(n.block.fc(x) for _ in x.size()),
        lambda n, x: n.block.fc(x) * int(x.size(1)),
    ],
)
def test_a_branch_on_the_shape_is_called_that(forward):
    with pytest.raises(UserError, match="branches on the input's shape") as caught:
        NativeEngine(Net(forward))
    assert "__init__" in caught.value.fix


@pytest.mark.parametrize(
    "forward",
    [
        lambda n, x: n.block.fc(x) if x.sum() > x.shape[0] else x,
        lambda n, x: n.block.fc(x) * int(x.max()),
        lambda n, x: sum(n.block.fc(row) for row in x),
    ],
)
def test_a_branch_on_values_is_called_that(forward):
    with pytest.raises(UserError, match="cannot be traced") as caught:
        NativeEngine(Net(forward))
    assert "shape" not in caught.value.what
    assert "tensor values" in caught.value.fix


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (Net(lambda n, x: n.drop(x), drop=nn.Dropout(0.5)), r"drop \(Dropout\) is in training mode"),
        (Net(lambda n, x: x * n.block.fc(x)), "multiplies"),
        (Net(lambda n, x: 1 / (x + 2)), "division"),
        (Net(lambda n, x: x.reshape(4, -1)), "reshapes"),
        (Net(lambda n, x: F.pad(x, (1, 1), mode="reflect")), "reflect"),
        (Net(lambda n, x: n.block.fc(x) + torch.rand(3, 4)), "constant of shape"),
        (Net(lambda n, x: torch.add(x, n.block.fc(x), alpha=2)), "alpha"),
        (
            Net(lambda n, x: n.up(x.view(-1, 1, 2, 2), output_size=[3, 3]), up=nn.ConvTranspose2d(1, 1, 1, 2)),
            r"up \(ConvTranspose2d\) is given an output_size",
        ),
        (Net(lambda n, x: torch.cat([x, torch.ones(3, 4)], 1)), "cat joins constants"),
        (Net(lambda n, x: torch.cat([x, n.block.fc(x)])), r"cat joins along dim=0"),
        (Net(lambda n, x: x.mean(0)), r"mean takes the mean over dim=\[0\]"),
        (Net(lambda n, x: x.mean()), r"mean takes the mean over dim=None"),
        (nn.Sequential(nn.LeakyReLU(-0.1)), r"0 has the negative slope -0\.1"),
        (nn.Sequential(nn.LeakyReLU(1.5)), r"0 has the negative slope 1\.5"),
        (Net(lambda n, x: F.leaky_relu(n.block.fc(x), 1.0)), r"leaky_relu has the negative slope 1\.0"),
        (nn.Sequential(nn.ELU(1.5)), r"0 has alpha 1\.5: its slope falls at 0"),
        (Net(lambda n, x: F.elu(n.block.fc(x), -1.0)), r"elu has alpha -1\.0"),
        (nn.Sequential(nn.CELU(-2.0)), r"0 has alpha -2\.0"),
        (nn.Sequential(nn.Softplus(-1)), r"0 has beta -1 and threshold 20"),
        (Net(lambda n, x: F.softplus(n.block.fc(x), 1, 1e9)), r"softplus has beta 1 and threshold 1000000000\.0"),
        (Net(lambda n, x: x.view(-1, 1, 2, 2)), "output has shape"),
        (Net(lambda n, x: n.conv(x.view(-1, 1, 2, 2)), conv=nn.Conv2d(1, 1, 1, padding_mode="circular")), "circular"),
        (Net(lambda n, x: n.pool(x.view(-1, 1, 2, 2)), pool=nn.AdaptiveAvgPool2d(3)), "divide"),
    ],
)
def test_calls_whose_live_form_has_no_bound_are_refused(net, message):
    NativeEngine(net)
    with pytest.raises(UserError, match=message):
        bound(net, training=True)


def test_in_place_where_nobody_else_looks_is_fine():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 3))
    x = torch.rand(3, 4)
    bounds = NativeEngine(net).bounds(x, torch.tensor([0, 1, 2]), threat_of("linf", 0.1))
    torch.testing.assert_close(bounds.clean, net(x))


def test_the_network_is_neither_owned_nor_changed():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    before, modules = copy.deepcopy(net.state_dict()), list(net.modules())
    engine = NativeEngine(net)
    net.engine = engine
    engine.bounds(torch.rand(3, 4), torch.tensor([0, 1, 2]), threat_of("linf", 0.1))
    assert list(net.modules()) == modules
    assert list(net.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    graph, reference = Graph(net), weakref.ref(net)
    del net, engine, modules
    gc.collect()
    assert reference() is None
    with pytest.raises(RuntimeError, match="no longer exists"):
        graph.network  # noqa: B018


def test_parameters_are_read_live_and_parametrised_layers_work():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    engine = NativeEngine(net)
    x, y, threat = torch.rand(3, 4), torch.tensor([0, 1, 2]), threat_of("linf", 0.1)
    engine.bounds(x, y, threat)
    with torch.no_grad():
        net[0].weight.mul_(-1)
    torch.testing.assert_close(engine.bounds(x, y, threat).clean, net(x))
    nn.utils.parametrizations.weight_norm(net[0])
    with torch.no_grad():
        net[0].parametrizations.weight.original0.mul_(3)
    torch.testing.assert_close(NativeEngine(net).bounds(x, y, threat).clean, net(x))


@pytest.mark.parametrize(
    "forward",
    [
        lambda n, x: (h := n.block.fc(x), h.mul_(-1), h)[-1],
        lambda n, x: (h := n.block.fc(x), torch.relu_(h), h)[-1],
        lambda n, x: (h := n.block.fc(x), F.relu(h, inplace=True), h)[-1],
        lambda n, x: (h := n.block.fc(x), n.inplace(h), h)[-1],
        lambda n, x: (h := n.block.fc(x), torch.relu_(h.view(-1, 2, 2)), h)[-1],
        lambda n, x: (h := n.block.fc(x), torch.mul(h, -1.0, out=h), h)[-1],
        lambda n, x: (h := n.block.fc(x)) + torch.relu_(n.dropout(h)),
        lambda n, x: (h := n.block.fc(x), torch.mul(x, -1.0, out=h), h)[-1],
        lambda n, x: (h := n.block.fc(x), torch.cat([x[:, :2], x[:, :2]], 1, out=h), h)[-1],
    ],
)
def test_a_change_whose_own_result_nobody_uses_is_not_dropped(forward):
    with pytest.raises(UserError, match="in place"):
        NativeEngine(Net(forward, inplace=nn.ReLU(inplace=True), dropout=nn.Dropout2d()))


def test_an_augmented_assignment_changes_what_else_has_that_name():
    def forward(net, x):
        kept = h = net.block.fc(x)
        h += 1
        return kept + F.relu(h)

    with pytest.raises(UserError, match=r"iadd changes block\.fc in place"):
        NativeEngine(Net(forward))


def test_a_network_that_changes_its_input_in_place_is_refused():
    def forward(net, x):
        x -= 0.5
        return net.block.fc(x)

    for change in (forward, lambda n, x: n.block.fc(x.mul_(2)), lambda n, x: n.block.fc(torch.relu_(x.view(-1, 4)))):
        with pytest.raises(UserError, match="changes x in place"):
            NativeEngine(Net(change))


@pytest.mark.parametrize(
    "forward",
    [
        lambda n, x: torch.sub(other=F.relu(x), input=n.block.fc(x)),
        lambda n, x: torch.sub(F.relu(x), other=n.block.fc(x)),
        lambda n, x: n.block.fc(x) * (1 / n.scale),
    ],
)
def test_what_is_bounded_is_what_the_network_computes(forward):
    net, x = Net(forward), torch.rand(3, 4)
    net.register_buffer("scale", torch.ones(4))
    engine = NativeEngine(net.eval())
    net.scale.mul_(-3)  # not frozen while tracing
    clean = engine.bounds(x, torch.tensor([0, 1, 2]), threat_of("linf", 0.1)).clean
    torch.testing.assert_close(clean, net(x))


def test_the_old_form_of_a_sum_with_alpha_is_refused():
    with pytest.raises(UserError, match="alpha"):
        bound(Net(lambda n, x: torch.add(n.block.fc(x), 2, x)))


def test_a_network_with_hooks_or_a_forward_of_its_own_is_refused():
    hooked, patched = nn.Sequential(nn.Linear(4, 4)), nn.Sequential(nn.Linear(4, 4))
    hooked.register_forward_pre_hook(lambda module, args: (3 * args[0],))
    patched.forward = lambda x: -x
    for net in (hooked, patched):
        with pytest.raises(UserError, match="forward of its own or forward hooks"):
            NativeEngine(net)
