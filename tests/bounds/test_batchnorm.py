"""BatchNorm inside bounds: the layer's own numbers, from the clean path."""

import copy

import pytest
import torch
from torch import nn

from certtrain.bounds import NativeEngine
from certtrain.bounds.batchnorm import batch_norm
from certtrain.errors import UserError
from certtrain.threat import threat_of


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("shape", [(8, 3), (8, 3, 4), (4, 3, 5, 2)])
@pytest.mark.parametrize("affine", [True, False])
def test_training_mode_is_the_layers_forward(momentum, shape, affine):
    torch.manual_seed(0)
    kind = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d
    layer = kind(3, momentum=momentum, affine=affine).double()
    if affine:
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    peer = copy.deepcopy(layer)
    for _ in range(2):
        x = 2 * torch.randn(*shape, dtype=torch.float64) + 1
        torch.testing.assert_close(batch_norm("bn", layer, x).forward(x), peer(x))
    for mine, theirs in zip(layer.buffers(), peer.buffers()):
        torch.testing.assert_close(mine, theirs)


def test_gradients_flow_through_the_statistics():
    torch.manual_seed(0)
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    layer = nn.BatchNorm1d(3).double()
    out = batch_norm("bn", layer, x).forward(x)
    (own,) = torch.autograd.grad(layer(x).square().mul(torch.arange(3)).sum(), x)
    (mine,) = torch.autograd.grad(out.square().mul(torch.arange(3)).sum(), x)
    torch.testing.assert_close(mine, own)


def network():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))


def test_running_statistics_are_updated_once_whatever_the_methods():
    torch.manual_seed(0)
    net = network()
    peer = copy.deepcopy(net)
    x, y = torch.rand(6, 1, 5, 5), torch.randint(0, 3, (6,))
    NativeEngine(net).bounds(x, y, threat_of("linf", 0.1), ("ibp", "crown_ibp", "crown"))
    peer(x)
    assert net[1].num_batches_tracked == 1
    torch.testing.assert_close(net[1].running_mean, peer[1].running_mean)
    torch.testing.assert_close(net[1].running_var, peer[1].running_var)


def test_the_same_engine_serves_both_modes():
    torch.manual_seed(0)
    net = network()
    engine = NativeEngine(net)
    x, y = torch.rand(6, 1, 5, 5), torch.randint(0, 3, (6,))
    for training in (True, False, True):
        net.train(training)
        clean = engine.bounds(x, y, threat_of("linf", 0.1), ("ibp",)).clean
        torch.testing.assert_close(clean, net(x))


def test_refusals():
    with pytest.raises(UserError, match="one value per channel"):
        batch_norm("bn", nn.BatchNorm1d(3), torch.rand(1, 3))
    with pytest.raises(UserError, match="running statistics"):
        batch_norm("bn", nn.BatchNorm1d(3, track_running_stats=False).eval(), torch.rand(4, 3))
    with pytest.raises(UserError, match="bn"):
        batch_norm("bn", nn.BatchNorm1d(3).eval(), torch.rand(4, 2))
