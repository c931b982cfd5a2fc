"""TinyImageNet's presets, a network of each narrowed, take steps of every phase on generated images."""

import pytest
import torch
from composing import composed

from certtrain.config import build
from certtrain.config.instantiate import instantiate
from certtrain.config.overrides import options
from certtrain.data.batch import Batch
from certtrain.methods.base import Streams
from certtrain.models.contract import InputContract

ROWS = [name for name in options("experiment") if "/tinyimagenet_" in name]


def method_of(name):
    return name.split("/tinyimagenet_")[1].removesuffix("_eps1_255")


@pytest.mark.parametrize("name", {method_of(name): name for name in ROWS}.values())
def test_a_narrow_network_takes_steps_in_the_ramp_and_after_it(name):
    config = composed(f"experiment={name}", "model.width=1", "model.linear=4")
    contract = InputContract.of(instantiate(config["data"], "data", certify_examples=2))
    network = build.build_network(config["model"], contract, 0)
    method = build.build_method(config, steps_per_epoch=1)
    engine = build.build_engine(config)(network)
    x = torch.rand(2, *contract.shape, generator=torch.Generator().manual_seed(0))
    batch = Batch(x, torch.tensor([0, 199]), torch.arange(2))
    build.build_certifiers(config)
    for step in (method.ramp_end // 2, method.ramp_end):
        network.zero_grad()
        loss = method(network, engine, batch, step, Streams(0)).loss
        loss.backward()
        assert loss.isfinite()
        assert all(weight.grad.isfinite().all() for weight in network.parameters())
        assert any(weight.grad.abs().max() > 0 for weight in network.parameters())
