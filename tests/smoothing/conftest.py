"""Networks whose smoothed classifiers are known."""

import pytest
import torch
from torch import nn


class Pixels(nn.Module):
    """The first K pixels are the logits: no arithmetic, so that no batch size can change a vote."""

    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes
        self.seen = []

    def forward(self, x):
        self.seen.append(x.detach().clone())
        return x.flatten(1)[:, : self.num_classes]


@pytest.fixture
def pixels():
    """Makes a network of K classes that answers its K first pixels and records its inputs in `seen`."""
    return Pixels


@pytest.fixture
def linear():
    """Makes a network with the given (K, d) weights and (K,) biases."""

    def make(weight, bias):
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
        return nn.Sequential(nn.Flatten(), layer)

    return make
