"""Training for randomized smoothing beyond plain noise: values by hand, identities, what attacks do and leave alone."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from certtrain.errors import UserError
from certtrain.methods import Gaussian, Ramp, Streams
from certtrain.methods.consistency import Consistency, disagreement
from certtrain.methods.macer import MACER, radius_loss
from certtrain.methods.noisy import log_mean_softmax
from certtrain.methods.smoothadv import SmoothAdv
from certtrain.methods.smoothed_attack import SmoothedDDN, SmoothedPGD
from certtrain.methods.smoothmix import SmoothMix, mixing_loss
from certtrain.methods.stability import Stability, stability
from certtrain.testing.methods import MethodSuite, small_batch, small_network

RAMP, STREAMS, AFTER = Ramp(2, 4), Streams(0), 9


class TestStability(MethodSuite):
    def make(self):
        return Stability(0.25, noises=2, l1=1e-4)


class TestSmoothAdv(MethodSuite):
    def make(self):
        return SmoothAdv(0.25, RAMP, noises=2, attack=SmoothedPGD(0.5, 3))


class TestSmoothAdvDDN(MethodSuite):
    def make(self):
        return SmoothAdv(0.25, RAMP, noises=2, attack=SmoothedDDN(0.5, 3, norm=0.3))


class TestMACER(MethodSuite):
    def make(self):
        return MACER(0.25, RAMP, noises=4)


class TestConsistency(MethodSuite):
    def make(self):
        return Consistency(0.25, RAMP, weight=2.0)


class TestConsistencyUnderAttack(MethodSuite):
    def make(self):
        return Consistency(0.25, RAMP, weight=1.0, attack=SmoothedPGD(0.5, 2))


class TestSmoothMix(MethodSuite):
    def make(self):
        return SmoothMix(0.25, RAMP, steps=2, clean_step=1)


def objective(method, step=AFTER, network=None, batch=None):
    return method(network or small_network(), None, batch or small_batch(), step, STREAMS)


def gradients(method, step=AFTER):
    network = small_network()
    objective(method, step, network).loss.backward()
    return torch.cat([p.grad.flatten() for p in network.parameters()])


@pytest.mark.parametrize(
    "method",
    [
        SmoothAdv(0.25, RAMP, noises=3, attack=SmoothedPGD(0.0)),
        Consistency(0.25, RAMP, weight=0.0, entropy=0.0, noises=3),
        SmoothMix(0.25, RAMP, weight=0.0, noises=3),
    ],
    ids=["SmoothAdv at eps 0", "Consistency at weights 0", "SmoothMix at weight 0"],
)
def test_at_nothing_they_are_training_under_the_same_noises(method):
    assert torch.equal(objective(method).loss, objective(Gaussian(0.25, noises=3)).loss)
    assert torch.equal(gradients(method), gradients(Gaussian(0.25, noises=3)))


def test_before_the_ramp_nothing_attacks():
    method = SmoothAdv(0.25, RAMP, noises=2)
    assert torch.equal(objective(method, 0).loss, objective(Gaussian(0.25, noises=2), 0).loss)
    assert method.scheduled(0) == {"sigma": 0.25, "attack_eps": 0.0}
    assert method.scheduled(4)["attack_eps"] == 0.5


def test_stability_at_weight_0_is_training_without_noise():
    batch, network = small_batch(), small_network()
    assert torch.equal(objective(Stability(0.25, 0.0)).loss, F.cross_entropy(network(batch.x), batch.y))


def test_macer_at_weight_0_is_the_cross_entropy_of_the_mean_softmax():
    batch, network, method = small_batch(), small_network(), MACER(0.25, RAMP, weight=0.0, noises=4)
    inputs = method.prepare(network, None, batch, AFTER, STREAMS)
    mean = torch.stack([network(batch.x + inputs.noise[:, i]).softmax(1) for i in range(4)]).mean(0)
    torch.testing.assert_close(objective(method).loss, F.nll_loss(mean.log(), batch.y))
    assert not torch.isclose(objective(method).loss, objective(Gaussian(0.25, noises=4)).loss)  # not their mean


def test_one_noise_is_that_of_gaussian_training_and_more_are_others():
    batch, network = small_batch(), small_network()
    noises = [Gaussian(0.25, noises=m).prepare(network, None, batch, 5, STREAMS).noise for m in (1, 3)]
    assert torch.equal(noises[0][:, 0], STREAMS.normal(batch.x, batch.index, 5, 0.25))
    assert torch.equal(noises[1], STREAMS.normals(batch.x, batch.index, range(15, 18), 0.25))
    after = Gaussian(0.25, noises=3).prepare(network, None, batch, 6, STREAMS).noise
    assert not any(torch.equal(noises[1][:, i], after[:, j]) for i in range(3) for j in range(3))


def test_disagreement_by_hand():
    """Two classes, two noises: p1 = (.9, .1), p2 = (.5, .5), their mean (.7, .3)."""
    logits = torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log()[None]
    kl = 0.5 * (0.7 * math.log(0.7 / 0.9) + 0.3 * math.log(0.3 / 0.1)) + 0.5 * (
        0.7 * math.log(0.7 / 0.5) + 0.3 * math.log(0.3 / 0.5)
    )
    entropy = -0.7 * math.log(0.7) - 0.3 * math.log(0.3)
    found = {name: [value.item() for value in disagreement(logits, name)] for name in ("kl", "xent", "mse")}
    assert found["kl"] == pytest.approx([kl, entropy], rel=1e-5)
    assert found["xent"] == pytest.approx([kl + entropy, entropy], rel=1e-5)
    assert found["mse"] == pytest.approx([0.32, entropy], rel=1e-5)


def test_equal_noises_agree():
    logits = torch.randn(4, 1, 3, generator=torch.Generator().manual_seed(0)).expand(4, 5, 3)
    assert disagreement(logits)[0].abs() < 1e-6
    assert disagreement(logits, "mse")[0] == 0


def test_stability_by_hand():
    clean, noisy = torch.tensor([[0.8, 0.2]]).log(), torch.tensor([[[0.6, 0.4], [0.5, 0.5]]]).log()
    expected = -(0.8 * math.log(0.6) + 0.2 * math.log(0.4) + math.log(0.5)) / 2
    assert stability(clean, noisy).item() == pytest.approx(expected, rel=1e-5)


def test_the_radius_loss_by_hand():
    """p = (.8413, .1587), so xi = -2: sigma/2 (gamma - 2); a wrong class and a lead beyond gamma count nothing."""
    p = 0.5 * (1 + math.erf(1 / math.sqrt(2)))
    logits = torch.tensor([p, 1 - p]).log().expand(3, 2, 2)
    found = radius_loss(logits, torch.tensor([0, 1, 0]), sigma=0.5, beta=1.0, gamma=8.0)
    assert found.tolist() == pytest.approx([0.25 * 6, 0.0, 0.25 * 6], rel=1e-4)
    assert radius_loss(logits, torch.tensor([0, 0, 0]), 0.5, 1.0, gamma=1.9).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("size", [1e2, 1e4])
def test_a_certain_network_has_finite_gradients_under_macer(size):
    logits = (size * torch.eye(3)[:, None].expand(3, 2, 3)).requires_grad_()
    radius_loss(logits, torch.arange(3), 0.5, 16.0, 8.0).sum().backward()
    assert (logits.grad == 0).all()
    assert torch.equal(radius_loss(logits, torch.tensor([1, 2, 0]), 0.5, 16.0, 8.0), torch.zeros(3))


def test_the_mixing_loss_by_hand():
    """share .5 of two classes, p = (.9, .1): t = (.7, .3); the second example is wrong and counts nothing."""
    clean = torch.tensor([0.9, 0.1]).log().expand(2, 1, 2)
    mixed = torch.tensor([0.6, 0.4]).log().expand(2, 1, 2)
    expected = 0.7 * math.log(0.7 / 0.6) + 0.3 * math.log(0.3 / 0.4)
    found = mixing_loss(mixed, clean, torch.tensor([0, 1]), torch.tensor([0.5, 0.5]))
    assert found.item() == pytest.approx(expected / 2, rel=1e-4)


@pytest.mark.parametrize("attack", [SmoothedPGD(0.5, 8), SmoothedDDN(0.5, 20, norm=0.4)], ids=["PGD", "DDN"])
def test_an_attack_stays_in_its_ball_and_in_the_range_and_makes_the_loss_larger(attack):
    network, batch = small_network(), small_batch(24)
    method = SmoothAdv(0.1, RAMP, noises=4, attack=attack)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for step in range(60):  # a network that has learnt something
        optimizer.zero_grad()
        objective(Gaussian(0.1, noises=4), step, network, batch).loss.backward()
        optimizer.step()
    inputs = method.prepare(network, None, batch, AFTER, STREAMS)
    clean = Gaussian(0.1, noises=4).prepare(network, None, batch, AFTER, STREAMS)
    assert torch.equal(inputs.noise, clean.noise)
    assert ((inputs.x - batch.x).flatten(1).norm(dim=1) <= 0.5 * (1 + 1e-5)).all()
    assert (inputs.x >= 0).all()
    assert (inputs.x <= 1).all()

    def loss(x):
        logits = network((x[:, None] + inputs.noise).flatten(0, 1)).unflatten(0, (24, 4))
        return F.nll_loss(log_mean_softmax(logits), batch.y)

    assert loss(inputs.x) > 1.2 * loss(batch.x)


def test_ddn_takes_the_nearest_misclassified_point():
    """Logits (8, 2 sum x) of one pixel: class 1 begins at 4/8 above 0, wherever the ball ends."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[0.0], [16.0]]))
        network[1].bias.copy_(torch.tensor([8.0, 0.0]))
    batch = small_batch(2)._replace(x=torch.full((2, 1, 1, 1), 0.2), y=torch.tensor([0, 0]))
    method = SmoothAdv(1e-6, RAMP, noises=1, attack=SmoothedDDN(0.8, 40))
    found = method.prepare(network, None, batch, AFTER, STREAMS).x
    assert ((found > 0.5) & (found < 0.55)).all()


