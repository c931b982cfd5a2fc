"""A fused optimiser takes the steps of the plain one, and is left alone where it would not."""

from functools import partial

import pytest
import torch
from torch import nn

from certtrain.methods.optimizer import fused_form

SETTINGS = {
    "adam": (torch.optim.Adam, {}),
    "amsgrad": (torch.optim.Adam, {"amsgrad": True}),
    "adamw": (torch.optim.AdamW, {}),
    "sgd": (torch.optim.SGD, {}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "dampening": (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.5}),
}


def made(parameters, kind, options):
    make, parameters = partial(kind, lr=0.1, **options), list(parameters)
    return fused_form(make(parameters), make, parameters)


def trained(kind, options):
    """The weights after some steps; those of the second layer have no gradient at the first."""
    torch.manual_seed(0)
    first, second = nn.Linear(5, 5), nn.Linear(5, 5)
    x, optimizer = torch.randn(4, 5), made([*first.parameters(), *second.parameters()], kind, options)
    for step in range(5):
        out = first(x) if step == 0 else second(first(x))
        optimizer.zero_grad()
        out.square().mean().backward()
        optimizer.step()
    return optimizer, torch.cat([p.detach().flatten() for p in (*first.parameters(), *second.parameters())])


@pytest.mark.parametrize("name", SETTINGS)
def test_fused_steps_are_those_of_the_plain_one(name):
    kind, options = SETTINGS[name]
    optimizer, found = trained(kind, options)
    _, expected = trained(kind, {**options, "fused": False})
    assert (optimizer.param_groups[0]["fused"] is True) == (name != "dampening")
    torch.testing.assert_close(found, expected)


def test_a_weight_that_is_a_slice_of_memory_leaves_its_neighbours_alone():
    memory = torch.zeros(4, 6)
    optimizer = made([nn.Parameter(memory[:, :3])], *SETTINGS["sgd"])
    optimizer.param_groups[0]["params"][0].sum().backward()
    optimizer.step()
    assert (memory[:, :3] == -torch.tensor(0.1)).all()
    assert (memory[:, 3:] == 0).all()


class Own(torch.optim.Adam):
    """A user's, whose constructor knows nothing of fused ones."""

    def __init__(self, params, lr):
        super().__init__(params, lr=lr)


def test_a_users_optimiser_stays_as_it_is():
    optimizer = made([nn.Parameter(torch.ones(2))], Own, {})
    assert type(optimizer) is Own
    assert optimizer.param_groups[0]["fused"] is None
