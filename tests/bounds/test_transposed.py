"""The transposed convolution: values and derivatives against plain tensor operations."""

import pytest
import torch
import torch.nn.functional as F

from certtrain.bounds.transposed import TransposedConv


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
