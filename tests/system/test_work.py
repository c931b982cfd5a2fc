"""Long work can be ended between small units of it, and says how far it is, whatever certifies."""

import threading

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from certtrain.bounds import NativeEngine
from certtrain.bounds.auto_lirpa import AutoLirpaEngine
from certtrain.certifiers import AnytimeCertifier, BoundCertifier, CascadeCertifier, SmoothingCertifier
from certtrain.data.batch import Batch
from certtrain.system import work

RADII = ["0.002", "0.004"]
CERTIFIERS = {
    "ibp": lambda: BoundCertifier(["ibp"], RADII, NativeEngine, attack_steps=0),
    "crown": lambda: BoundCertifier(["crown"], RADII, NativeEngine, attack_steps=4),
    "alpha_crown": lambda: BoundCertifier(["alpha_crown"], RADII, NativeEngine, attack_steps=0),
    "auto_lirpa": lambda: BoundCertifier(["alpha_crown"], RADII, AutoLirpaEngine, attack_steps=0),
    "cascade": lambda: CascadeCertifier(["ibp", "crown"], RADII, NativeEngine, attack_steps=4, attack_restarts=1),
    "smoothing": lambda: SmoothingCertifier(0.1, RADII, n0=10, n=200, batch_size=64),
    "anytime": lambda: AnytimeCertifier(0.1, RADII, n0=10, n=4000, batch_size=64),
}


class Ended(BaseException):
    """As a signal raises it: no failure of some examples."""


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 16), nn.ReLU(), nn.Linear(16, 3))


@pytest.fixture(scope="module")
def batch(network):
    x = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return Batch(x, network(x).argmax(1), torch.arange(12))


class Units:
    """The floating point operations between two pauses."""

    def __init__(self):
        self.counter, self.last, self.units, self.told = FlopCounterMode(display=False), 0, [], []

    def stop(self):
        now = self.counter.get_total_flops()
        self.units.append(now - self.last)
        self.last = now

    def measure(self, call):
        with self.counter, work.watched(self.stop, lambda share, doing: self.told.append((share, doing))):
            found = call()
        self.stop()
        return found


@pytest.mark.parametrize("name", CERTIFIERS)
def test_no_unit_that_cannot_be_ended_takes_more_than_a_few_passes(network, batch, name):
    one = Units()
    one.measure(lambda: network(batch.x))
    units = Units()
    units.measure(lambda: CERTIFIERS[name]().certify(network, batch))
    assert len(units.units) > 5
    # Checking that the network is a function takes seven passes of these few examples.
    assert max(units.units) <= 8 * sum(one.units), (name, sorted(units.units)[-3:])
    shares = [share for share, _ in units.told]
    assert all(0 <= share <= 1 for share in shares)
    assert max(shares) >= 0.25 or name == "anytime"  # done long before its last look


@pytest.mark.parametrize(("name", "most"), [("crown", 12), ("cascade", 12), ("smoothing", 64)])
def test_attacks_on_certificates_pause_at_every_step_and_say_how_far_they_are(network, batch, name, most):
    certifier = CERTIFIERS[name]()
    found = certifier.certify(network, batch)
    assert (found.correct & (found.radius > 0)).sum() > 2
    passes, between, told = [0], [], []

    def stop():
        between.append(passes[0])
        passes[0] = 0

    hook = network.register_forward_pre_hook(lambda module, given: passes.append(passes.pop() + len(given[0])))
    with hook, work.watched(stop, lambda share, doing: told.append(share)):
        certifier.falsify(network, batch, found, steps=20)
    assert len(between) > 20
    assert max(between) <= 2 * most
    assert len(set(told)) >= 4
    assert told == sorted(told)


@pytest.mark.parametrize("name", CERTIFIERS)
@pytest.mark.parametrize("at", [1, 4])
def test_work_that_is_ended_leaves_the_network_as_it_was(network, batch, name, at):
    certifier, pauses = CERTIFIERS[name](), []

    def stop():
        pauses.append(None)
        if len(pauses) == at:
            raise Ended

    network.train()
    before = {key: value.clone() for key, value in network.state_dict().items()}, torch.get_rng_state()
    with pytest.raises(Ended), work.watched(stop):
        certifier.certify(network, batch)
    assert len(pauses) == at
    assert network.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[0][key]) for key, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), before[1])
    work.pause()  # and nobody watches any more
    assert len(pauses) == at


@pytest.mark.parametrize("name", CERTIFIERS)
def test_being_watched_changes_nothing(network, batch, name):
    alone = CERTIFIERS[name]().certify(network, batch)
    with work.watched(lambda: None, lambda share, doing: None):
        watched = CERTIFIERS[name]().certify(network, batch)
    assert alone.radius.tolist() == watched.radius.tolist()
    assert alone.predict.tolist() == watched.predict.tolist()


def test_shares_of_parts_of_parts():
    told = []
    with work.watched(told=lambda share, doing: told.append((round(share, 6), doing))):
        work.tell(0.25, "all")
        with work.part(0.5, 1):
            work.tell(0.5, "half")
            with work.part(0.2, 0.4):
                work.tell(0)
                work.tell(1)
        work.tell(1)
    work.tell(0.3)
    assert told == [(0.25, "all"), (0.75, "half"), (0.6, ""), (0.7, ""), (1.0, "")]


def test_another_thread_is_not_watched():
    seen = []
    with work.watched(lambda: seen.append(threading.get_ident())):
        thread = threading.Thread(target=work.pause)
        thread.start()
        thread.join()
        work.pause()
    assert seen == [threading.get_ident()]


def test_who_only_listens_leaves_the_end_to_who_watches_around():
    def stop():
        raise Ended

    with work.watched(stop), work.watched(told=lambda share, doing: None), pytest.raises(Ended):
        work.pause()
    with work.watched(told=lambda share, doing: None):
        work.pause()
