"""A frozen network is in eval mode and in full precision, and leaves everything as it was."""

import pytest
import torch
from torch import nn

from certtrain.models.evaluation import float32_products, frozen


@pytest.fixture
def network():
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 3)))
    net[1].eval()  # a mixed state: BatchNorm frozen by the user
    net[0].weight.requires_grad_(False)
    net[2][1].weight.grad = torch.ones(3, 8)
    return net


def state(network):
    return (
        [m.training for m in network.modules()],
        [p.requires_grad for p in network.parameters()],
        [None if p.grad is None else p.grad.clone() for p in network.parameters()],
    )


@pytest.mark.parametrize("fails", [False, True])
def test_everything_comes_back_also_after_an_error(network, fails):
    modes, wanted, grads = state(network)
    random = torch.get_rng_state()
    statistics = network[1].running_mean.clone()
    try:
        with frozen(network):
            assert not any(m.training for m in network.modules())
            torch.randn(3)
            x = torch.randn(5, 4, requires_grad=True)
            network(x).sum().backward()
            assert x.grad is not None
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    after = state(network)
    assert after[:2] == (modes, wanted)
    assert [g is None for g in grads] == [g is None for g in after[2]]
    assert torch.equal(after[2][-2], torch.ones(3, 8))
    assert torch.equal(network[1].running_mean, statistics)
    assert torch.equal(torch.get_rng_state(), random)


def test_dropout_and_batch_statistics_are_off(network):
    network.train()
    x = torch.randn(6, 4)
    with frozen(network), torch.no_grad():
        assert torch.equal(network(x), network(x))
        assert torch.allclose(network(x)[:1], network(x[:1]), atol=1e-6)


def test_no_autocast_and_no_reduced_precision(network):
    before = torch.backends.mkldnn.matmul.fp32_precision
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with frozen(network):
                assert network(torch.rand(2, 4)).dtype == torch.float32
                assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
                assert torch.backends.cuda.matmul.fp32_precision == "ieee"
                assert torch.backends.cudnn.conv.fp32_precision == "ieee"
            assert network(torch.rand(2, 4)).dtype == torch.bfloat16
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before


def test_tf32_is_for_products_on_a_gpu_and_ends_where_certifying_begins():
    gpu, cpu = torch.backends.cudnn.conv, torch.backends.mkldnn.conv
    before = gpu.fp32_precision, cpu.fp32_precision
    with float32_products("tf32"):
        assert (gpu.fp32_precision, torch.backends.cuda.matmul.fp32_precision) == ("tf32", "tf32")
        assert cpu.fp32_precision == "ieee"
        with frozen(torch.nn.Linear(1, 1)):
            assert gpu.fp32_precision == "ieee"
        assert gpu.fp32_precision == "tf32"
    assert (gpu.fp32_precision, cpu.fp32_precision) == before


def test_under_inference_mode_too(network):
    with torch.inference_mode(), frozen(network):
        network(torch.rand(2, 4))
    assert network[2][1].weight.requires_grad