def test_an_attack_leaves_statistics_modes_and_generators_alone():
    network = small_network(batch_norm=True).train()
    before, state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    for method in (SmoothAdv(0.25, RAMP), SmoothMix(0.25, RAMP), Consistency(0.25, RAMP, attack=SmoothedDDN())):
        method.prepare(network, None, small_batch(), AFTER, STREAMS)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.training
    assert torch.equal(state, torch.get_rng_state())


def test_the_clean_side_of_smoothmix_is_near():
    network, batch = small_network(), small_batch()
    inputs = SmoothMix(0.25, RAMP, steps=3, step_size=0.3, clean_step=1).prepare(network, None, batch, 4, STREAMS)
    moved = (inputs.x - batch.x).flatten(1).norm(dim=1)
    assert (moved <= 0.15 * (1 + 1e-5)).all()  # half of the ramp
    assert moved.max() > 0.01
    assert ((inputs.share >= 0) & (inputs.share < 0.5)).all()
    assert torch.equal(SmoothMix(0.25, RAMP).prepare(network, None, batch, 4, STREAMS).x, batch.x)


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (lambda: Consistency(0.25, RAMP, noises=1), "method.noises"),
        (lambda: SmoothAdv(0.25, RAMP, noises=0), "method.noises"),
        (lambda: Stability(0.0), "sigma"),
        (lambda: Stability(0.25, weight=-1.0), "method.weight"),
        (lambda: MACER(0.25, RAMP, gamma=-1.0), "method.gamma"),
        (lambda: Consistency(0.25, RAMP, distance="l1"), "method.distance"),
        (lambda: SmoothAdv(0.25, RAMP, attack="pgd"), "method.attack"),
        (lambda: SmoothedPGD(-0.5), "method.attack.eps"),
        (lambda: SmoothedPGD(steps=0), "method.attack.steps"),
        (lambda: SmoothedDDN(gamma=1.0), "method.attack.gamma"),
        (lambda: SmoothMix(0.25, RAMP, clean_step=4), "method.clean_step"),
        (lambda: SmoothMix(0.25, RAMP, steps=0), "method.steps"),
        (lambda: radius_loss(torch.zeros(2, 3, 1), torch.zeros(2).long(), 0.5, 1.0, 8.0), "method"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_key(make, where):
    with pytest.raises(UserError) as error:
        make()
    assert error.value.where == where
    assert error.value.fix
