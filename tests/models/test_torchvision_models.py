"""The published residual networks through the native engine: max pooling, in-place sums, dozens of layers."""

import pytest
import torch
from torch import nn

from certtrain import models
from certtrain.bounds import NativeEngine
from certtrain.threat import threat_of


def published(name, ours):
    """The network as built here, or torchvision's own with its in-place ReLUs; statistics as after training."""
    from torchvision import models as theirs

    torch.manual_seed(0)
    if ours:
        network = getattr(models, name)((3, 32, 32), 5, [0.4] * 3, [0.3] * 3)
    else:
        network = getattr(theirs, name)(num_classes=5)
    for _ in range(3):  # or activations would grow by orders of magnitude
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
        network.train()(torch.rand(16, 3, 32, 32))
    return network.double().eval()


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_interval_bounds_hold_and_close_in_on_the_clean_margins(name, ours):
    network = published(name, ours)
    x, y = torch.rand(2, 3, 32, 32, dtype=torch.float64), torch.tensor([1, 3])
    engine = NativeEngine(network)
    with torch.no_grad():
        for norm, eps in (("linf", 1e-5), ("l2", 1e-3)):
            bounds = engine.bounds(x, y, threat_of(norm, eps, lower=None, upper=None), ("ibp",))
            assert len(bounds.pre_activations) == {"resnet18": 17, "resnet50": 49}[name]
            assert bounds.margins["ibp"].isfinite().all()
            noise = torch.randn(8, *x.shape, dtype=torch.float64)
            noise = noise.sign() if norm == "linf" else noise / noise.flatten(2).norm(dim=2)[:, :, None, None, None]
            z = network((x + eps * noise).flatten(0, 1)).unflatten(0, (8, 2))
            for i in range(2):
                margins = (z[:, i, y[i], None] - z[:, i])[:, torch.arange(5) != y[i]]
                assert (bounds.margins["ibp"][i] <= margins.amin(0)).all()
        none = engine.bounds(x, y, threat_of("linf", 0.0), ("ibp",))
    clean = none.clean.gather(1, y[:, None]) - none.clean
    others = torch.ones_like(clean, dtype=torch.bool).scatter(1, y[:, None], False)
    torch.testing.assert_close(none.clean, network(x))
    torch.testing.assert_close(none.margins["ibp"], clean[others].view(2, 4))


def test_backward_bounds_of_resnet18_are_tighter():
    network = published("resnet18", True)
    x, y = torch.rand(1, 3, 32, 32, dtype=torch.float64), torch.tensor([2])
    with torch.no_grad():
        margins = NativeEngine(network).bounds(x, y, threat_of("linf", 1e-5), ("ibp", "crown_ibp")).margins
    assert margins["crown_ibp"].min() > margins["ibp"].min()
