"""Margins by the last layer's rows against the matrix of all classes for each example."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from certtrain.bounds import NativeEngine, margin_matrix
from certtrain.bounds.base import other_classes
from certtrain.bounds.loss_fusion import fused_upper_bound
from certtrain.kernels import distance
from certtrain.threat import threat_of

ALL = ("ibp", "crown_ibp", "crown")


def case(classes, *, bias=True, seed=0):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, classes, bias=bias))
    x, y = torch.rand(7, 4, dtype=torch.float64), torch.randint(classes, (7,))
    return network.double(), x, y


def by_matrix(network, y):
    """The network with its last layer taken out, and the margins as a dense matrix of its functions."""
    functions = margin_matrix(y, network[-1].out_features, torch.float64)
    bias = network[-1].bias
    return functions @ network[-1].weight, 0.0 if bias is None else functions @ bias


def dense(network, x, y, threat, method):
    """(B, K-1) bounds of the margins, each example's matrix written out, of a network that does not end linearly."""
    ending = nn.Sequential(*network, nn.Identity())
    engine = NativeEngine(ending)
    output = engine._propagate(x, y, threat)
    step = len(output.run.steps) - 3  # before the linear layer and the identity
    functions, constant = by_matrix(network, y)
    return replace(output, step=step, layer=None)._lower(method, functions) + constant


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("classes", [2, 3, 10, 100])
def test_margins_and_gradients_are_those_of_the_matrix(classes, bias, norm):
    network, x, y = case(classes, bias=bias, seed=classes)
    threat, weights = threat_of(norm, 0.2), list(network.parameters())
    toward = torch.randn(len(y), classes - 1, dtype=torch.float64)
    bounds = NativeEngine(network).bounds(x, y, threat, ALL)
    for method in ALL:
        expected = dense(network, x, y, threat, method)
        torch.testing.assert_close(bounds.margins[method], expected)
        found, wanted = (
            torch.autograd.grad((margins * toward).sum(), weights, retain_graph=True, materialize_grads=True)
            for margins in (bounds.margins[method], expected)
        )
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("classes", [2, 40])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_linear_network_alone(classes, norm):
    torch.manual_seed(0)
    network, x, y = nn.Linear(4, classes).double(), torch.rand(3, 4, dtype=torch.float64), torch.arange(3) % classes
    threat = threat_of(norm, 0.1, lower=None, upper=None)
    functions, constant = by_matrix([network], y)
    size = functions.norm(dim=2) if norm == "l2" else functions.abs().sum(2)
    expected = (functions @ x[:, :, None]).squeeze(2) + constant - 0.1 * size
    for margins in NativeEngine(network).bounds(x, y, threat, ALL).margins.values():
        torch.testing.assert_close(margins, expected)


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
def test_the_fused_loss_is_that_of_the_matrix(classes):
    network, x, y = case(classes, seed=classes)
    threat, weights = threat_of(eps=0.2), list(network.parameters())
    functions, constant = by_matrix(network, y)
    engine = NativeEngine(network)
    fused = engine.fused_loss(x, y, threat)
    output = engine._propagate(x, y, threat)
    lower, upper = (end + constant for end in output.run.regions[output.step].range(functions))

    def least(slopes):
        return output._lower("crown_ibp", slopes @ functions) + (slopes @ constant[:, :, None]).squeeze(2)

    expected = fused_upper_bound(lower, upper, least)
    torch.testing.assert_close(fused.loss, expected)
    pairs = zip(*(torch.autograd.grad(loss.sum(), weights) for loss in (fused.loss, expected)), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("ending", [[], [nn.Identity()]])
def test_only_the_closest_margins_are_bounded_backward(ending):
    """The others are IBP's; those bounded are the same as when all are."""
    network, x, y = case(40)
    network = nn.Sequential(*network, *ending)
    engine, threat = NativeEngine(network), threat_of(eps=0.2)
    every, some = (engine.bounds(x, y, threat, ALL, closest=closest) for closest in (None, 5))
    assert every.bounded is None
    assert some.bounded.shape == (7, 5)
    kept = torch.zeros(7, 39, dtype=torch.bool).scatter(1, some.bounded, True)
    ibp = some.margins["ibp"]
    assert bool((ibp[kept].view(7, 5).amax(1) <= ibp.masked_fill(kept, torch.inf).amin(1)).all())
    for method in ALL:
        expected = torch.where(kept, every.margins[method], ibp)
        torch.testing.assert_close(some.margins[method], expected, rtol=1e-12, atol=1e-12)
    assert engine.bounds(x, y, threat, ALL, closest=39).bounded is None


class Largest(TorchFunctionMode):
    """The largest tensor that any operation gives, forward or in a backward pass written out."""

    size = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for one in found if isinstance(found, (tuple, list)) else [found]:
            if isinstance(one, torch.Tensor):
                self.size = max(self.size, one.numel())
        return found


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("loops", [False, True])
def test_no_tensor_grows_with_classes_times_classes(fused, loops, monkeypatch):
    """(B, K-1, K) were 20 times as large as all else; forward and back none is larger than B K n in chunks."""
    monkeypatch.setattr(distance, "CACHED", 2000)
    batch, classes, width = 16, 200, 10
    network = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, classes))
    engine, x, y = NativeEngine(network), torch.rand(batch, 4), torch.randint(classes, (batch,))
    compiled = distance.LOOPS.get() if loops else None
    with distance.LOOPS.instead(compiled), Largest() as largest:
        if fused:
            engine.fused_loss(x, y, threat_of(eps=0.1)).loss.mean().backward()
        else:
            engine.bounds(x, y, threat_of(eps=0.1), ("ibp",)).margins["ibp"].sum().backward()
    assert largest.size <= batch * classes


def test_one_backward_pass_costs_the_closest_margins_alone(monkeypatch):
    monkeypatch.setattr(distance, "CACHED", 2000)
    batch, classes, width, closest = 8, 300, 12, 4
    network = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, classes))
    engine, x, y = NativeEngine(network), torch.rand(batch, 4), torch.randint(classes, (batch,))
    with Largest() as largest:
        engine.bounds(x, y, threat_of(eps=0.1), ("crown_ibp",), closest=closest).margins["crown_ibp"].sum().backward()
    assert largest.size <= max(batch * classes, classes * width)


def test_the_others_are_all_classes_but_ones_own():
    assert other_classes(torch.tensor([0, 2, 1]), 3).tolist() == [[1, 2], [0, 1], [0, 2]]
