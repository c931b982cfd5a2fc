"""BatchNorm's statistics over the whole training split: of one pass over all data, and nothing else moves."""

import copy

import pytest
import torch
from torch import nn

from certtrain.data.batch import Batch
from certtrain.errors import UserError
from certtrain.training.callbacks.population import PopulationStatistics, set_population_statistics


def batches(x, sizes):
    return [Batch(part, torch.zeros(len(part), dtype=torch.int64), torch.arange(len(part))) for part in x.split(sizes)]


@pytest.mark.parametrize("sizes", [[40], [16, 16, 8], [39, 1]])
def test_they_are_those_of_one_pass_over_all_data(sizes):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.ReLU())
    x = 3 * torch.rand(40, 1, 4, 4) ** 2 + torch.arange(40).reshape(-1, 1, 1, 1) / 10  # batches that differ
    set_population_statistics(network, batches(x, sizes))
    seen = network[0](x).detach()
    torch.testing.assert_close(network[1].running_mean, seen.mean((0, 2, 3)))
    torch.testing.assert_close(network[1].running_var, seen.var((0, 2, 3)))
    every = copy.deepcopy(network).eval()
    network[1].momentum = 1.0  # a step on all data at once
    network(x)
    torch.testing.assert_close(every[1].running_var, network[1].running_var)


def test_deeper_layers_see_what_their_batches_give():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2), nn.BatchNorm1d(2))
    x = torch.rand(24, 4)
    set_population_statistics(network, batches(x, [8, 8, 8]))
    inside = torch.cat([network[:4](part) for part in x.split(8)]).detach()
    torch.testing.assert_close(network[4].running_mean, inside.mean(0))
    torch.testing.assert_close(network[4].running_var, inside.var(0))


def test_all_else_stays_as_it_was():
    network = nn.Sequential(
        *(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 2)),
        *(nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False)),
    )
    network[4].eval()  # frozen by its owner
    data = batches(torch.rand(9, 4), [4, 5])
    state, generator = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    set_population_statistics(network, data)
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, state[name])}
    assert changed == {"1.running_mean", "1.running_var"}
    assert torch.equal(torch.get_rng_state(), generator)
    assert [module.training for module in network] == [True, True, True, True, False, True]
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    network.eval()  # as in a validation, where the layers of the training are told
    set_population_statistics(network, data[:1], [network[1]])
    assert not any(module.training for module in network.modules())
    torch.testing.assert_close(network[1].running_mean, network[0](data[0].x).detach().mean(0))


def test_a_network_without_batchnorm_is_refused(digits, make_module, make_trainer):
    with pytest.raises(UserError, match="of a network without BatchNorm"):
        make_trainer(PopulationStatistics(), epochs=1).fit(make_module(), datamodule=digits)
