"""Training on several processes is training on one: the same batches, the same means, the same weights.

All tests here ask one group of three processes, which is started once.
"""

import os
from datetime import timedelta

import pytest
from together import TRAININGS, by_three, train

from certtrain.errors import UserError
from certtrain.training.ranks import Rank, joined

pytestmark = pytest.mark.ops


@pytest.fixture(scope="module")
def three() -> dict:
    return by_three()


def largest_difference(first: dict, second: dict) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


@pytest.mark.parametrize("kind", TRAININGS)
def test_three_processes_train_as_one_does(three, kind):
    weights, logged = three[kind]
    alone, logged_alone = train(kind)
    assert largest_difference(weights, alone) <= (1e-10 if TRAININGS[kind][2] == "64-true" else 1e-5)
    assert logged.keys() == logged_alone.keys()
    for name in logged.keys() - {"train/seconds_per_batch"}:
        assert logged[name] == pytest.approx(logged_alone[name], rel=1e-4, abs=1e-4), name


def variables(place: Rank) -> dict[str, str]:
    keys = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    values = (place.number, place.of, place.local, place.local_of, place.address, place.port)
    return dict(zip(keys, map(str, values), strict=True))


def test_a_place_is_that_of_its_environment():
    place = Rank(3, 4, 1, 2, "10.0.0.1", 29500)
    assert Rank.from_environment(variables(place)) == place
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
    for name, value in variables(Rank(1, 2, 1, 2, "127.0.0.1", 9)).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("certtrain.training.ranks.PATIENCE", timedelta(seconds=1))
    with pytest.raises(UserError, match="process 2 of 2 cannot join"), joined(Rank.from_environment(os.environ), "cpu"):
        pass


def test_sums_means_and_polls_of_three_processes(three):
    """Rank r has the rows 1 ... r + 1: ten numbers less four, 1 + 3 + 6 = 10 in all."""
    found = three["sums"]
    assert found["mean"] == pytest.approx(10 / 6)
    assert found["doubled"] == pytest.approx(20 / 6)
    assert found["shares"] == [[0, 0], [pytest.approx(1 / 3), 0], [pytest.approx(2 / 3), 0]]
    # Each process's loss is (its number + 1) * total^2; the gradient of their sum is 6 * 2 * 10 everywhere.
    assert found["gradient"] == [120.0]
    assert found["max"] == 2
    assert found["gather"] == [{"number": 0}, {"number": 1}, {"number": 2}]
    assert found["place"] == (0, 3)
    first = found["polls"][0]
    assert found["polls"] == [first] * 3  # all stop at the same call, for what only the last of them knows
    assert first[-1] == 15
    assert len(first) >= 4
    assert found["now"] == 15
