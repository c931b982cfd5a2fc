"""The figures of a training: by hand, and of which method."""

import copy
import math

import pytest
import torch

from certtrain.bounds import NativeEngine, PreActivation
from certtrain.bounds.base import Bounds
from certtrain.methods import IBP, Ramp, Standard, Streams
from certtrain.methods.mtl_ibp import MTLIBP
from certtrain.methods.pgd import PGD
from certtrain.methods.sabr import SABR
from certtrain.methods.statistics import attack_success, tightness, unstable_share
from certtrain.testing.methods import small_batch, small_network


def test_only_bounds_on_both_sides_of_zero_are_unstable():
    lower = torch.tensor([[-1.0, 0.0, -1.0, 1.0]], requires_grad=True)
    layer = PreActivation("a", lower, torch.tensor([[1.0, 1.0, 0.0, 2.0]]))
    assert unstable_share([layer]).item() == 0.25
    assert not unstable_share([layer]).requires_grad


def test_neurons_count_alike_in_layers_of_different_size():
    small = PreActivation("a", torch.tensor([[-1.0]]), torch.tensor([[1.0]]))
    large = PreActivation("b", torch.full((1, 3, 1, 1), 0.5), torch.ones(1, 3, 1, 1))
    assert unstable_share([small, large]).item() == 0.25


def test_unknown_bounds_are_unstable():
    layer = PreActivation("a", torch.tensor([[math.nan, 1.0]]), torch.tensor([[math.nan, 2.0]]))
    assert unstable_share([layer]).item() == 0.5


def test_activations_without_a_kink_have_no_unstable_neurons():
    kinked = PreActivation("a", torch.tensor([[-1.0, 1.0]]), torch.tensor([[1.0, 2.0]]))
    smooth = PreActivation("b", torch.tensor([[-1.0, -1.0]]), torch.tensor([[1.0, 2.0]]), kink=False)
    assert unstable_share([kinked, smooth]).item() == 0.5


def test_tightness_by_hand():
    """Margins 2 and 1 at the inputs; IBP's bounds lie 3 and 1 below them, CROWN-IBP's 1 and 1."""
    y = torch.tensor([0, 1])
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    margins = {"ibp": torch.tensor([[-1.0], [0.0]]), "crown_ibp": torch.tensor([[1.0], [0.0]])}
    assert tightness(logits, Bounds(logits, margins, ()), y) == {"tightness": 0.5}
    same = {"ibp": torch.tensor([[2.0], [1.0]]), "crown_ibp": torch.tensor([[2.0], [1.0]])}
    assert tightness(logits, Bounds(logits, same, ()), y) == {}
    assert tightness(logits, Bounds(logits, margins | {"ibp": -torch.inf * torch.ones(2, 1)}, ()), y) == {}


def test_attack_success_is_about_what_was_right():
    clean = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])  # three of four right
    attacked = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])  # one turned, one put right
    y = torch.tensor([0, 0, 0, 0])
    assert attack_success(clean, attacked, y) == {"attack_success": pytest.approx(1 / 3)}
    assert attack_success(clean[3:], attacked[3:], y[3:]) == {}


def figures(method, network=None):
    network = small_network() if network is None else network
    return method.figures(network, NativeEngine(network), small_batch(12), Streams(0, "val"))


def test_the_figures_of_each_kind_of_method():
    ramp = Ramp(0, 10)
    assert figures(Standard()) == {}
    assert figures(PGD(0.1, ramp)).keys() >= {"attack_success"}
    assert figures(IBP(0.1, ramp)).keys() == {"unstable_relu", "tightness"}
    assert figures(IBP(0.2, ramp, norm="l2")).keys() == {"unstable_relu", "tightness"}
    assert figures(SABR(0.1, ramp)).keys() == {"unstable_relu", "tightness", "attack_success"}
    assert figures(IBP(0.0, ramp)).keys() == {"unstable_relu"}


def test_figures_are_at_full_strength_and_leave_everything_alone():
    network = small_network(batch_norm=True).train()
    before, generator = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    small, large = (figures(MTLIBP(eps, Ramp(5, 10)), network) for eps in (0.01, 0.4))
    assert small["tightness"] <= 1 + 1e-6
    assert small["unstable_relu"] < large["unstable_relu"]
    assert small["attack_success"] <= large["attack_success"]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(module.training for module in network.modules())
