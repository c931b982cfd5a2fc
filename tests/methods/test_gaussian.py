"""Gaussian training: keyed noise, before normalisation, not clamped."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from certtrain.data.batch import Batch
from certtrain.errors import UserError
from certtrain.methods import Gaussian, Streams
from certtrain.models.normalize import Normalize
from certtrain.smoothing.noise import gaussian_noise


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(Normalize([0.5], [0.2], (1, 4, 4)), nn.Flatten(), nn.Linear(16, 3))


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(8, 1, 4, 4, generator=generator)
    return Batch(x, torch.randint(3, (8,), generator=generator), torch.tensor([3, 1, 4, 15, 92, 6, 5, 35]))


def seen_by(network, method, batch, step, streams):
    """What the first layer was given."""
    inputs = []
    handle = network[0].register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach()))
    objective = method(network, None, batch, step, streams)
    handle.remove()
    assert len(inputs) == 1
    return inputs[0], objective


def test_the_normalisation_sees_the_input_plus_the_keyed_noise_unclamped(network, batch):
    x, objective = seen_by(network, Gaussian(0.5), batch, 12, Streams(7))
    noise = gaussian_noise(7, "train", "train", batch.index, range(12, 13), (1, 4, 4), 0.5)[:, 0]
    assert torch.equal(x, batch.x + noise)
    assert x.min() < 0
    assert x.max() > 1
    assert torch.equal(objective.loss, F.cross_entropy(network(batch.x + noise), batch.y))
    assert objective.parts["loss_noisy"] == objective.loss
    assert objective.parts["noisy"] == (network(x).argmax(1) == batch.y).float().mean()


def test_noise_depends_on_seed_index_and_step_alone(network, batch):
    method, streams = Gaussian(0.25), Streams(7)
    x, _ = seen_by(network, method, batch, 3, streams)
    again, _ = seen_by(network, method, batch, 3, Streams(7))
    assert torch.equal(x, again)
    order = torch.tensor([5, 0, 2])
    part, _ = seen_by(network, method, Batch(*(column[order] for column in batch)), 3, streams)
    assert torch.equal(part, x[order])
    for other in (
        seen_by(network, method, batch, 4, streams)[0],
        seen_by(network, method, batch, 3, Streams(8))[0],
        seen_by(network, method, batch._replace(index=batch.index + 1), 3, streams)[0],
        seen_by(network, method, batch, 3, Streams(7, split="val"))[0],
    ):
        assert not torch.isclose(x, other).any()


def test_global_generators_are_left_alone(network, batch):
    state = torch.get_rng_state()
    Gaussian(0.25)(network, None, batch, 0, Streams(0))
    assert torch.equal(state, torch.get_rng_state())


def test_noise_has_the_asked_for_deviation():
    x = torch.zeros(64, 3, 16, 16)
    noise = Streams(0).normal(x, torch.arange(64), 9, 0.25)
    assert noise.shape == x.shape
    assert noise.dtype == torch.float32
    assert noise.std().item() == pytest.approx(0.25, rel=0.02)


def test_l1_and_schedule(network, batch):
    bare, plus = (Gaussian(0.25, l1=l1)(network, None, batch, 0, Streams(0)) for l1 in (0.0, 0.01))
    assert (plus.loss - bare.loss).item() == pytest.approx(0.01 * network[2].weight.abs().sum().item(), rel=1e-4)
    assert "loss_l1" not in bare.parts
    assert Gaussian(0.25).scheduled(5) == {"sigma": 0.25}
    assert Gaussian(0.25).ramp_end == 0
    assert not Gaussian.needs_engine


@pytest.mark.parametrize("sigma", [0, 0.0, -0.25, math.nan, math.inf, "0.25", None, True])
def test_a_wrong_sigma_is_named(sigma):
    with pytest.raises(UserError, match="sigma") as caught:
        Gaussian(sigma)
    assert caught.value.where == "sigma"
