"""The shared losses, by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from certtrain.bounds import margin_matrix
from certtrain.methods.losses import accuracy, add_l1, l1_norm, robust_cross_entropy


def test_robust_cross_entropy_by_hand():
    margins = torch.tensor([[1.0, 2.0], [0.0, -1.0]])
    first, second = math.log(1 + math.exp(-1) + math.exp(-2)), math.log(1 + 1 + math.e)
    assert robust_cross_entropy(margins).item() == pytest.approx((first + second) / 2, rel=1e-6)


@given(st.lists(st.lists(st.floats(-50, 50), min_size=4, max_size=4), min_size=1, max_size=5), st.integers(0, 3))
def test_at_the_clean_margins_it_is_the_cross_entropy(rows, label):
    logits = torch.tensor(rows, dtype=torch.float64)
    y = torch.full((len(rows),), label)
    margins = (margin_matrix(y, 4, torch.float64) @ logits[:, :, None]).squeeze(2)
    assert torch.allclose(robust_cross_entropy(margins), F.cross_entropy(logits, y), atol=1e-9)


@pytest.mark.parametrize("size", [1e4, 1e30])
def test_huge_margins_neither_overflow_nor_lose_the_gradient(size):
    margins = torch.tensor([[-size, 1.0], [size, size]], requires_grad=True)
    loss = robust_cross_entropy(margins)
    loss.backward()
    assert loss.item() == pytest.approx(size / 2, rel=1e-6)
    assert margins.grad.tolist() == [[-0.5, 0.0], [0.0, 0.0]]


def test_l1_counts_weights_of_linear_and_convolution_layers_once():
    conv, shared = nn.Conv2d(1, 1, 2), nn.Linear(2, 2)
    network = nn.Sequential(conv, nn.BatchNorm2d(1), nn.Flatten(), shared, nn.ReLU(), shared)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[[[1.0, -2.0], [0.5, 0.0]]]]))  # 3.5
        shared.weight.copy_(torch.tensor([[-1.0, 1.0], [0.25, 0.25]]))  # 2.5
    assert l1_norm(network).item() == 6.0
    parts: dict = {}
    loss = add_l1(torch.tensor(1.0), parts, network, 0.5)
    assert loss.item() == 4.0
    assert parts["loss_l1"].item() == 3.0
    assert not parts["loss_l1"].requires_grad
    loss.backward()
    assert conv.weight.grad.flatten().tolist() == [0.5, -0.5, 0.5, 0.0]
    assert conv.bias.grad is None


def test_no_l1_adds_no_part():
    parts: dict = {}
    loss = torch.tensor(1.0)
    assert add_l1(loss, parts, nn.Linear(2, 2), 0.0) is loss
    assert parts == {}


def test_accuracy_by_hand():
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 4.0], [1.0, 0.0]], requires_grad=True)
    share = accuracy(logits, torch.tensor([0, 0, 1, 1]))
    assert share.item() == 0.5
    assert not share.requires_grad
