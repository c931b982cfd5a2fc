"""Training on several processes is training on one: the same batches, the same means, the same weights."""

import os
from datetime import timedelta

import pytest
from together import TRAININGS, by_three, train

from certtrain.errors import UserError
from certtrain.ranks import Rank, joined


def largest_difference(first: dict, second: dict) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


@pytest.mark.parametrize("kind", TRAININGS)
def test_three_processes_train_as_one_does(kind):
    weights, logged = by_three()[kind]
    alone, logged_alone = train(kind)
    assert largest_difference(weights, alone) <= (1e-10 if TRAININGS[kind][2] == "64-true" else 1e-5)
    assert logged.keys() == logged_alone.keys()
    for name in logged.keys() - {"train/seconds_per_batch"}:
        assert logged[name] == pytest.approx(logged_alone[name], rel=1e-4, abs=1e-4), name


def test_a_place_is_that_of_its_environment():
    place = Rank(3, 4, 1, 2, "10.0.0.1", 29500)
    assert Rank.from_environment(place.environment()) == place
    cluster = place.strategy().cluster_environment
    assert (cluster.global_rank(), cluster.local_rank(), cluster.node_rank(), cluster.world_size()) == (3, 1, 1, 4)
    assert (cluster.main_address, cluster.main_port) == ("10.0.0.1", 29500)
    assert cluster.creates_processes_externally
    cluster.set_global_rank(3)
    cluster.set_world_size(4)
    with pytest.raises(ValueError, match="process 3"):
        cluster.set_global_rank(0)
    with pytest.raises(ValueError, match="5 processes"):
        cluster.set_world_size(5)


def test_others_that_do_not_come(monkeypatch):
    """Nobody listens there; the connection fails at once."""
    for name, value in Rank(1, 2, 1, 2, "127.0.0.1", 9).environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("certtrain.ranks.PATIENCE", timedelta(seconds=1))
    with pytest.raises(UserError, match="process 2 of 2 cannot join"), joined(Rank.from_environment(os.environ), "cpu"):
        pass
