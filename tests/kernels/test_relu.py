"""The written-out gradients: values and derivatives against plain tensor operations."""

import pytest
import torch
from torch import nn

from certtrain.bounds import NativeEngine
from certtrain.bounds.relaxation import Lines
from certtrain.kernels.relu import BoxedRelu, IntervalRelu, RelaxedRelu
from certtrain.threat import threat_of


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def test_interval_relu():
    torch.manual_seed(0)
    both, radius = randn(6, 5), torch.rand(3, 5, dtype=torch.float64, requires_grad=True)
    after, spread, lower, upper = IntervalRelu.apply(radius, both)
    clean, centre = both.chunk(2)
    torch.testing.assert_close(after[:3], clean.relu())
    torch.testing.assert_close(after[3:] - spread, (centre - radius).relu())
    torch.testing.assert_close(after[3:] + spread, (centre + radius).relu())
    torch.testing.assert_close((lower, upper), (centre - radius, centre + radius))
    assert torch.autograd.gradcheck(IntervalRelu.apply, (radius, both))
    for some in (slice(0, 1), slice(1, 2), slice(2, 4), slice(3, 4)):  # as when nothing else is used
        assert torch.autograd.gradcheck(lambda r, b, some=some: IntervalRelu.apply(r, b)[some], (radius, both))


@pytest.mark.parametrize("cached", [1, 2**18])
def test_relaxed_relu(cached, monkeypatch):
    monkeypatch.setattr("certtrain.kernels.relu._CACHED", cached)
    torch.manual_seed(0)
    a, high, offset = randn(2, 3, 4), randn(2, 4), randn(2, 4)
    low = (torch.rand(2, 4) > 0.5).double()
    before, constant = RelaxedRelu.apply(a, low, high, offset)
    torch.testing.assert_close(before, a.clamp(min=0) * low[:, None] + a.clamp(max=0) * high[:, None])
    torch.testing.assert_close(constant, (a.clamp(max=0) * offset[:, None]).sum(2))
    assert torch.autograd.gradcheck(lambda a, h, o: RelaxedRelu.apply(a, low, h, o), (a, high, offset))


@pytest.mark.parametrize("cached", [1, 2**18])
def test_boxed_relu_draws_the_same_lines(cached, monkeypatch):
    monkeypatch.setattr("certtrain.kernels.relu._CACHED", cached)
    torch.manual_seed(0)
    a, lower = randn(3, 2, 6), randn(3, 6)
    upper = (lower + 2 * torch.rand(3, 6)).detach().requires_grad_()  # active, inactive and unstable neurons
    before, constant = BoxedRelu.apply(a, lower, upper)
    lines = Lines.of(lower, upper)
    torch.testing.assert_close(before, RelaxedRelu.apply(a, lines.low, lines.high, lines.offset)[0])
    torch.testing.assert_close(constant, RelaxedRelu.apply(a, lines.low, lines.high, lines.offset)[1])
    assert torch.autograd.gradcheck(BoxedRelu.apply, (a, lower, upper))


@pytest.mark.parametrize("bounds", [(0.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (-1e-30, 1e-30), (-1e30, 1e30)])
def test_boxed_relu_at_the_edges_has_finite_lines_and_gradients(bounds):
    a = torch.tensor([[[2.0, -3.0]]], requires_grad=True)
    lower, upper = (torch.full((1, 2), end, requires_grad=True) for end in bounds)
    before, constant = BoxedRelu.apply(a, lower, upper)
    (before.sum() + constant.sum()).backward()
    assert all(tensor.isfinite().all() for tensor in (before, constant, a.grad, lower.grad, upper.grad))


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_layout_of_images_changes_no_bit_of_a_relu(parts, channels):
    torch.manual_seed(0)
    both, radius = randn(4, channels, 5, 6).float().detach(), torch.rand(2, channels, 5, 6)
    gradients = None
    for layout in (torch.contiguous_format, torch.channels_last):
        given = [one.clone().contiguous(memory_format=layout).requires_grad_() for one in (radius, *both.chunk(parts))]
        found = IntervalRelu.apply(*given)
        weighed = sum((one.flatten(1) * torch.arange(one[0].numel())).sum() for one in found)  # laid out in order
        now = [*found, *torch.autograd.grad(weighed, given)]
        gradients = gradients or now
        assert all(torch.equal(one, other) for one, other in zip(now, gradients, strict=True))


def test_bounds_of_images_laid_out_for_convolutions_are_the_same():
    torch.manual_seed(0)
    layers = [m for c in (1, 4, 4) for m in (nn.Conv2d(c, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(144, 3))
    x, y, threat = torch.rand(5, 1, 6, 6), torch.arange(5) % 3, threat_of("linf", 0.01)
    engine, gradients = NativeEngine(network), []
    for several in (True, False):
        engine._several = several
        bounds = engine.bounds(x, y, threat, ("ibp",))
        assert bounds.pre_activations[0].lower.is_contiguous(memory_format=torch.channels_last) is several
        gradients.append(torch.autograd.grad(bounds.margins["ibp"].sum(), list(network.parameters())))
        for layer in layers[1::3]:
            layer.reset_running_stats()
    largest = max(one.abs().max().item() for one in gradients[0])
    for one, other in zip(*gradients, strict=True):  # of biases before BatchNorm only rounding is left
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * largest)
