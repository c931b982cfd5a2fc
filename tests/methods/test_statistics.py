"""Statistics of pre-activation bounds, by hand."""

import math

import torch

from certtrain.bounds import PreActivation
from certtrain.methods.statistics import unstable_share


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
