"""The transposed convolution: values and derivatives against plain tensor operations."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from certtrain.bounds.transposed import InputGradients, TransposedConv


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("channels", [1, 3])  # few and many, after the groups
@pytest.mark.parametrize(
    ("stride", "padding", "output_padding", "groups", "dilation"),
    [(1, 0, 0, 1, 1), (2, 1, 1, 1, 1), (3, 0, 2, 2, 1), (1, 1, 0, 1, 2)],
)
def test_transposed_conv(stride, padding, output_padding, groups, dilation, channels):
    torch.manual_seed(0)
    a, weight = randn(2, 4, 3, 3), randn(4, 2 * channels, 3, 2)
    settings = ([stride] * 2, [padding] * 2, [output_padding] * 2, groups, [dilation] * 2)
    expected = F.conv_transpose2d(a, weight, None, *settings)
    torch.testing.assert_close(TransposedConv.apply(a, weight, *settings), expected)
    a32, weight32 = a.detach().float(), weight.detach().float()
    torch.testing.assert_close(TransposedConv.apply(a32, weight32, *settings), expected.float(), atol=1e-5, rtol=1e-5)
    assert torch.autograd.gradcheck(lambda a, w: TransposedConv.apply(a, w, *settings), (a, weight))


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, (2, 1), 3])
@pytest.mark.parametrize("padding", [0, 1, "same"])
@pytest.mark.parametrize("bias", [True, False])
def test_attacks_get_the_input_gradient_of_a_convolution_and_nothing_else_changes(channels, stride, padding, bias):
    if padding == "same" and stride != 1:
        return
    torch.manual_seed(0)
    layer = nn.Conv2d(channels, 4, 3, stride, padding, bias=bias).double().requires_grad_(False)
    x = torch.rand(2, channels, 8, 7, dtype=torch.float64, requires_grad=True)
    expected = layer(x)
    toward = torch.randn_like(expected)
    (wanted,) = torch.autograd.grad(expected, x, toward)
    with InputGradients():
        found = layer(x)
        ours = "_AttackedBackward" in type(found.grad_fn).__name__
        (gradient,) = torch.autograd.grad(found, x, toward)
    assert ours == (channels <= 4 and stride != 1)
    assert torch.equal(found, expected)
    torch.testing.assert_close(gradient, wanted)
    with InputGradients():
        layer.requires_grad_(True)
        assert torch.autograd.grad(layer(x).sum(), layer.weight)[0].abs().sum() > 0
