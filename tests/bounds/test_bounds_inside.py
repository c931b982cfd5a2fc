"""Bounds of operations inside the network, the network from there on, and where it can be cut in two."""

from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from certtrain.bounds import NativeEngine
from certtrain.bounds.base import Split
from certtrain.bounds.union import United
from certtrain.errors import UserError
from certtrain.models.evaluation import frozen
from certtrain.testing.methods import small_batch, small_network
from certtrain.threat import Linf, threat_of


class Branches(nn.Module):
    """A residual block whose sum, ReLU and pooling are calls rather than modules."""

    def __init__(self):
        super().__init__()
        self.first, self.inner = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.norm, self.last = nn.BatchNorm2d(3), nn.Linear(12, 3)

    def forward(self, x):
        h = F.relu(self.first(x))
        h = F.relu(self.norm(self.inner(h)) + h)
        return self.last(F.max_pool2d(h, 2).flatten(1))


def activations(network, x):
    """The output of each module at x."""
    found, hooks = {}, []
    for name, module in network.named_modules():
        hooks.append(module.register_forward_hook(lambda _, __, out, name=name: found.__setitem__(name, out)))
    network(x)
    for hook in hooks:
        hook.remove()
    return found


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), norm=st.sampled_from(["linf", "l2"]), eps=st.floats(0, 0.3))
def test_activations_of_sampled_inputs_lie_in_the_box(seed, norm, eps):
    network, batch = small_network(seed, batch_norm=True).double().eval(), small_batch(seed=seed)
    x, threat = batch.x.double(), threat_of(norm).at(eps)
    names = [str(index) for index in range(len(network))]
    at = NativeEngine(network).bounds(x, batch.y, threat, ("ibp",), at=tuple(names)).at
    assert list(at) == names
    for _ in range(5):
        step = torch.randn_like(x)
        step = eps * (step.sign() if norm == "linf" else step / step.flatten(1).norm(dim=1)[:, None, None, None])
        here = activations(network, (x + step).clamp(0, 1))
        for name in names:
            assert bool((here[name] >= at[name].lower - 1e-9).all())
            assert bool((here[name] <= at[name].upper + 1e-9).all())


@pytest.mark.parametrize("name", ["0", "1", "2", "3", "4", "5", "6"])
def test_the_rest_of_the_network_gives_its_logits(name):
    """Of any number of points, whatever the batch."""
    network, batch = small_network().double(), small_batch()
    x = batch.x.double()
    node = NativeEngine(network).bounds(x, batch.y, Linf(0.1), ("ibp",), at=(name,)).at[name]
    points = torch.cat([activations(network, x)[name]] * 2)
    assert torch.allclose(node.logits(points), torch.cat([network(x)] * 2), rtol=1e-12, atol=1e-12)


def test_the_rest_goes_through_branches_and_functions():
    torch.manual_seed(0)
    network, x = Branches().double().eval(), torch.rand(5, 1, 4, 4).double()
    node = NativeEngine(network).bounds(x, torch.zeros(5, dtype=torch.int64), Linf(0.1), at=("relu",)).at["relu"]
    assert torch.allclose(node.logits(F.relu(network.first(x))), network(x), rtol=1e-12, atol=1e-12)


def test_in_training_mode_the_rest_has_the_statistics_of_the_clean_batch():
    network, batch = small_network(batch_norm=True).double().train(), small_batch()
    x, other = batch.x.double(), small_batch(seed=5).x.double()
    with frozen(network, statistics="batch"):
        node = NativeEngine(network).bounds(x, batch.y, Linf(0.1), ("ibp",), at=("1",)).at["1"]
        clean, moved = (activations(network, one)["1"] for one in (x, other))
    expected = (moved - clean.mean((0, 2, 3), keepdim=True)) / (
        clean.var((0, 2, 3), keepdim=True, correction=0) + network[2].eps
    ).sqrt()
    assert torch.allclose(node.logits(moved), network[3:](expected), rtol=1e-9, atol=1e-9)
    assert int(network[2].num_batches_tracked) == 0


def test_gradients_reach_the_weights_before_the_node_through_the_box():
    network, batch = small_network(), small_batch()
    node = NativeEngine(network).bounds(batch.x, batch.y, Linf(0.1), ("ibp",), at=("4",)).at["4"]
    (node.upper - node.lower).sum().backward()
    assert float(network[1].weight.grad.abs().sum()) > 0
    assert network[6].weight.grad is None


def test_bounds_are_those_of_a_call_that_asks_for_nothing_inside():
    network, batch = small_network(), small_batch()
    engine = NativeEngine(network)
    plain, more = (engine.bounds(batch.x, batch.y, Linf(0.1), at=at) for at in ((), ("3", "5")))
    assert (plain.at, list(more.at)) == ({}, ["3", "5"])
    assert all(torch.equal(plain.margins[method], more.margins[method]) for method in plain.margins)


def test_splits_leave_a_layer_and_an_activation_on_both_sides():
    assert NativeEngine(small_network()).splits() == (Split("2", 1 / 3), Split("3", 1 / 3), Split("4", 2 / 3))
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    assert NativeEngine(network).splits() == ()


def test_a_split_is_no_place_that_a_path_leads_around():
    engine = NativeEngine(Branches())
    assert engine.splits() == (Split("relu", 1 / 3), Split("add", 2 / 3))
    assert engine.graph.cuts() == {"first", "relu", "add", "relu#2", "max_pool2d", "flatten", "last"}
    x, y = torch.rand(4, 1, 4, 4), torch.zeros(4, dtype=torch.int64)
    node = engine.bounds(x, y, Linf(0.1), at=("norm",)).at["norm"]
    with pytest.raises(UserError, match="a path leads around norm"):
        node.logits(node.lower)


def test_an_operation_that_does_not_exist_is_refused_with_those_that_do():
    network, batch = small_network(), small_batch()
    with pytest.raises(UserError, match="no operation 'fc': it has 0, 1, 2, 3, 4, 5, 6"):
        NativeEngine(network).bounds(batch.x, batch.y, Linf(0.1), at=("fc",))


def test_a_union_of_boxes_has_no_bounds_inside():
    network, batch = small_network(), small_batch()
    united = United(NativeEngine(network))
    for ask in (united.splits, lambda: united.bounds(batch.x, batch.y, Linf(0.1), at=("3",))):
        with pytest.raises(UserError, match="several boxes has no bounds inside"):
            ask()


@pytest.mark.skipif(find_spec("auto_LiRPA") is None, reason="auto_LiRPA is not installed")
def test_auto_lirpa_has_none_and_says_so():
    from certtrain.bounds.auto_lirpa import AutoLirpaEngine

    network, batch = small_network(), small_batch()
    engine = AutoLirpaEngine(network)
    for ask in (engine.splits, lambda: engine.bounds(batch.x, batch.y, Linf(0.1), at=("3",))):
        with pytest.raises(UserError, match="auto_lirpa has no bounds inside"):
            ask()
