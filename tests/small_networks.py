"""Networks that several tests share: small, random, and undecided where their inputs lie."""

import torch
from torch import nn


def network(seed: int = 0) -> nn.Sequential:
    """(N, 4) to 3 classes, the first layer's kinks through the middle of the input range: classes alternate there."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        net[0].bias.copy_(-net[0].weight.sum(1) / 2)
        net[2].bias.zero_()
        net[4].bias.zero_()
    return net
