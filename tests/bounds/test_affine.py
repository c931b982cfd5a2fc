"""Every affine operation against its dense matrix: the Jacobian of the layer itself, and its value at 0."""

import pytest
import torch
from torch import nn

from certtrain.bounds.forward import propagate
from certtrain.bounds.graph import Graph
from certtrain.bounds.interval import InputSet
from certtrain.models import Normalize
from certtrain.threat import threat_of

IMAGE = (4, 7, 6)


class Call(nn.Module):
    """A function as a network."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.constant = nn.Parameter(torch.rand(4, 1, 1) + 0.5)

    def forward(self, x):
        return self.function(self, x)


def batch_norm(channels):
    layer = nn.BatchNorm2d(channels)
    layer.running_mean.uniform_(-1, 1)
    layer.running_var.uniform_(0.5, 2)
    nn.init.uniform_(layer.weight, -1, 1)
    nn.init.uniform_(layer.bias, -1, 1)
    return layer


LAYERS = {
    "linear": (lambda: nn.Linear(5, 3), (5,)),
    "linear without bias": (lambda: nn.Linear(5, 3, bias=False), (5,)),
    "linear on the last of two dimensions": (lambda: nn.Linear(5, 3), (2, 5)),
    "conv": (lambda: nn.Conv2d(4, 3, 3), IMAGE),
    "conv stride 2": (lambda: nn.Conv2d(4, 3, 3, stride=2, padding=1), IMAGE),
    "conv stride 3 loses the end": (lambda: nn.Conv2d(4, 3, 2, stride=3), IMAGE),
    "conv rectangular": (lambda: nn.Conv2d(4, 3, (2, 5), stride=(2, 1), padding=(0, 2), bias=False), IMAGE),
    "conv dilation": (lambda: nn.Conv2d(4, 3, 2, dilation=(2, 3), padding=1, stride=(1, 2)), IMAGE),
    "conv groups": (lambda: nn.Conv2d(4, 8, 3, groups=2, padding=1), IMAGE),
    "conv depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4, stride=2), IMAGE),
    "conv same": (lambda: nn.Conv2d(4, 3, 3, padding="same"), IMAGE),
    "conv same with an even kernel": (lambda: nn.Conv2d(4, 3, (4, 2), padding="same", dilation=(1, 3)), IMAGE),
    "conv valid": (lambda: nn.Conv2d(4, 3, 3, padding="valid"), IMAGE),
    "conv transpose": (lambda: nn.ConvTranspose2d(4, 3, 3), IMAGE),
    "conv transpose stride 2": (lambda: nn.ConvTranspose2d(4, 3, (3, 2), 2, 1, output_padding=1), IMAGE),
    "conv transpose groups": (lambda: nn.ConvTranspose2d(4, 6, 2, groups=2, bias=False), IMAGE),
    "conv transpose dilation": (lambda: nn.ConvTranspose2d(4, 3, 2, (1, 2), dilation=(2, 3)), IMAGE),
    "conv transpose beyond": (lambda: nn.ConvTranspose2d(4, 3, 2, 1, 1, dilation=3, output_padding=2), IMAGE),
    "mean of an image": (lambda: Call(lambda net, x: x.mean((-1, -2))), IMAGE),
    "mean of channels": (lambda: Call(lambda net, x: torch.mean(x, 1, keepdim=True)), IMAGE),
    "mean of first and last": (lambda: Call(lambda net, x: x.mean(dim=[3, 1])), IMAGE),
    "minus": (lambda: Call(lambda net, x: -x), IMAGE),
    "batch norm": (lambda: batch_norm(4), IMAGE),
    "batch norm without affine": (lambda: nn.BatchNorm2d(4, affine=False), IMAGE),
    "normalize": (lambda: Normalize([0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]), IMAGE),
    "normalize a vector": (lambda: Normalize([0.1, 0.2, 0.3], [0.5, 0.6, 0.7], (3,)), (3,)),
    "avg pool": (lambda: nn.AvgPool2d(2), IMAGE),
    "avg pool overlapping": (lambda: nn.AvgPool2d(3, stride=2, padding=1), IMAGE),
    "avg pool ceil": (lambda: nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True), IMAGE),
    "avg pool without padding": (lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False), IMAGE),
    "avg pool divisor": (lambda: nn.AvgPool2d(3, divisor_override=5), IMAGE),
    "adaptive pool": (lambda: nn.AdaptiveAvgPool2d((1, 3)), IMAGE),
    "adaptive pool None": (lambda: nn.AdaptiveAvgPool2d((None, 2)), IMAGE),
    "zero pad": (lambda: nn.ZeroPad2d((1, 0, 2, 3)), IMAGE),
    "constant pad and crop": (lambda: nn.ConstantPad2d((1, -1, -2, 3), 0.7), IMAGE),
    "flatten": (lambda: nn.Flatten(), IMAGE),
    "partial flatten": (lambda: nn.Flatten(2), IMAGE),
    "unflatten": (lambda: nn.Unflatten(1, (2, 3)), (6,)),
    "identity": (lambda: nn.Identity(), IMAGE),
    "dropout": (lambda: nn.Dropout(0.5), IMAGE),
    "add constant": (lambda: Call(lambda net, x: x + net.constant), IMAGE),
    "constant minus": (lambda: Call(lambda net, x: 1 - x), IMAGE),
    "minus constant": (lambda: Call(lambda net, x: torch.sub(x, net.constant.view(1, 4, 1, 1))), IMAGE),
    "times constant": (lambda: Call(lambda net, x: -2 * x), IMAGE),
    "over constant": (lambda: Call(lambda net, x: x / net.constant), IMAGE),
    "functional pad": (lambda: Call(lambda net, x: nn.functional.pad(x, (1, 2), value=-1.0)), IMAGE),
    "functional pool": (lambda: Call(lambda net, x: nn.functional.avg_pool2d(x, 2, padding=1)), IMAGE),
    "view by size": (lambda: Call(lambda net, x: x.view(x.size(0), -1)), IMAGE),
    "reshape by shape": (lambda: Call(lambda net, x: x.reshape(x.shape[0], 2, x.shape[1] * 21)), IMAGE),
}


@pytest.mark.parametrize("case", LAYERS)
def test_operation_is_the_layers_matrix(case):
    torch.manual_seed(0)
    make, shape = LAYERS[case]
    layer = make().double().eval()
    x = torch.rand(3, *shape, dtype=torch.float64)
    run = propagate(Graph(layer), InputSet.of(x, threat_of("linf", 0.1)))
    op = run.steps[-1].op
    out = layer(x[:1]).shape[1:]

    matrix = torch.autograd.functional.jacobian(lambda z: layer(z[None])[0], x[0]).reshape(out.numel(), -1)
    constant = layer(torch.zeros_like(x[:1])).flatten()
    a, r = torch.randn(3, 2, *out, dtype=torch.float64), torch.rand_like(x)
    torch.testing.assert_close(op.forward(x), layer(x))
    torch.testing.assert_close(op.magnitude(r).flatten(1), r.flatten(1) @ matrix.abs().T)
    torch.testing.assert_close(op.norms(r).flatten(1), (r.flatten(1) ** 2 @ (matrix**2).T).sqrt())
    torch.testing.assert_close(op.transpose(a).flatten(2), a.flatten(2) @ matrix)
    offset = op.offset(a)
    torch.testing.assert_close(a.new_zeros(3, 2) if offset is None else offset, a.flatten(2) @ constant)
    assert op.mixes == bool(((matrix != 0).sum(1) > 1).any())


def test_norms_of_zero_rows_have_finite_gradients():
    layer = nn.Linear(3, 2, bias=False)
    nn.init.zeros_(layer.weight)
    x = torch.rand(2, 3)
    run = propagate(Graph(layer), InputSet.of(x, threat_of("l2", 0.1)))
    run.regions[-1].radius.sum().backward()
    assert layer.weight.grad.isfinite().all()
