"""MTL-, CC-, Exp-IBP and adversarial training: values by hand, the identities between them, what their attack does."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from certtrain.bounds import NativeEngine
from certtrain.data.batch import Batch
from certtrain.errors import UserError
from certtrain.methods import IBP, BoundTraining, Ramp, Streams, Weight
from certtrain.methods.cc_ibp import CCIBP, cc_ibp
from certtrain.methods.exp_ibp import ExpIBP, exp_ibp
from certtrain.methods.inner_attack import InnerAttack
from certtrain.methods.losses import margins_at, robust_cross_entropy
from certtrain.methods.mtl_ibp import MTLIBP, mtl_ibp
from certtrain.methods.pgd import PGD, AdversarialLoss
from certtrain.methods.trades import TRADES, divergence
from certtrain.testing.methods import MethodSuite, small_batch, small_network
from certtrain.threat import Linf

RAMP, STREAMS, AFTER = Ramp(2, 4), Streams(0), 9
EXPRESSIVE = (MTLIBP, CCIBP, ExpIBP)
HALF = Weight(0.5, 0.5)
ATTACKED, CERTIFIED = torch.tensor(0.5), torch.tensor(2.0)


class TestMTLIBP(MethodSuite):
    def make(self):
        return MTLIBP(0.1, RAMP, alpha=0.3)


class TestMTLIBPBeyond(MethodSuite):
    """With a clean loss, restarts, and an attack beyond the ball."""

    splits = False  # Shi's regulariser is about the whole batch

    def make(self):
        attack = InnerAttack(steps=2, restarts=2, radius=2.0)
        return MTLIBP(0.1, RAMP, alpha=0.1, attack=attack, kappa=HALF, regulariser=0.5, l1=1e-4)


class TestCCIBP(MethodSuite):
    def make(self):
        return CCIBP(0.1, RAMP, alpha=0.3, attack=InnerAttack(steps=1, step_size=10.0, keep_best=False))


class TestExpIBP(MethodSuite):
    splits = False  # a product of two means

    def make(self):
        return ExpIBP(0.1, RAMP, alpha=0.3)


class TestTRADES(MethodSuite):
    def make(self):
        return TRADES(0.1, RAMP)


class TestPGD(MethodSuite):
    def make(self):
        return PGD(0.1, RAMP)


def losses(method, *, batch_norm=False, size=32):
    """At every step from the warm-up to after the ramp."""
    network, batch = small_network(batch_norm=batch_norm), small_batch(size)
    engine = NativeEngine(network)
    return [method(network, engine, batch, step, STREAMS).loss for step in range(8)]


def after(method, size=32):
    """The objective after the ramp."""
    network = small_network()
    return method(network, NativeEngine(network), small_batch(size), AFTER, STREAMS)


def test_the_terms_by_hand():
    assert mtl_ibp(ATTACKED, CERTIFIED, 0.25).item() == 0.875  # 0.75 * 0.5 + 0.25 * 2
    assert exp_ibp(ATTACKED, CERTIFIED, 0.5).item() == pytest.approx(1.0)  # sqrt(0.5 * 2)
    attacked, certified = torch.tensor([[3.0, 1.0]]), torch.tensor([[-1.0, 1.0]])
    by_hand = math.log(1 + math.exp(-2) + math.exp(-1))  # margins 0.75 * 3 + 0.25 * -1 = 2 and 1
    assert cc_ibp(attacked, certified, 0.25).item() == pytest.approx(by_hand)


@pytest.mark.parametrize("term", [mtl_ibp, exp_ibp])
def test_at_the_ends_a_term_is_one_of_its_losses_bit_for_bit(term):
    for attacked, certified in ((ATTACKED, CERTIFIED), (torch.tensor(0.3), torch.tensor(1e-7))):
        assert torch.equal(term(attacked, certified, 0), attacked)
        assert torch.equal(term(attacked, certified, 1), certified)


def test_a_loss_that_rounds_to_nothing_leaves_the_gradients_of_exp_ibp_finite():
    attacked, certified = torch.tensor(0.0, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    for alpha in (0.0, 0.5, 1.0):
        found = torch.autograd.grad(exp_ibp(attacked, certified, alpha), (attacked, certified))
        assert all(torch.isfinite(one) for one in found)


@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_each_term_lies_between_its_losses_and_below_mtl_ibp(alpha):
    """CC-IBP by the convexity of the cross-entropy, Exp-IBP by the inequality of the means."""
    draw = torch.Generator().manual_seed(0)
    attacked = 4 * torch.randn(200, 6, generator=draw)
    certified = attacked - 3 * torch.rand(200, 6, generator=draw)
    for one, other in zip(attacked, certified, strict=True):
        low, high = robust_cross_entropy(one[None]), robust_cross_entropy(other[None])
        mtl, slack = mtl_ibp(low, high, alpha), 1e-5
        for found in (cc_ibp(one[None], other[None], alpha), exp_ibp(low, high, alpha)):
            assert low - slack <= found <= mtl + slack <= high + 2 * slack


def test_where_the_attack_reaches_the_bounds_all_terms_are_the_same():
    margins = torch.tensor([[0.5, -1.0], [2.0, 0.25]])
    loss = robust_cross_entropy(margins)
    for found in (cc_ibp(margins, margins, 0.3), mtl_ibp(loss, loss, 0.3), exp_ibp(loss, loss, 0.3)):
        assert found.item() == pytest.approx(loss.item(), rel=1e-6)


def test_margins_of_logits_are_in_the_order_of_bounds():
    network, batch = small_network(), small_batch()
    bounds = NativeEngine(network).bounds(batch.x, batch.y, Linf(0.0), ("ibp",))
    assert torch.allclose(margins_at(bounds.clean, batch.y), bounds.margins["ibp"], atol=1e-5)
    found = margins_at(torch.tensor([[1.0, 5.0, 2.0]]), torch.tensor([1]))
    assert found.tolist() == [[4.0, 3.0]]


@pytest.mark.parametrize("kind", EXPRESSIVE)
def test_at_alpha_one_the_method_is_ibp_bit_for_bit(kind):
    options = {"kappa": Weight(0.0, 0.0), "regulariser": 0.5, "l1": 0.01}
    pairs = zip(losses(kind(0.1, RAMP, alpha=1, **options)), losses(IBP(0.1, RAMP, **options)), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("kind", EXPRESSIVE)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_at_alpha_zero_the_method_is_adversarial_training(kind, batch_norm):
    pairs = zip(
        losses(kind(0.1, RAMP, alpha=0), batch_norm=batch_norm), losses(PGD(0.1, RAMP), batch_norm=batch_norm),
        strict=True,
    )  # fmt: skip
    assert all(torch.allclose(one, other, rtol=1e-5) for one, other in pairs)


@pytest.mark.parametrize("kind", EXPRESSIVE)
def test_the_loss_rises_with_alpha_from_the_adversarial_to_the_interval_loss(kind):
    found = [after(kind(0.1, RAMP, alpha=alpha)).loss.item() for alpha in (0, 0.1, 0.5, 0.9, 1)]
    assert found == sorted(found)
    assert found[0] < 0.9 * found[-1]


def test_on_a_linear_network_the_corner_has_the_balls_own_bound():
    """By hand: the margin 1 at x falls to 1 - 2 * 0.25 = 0.5 at x*, where the bound is; alpha changes nothing."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False)).double()
    network[1].weight.data = torch.tensor([[1.0], [-1.0]]).double()
    batch = Batch(torch.full((3, 1), 0.5).double(), torch.zeros(3, dtype=torch.int64), torch.arange(3))
    attack = InnerAttack(steps=1, step_size=10.0, keep_best=False)
    by_hand = math.log(1 + math.exp(-0.5))
    for method in (*(kind(0.25, RAMP, alpha=0.3, attack=attack) for kind in EXPRESSIVE), PGD(0.25, RAMP, attack)):
        found = method(network, NativeEngine(network), batch, AFTER, STREAMS)
        assert found.loss.item() == pytest.approx(by_hand, rel=1e-9)
    far = InnerAttack(steps=1, step_size=10.0, radius=2.0)  # to the margin 0
    found = MTLIBP(0.25, RAMP, alpha=0.5, attack=far)(network, NativeEngine(network), batch, AFTER, STREAMS)
    assert found.loss.item() == pytest.approx((by_hand + math.log(2)) / 2, rel=1e-9)


def test_the_clean_loss_counts_where_kappa_says_so():
    network, batch = small_network(), small_batch(32)
    clean = F.cross_entropy(network(batch.x), batch.y).item()
    for make in (PGD, *EXPRESSIVE):
        found, without = after(make(0.1, RAMP, kappa=HALF)), after(make(0.1, RAMP))
        assert found.loss.item() == pytest.approx((clean + without.loss.item()) / 2, rel=1e-5)
        assert found.parts["loss_natural"].item() == pytest.approx(clean, rel=1e-5)
        assert "clean" not in without.parts


def test_without_a_clean_loss_one_pass_gives_bounds_and_adversarial_logits():
    network, batch, calls = small_network(), small_batch(), []
    method, engine = MTLIBP(0.1, RAMP), NativeEngine(network)
    inputs = method.prepare(network, engine, batch, AFTER, STREAMS)
    network.register_forward_hook(lambda *_: calls.append(1))
    found = method.objective(network, engine, inputs, method.phase(AFTER), method.values(AFTER))
    assert calls == []
    right = (network(inputs.points[0]).argmax(1) == batch.y).float().mean()
    assert found.parts["train_attacked"].item() == pytest.approx(right.item())


def test_batchnorm_takes_the_statistics_of_the_adversarial_batch():
    network, batch = small_network(batch_norm=True).train(), small_batch(32)
    method, engine = MTLIBP(0.1, RAMP), NativeEngine(network)
    inputs = method.prepare(network, engine, batch, AFTER, STREAMS)
    other = copy.deepcopy(network)
    method.objective(network, engine, inputs, method.phase(AFTER), method.values(AFTER))
    other(inputs.points[0])
    assert torch.allclose(network[2].running_mean, other[2].running_mean, atol=1e-6)
    assert network[2].num_batches_tracked == 1


def test_adversarial_training_needs_no_engine():
    network, batch = small_network(), small_batch()
    assert torch.isfinite(PGD(0.1, RAMP)(network, None, batch, AFTER, STREAMS).loss)


def test_the_regulariser_brings_its_bounds_where_the_robust_loss_has_none():
    found = after(BoundTraining(0.1, Ramp(0, 100), AdversarialLoss(), kappa=HALF, regulariser=0.5))
    assert found.parts["loss_tight"] + found.parts["loss_relu"] > 0
    assert "train_verified" not in found.parts


def test_the_divergence_by_hand():
    """Of p = (3/4, 1/4) and q = (1/2, 1/2): 3/4 log(3/2) + 1/4 log(1/2)."""
    clean, attacked = torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2)
    by_hand = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert divergence(clean, attacked).item() == pytest.approx(by_hand)
    assert divergence(clean, clean).item() == pytest.approx(0, abs=1e-7)


def test_trades_is_the_clean_loss_and_its_weight_times_the_divergence_that_it_attacks():
    network, batch = small_network(), small_batch(32)
    method = TRADES(0.1, RAMP, weight=3.0)
    inputs = method.prepare(network, None, batch, AFTER, STREAMS)
    clean, apart = network(batch.x), divergence(network(batch.x), network(inputs.points[0]))
    found = method(network, None, batch, AFTER, STREAMS)
    assert found.loss.item() == pytest.approx((F.cross_entropy(clean, batch.y) + 3 * apart.mean()).item(), rel=1e-5)
    without = TRADES(0.1, RAMP, weight=0)(network, None, batch, AFTER, STREAMS)
    assert torch.equal(without.loss, F.cross_entropy(clean, batch.y))
    other = PGD(0.1, RAMP).prepare(network, None, batch, AFTER, STREAMS).points[0]
    assert apart.sum() > divergence(clean, network(other)).sum()  # the attack on the cross-entropy moves it less
    assert found.parts["clean"].item() == pytest.approx((clean.argmax(1) == batch.y).float().mean().item())
    with pytest.raises(UserError, match=r"method\.weight = -1"):
        TRADES(0.1, RAMP, weight=-1)


def test_the_attack_looks_beyond_the_ball_and_no_further():
    network, batch = small_network(), small_batch(32)
    for radius in (0.5, 1.0, 2.5):
        method = PGD(0.1, RAMP, InnerAttack(radius=radius))
        away = (method.prepare(network, None, batch, AFTER, STREAMS).points[0] - batch.x).abs().max().item()
        assert 0.9 * 0.1 * radius < away <= 0.1 * radius + 1e-6


def test_more_restarts_never_find_less_and_the_first_is_the_same():
    network, batch = small_network(), small_batch(64)

    def loss(**options):
        points = PGD(0.3, RAMP, InnerAttack(steps=1, **options)).prepare(network, None, batch, AFTER, STREAMS).points[0]
        return F.cross_entropy(network(points), batch.y, reduction="none")

    one, two, four = loss(), loss(restarts=2), loss(restarts=4)
    assert bool((two >= one - 1e-6).all())
    assert bool((four >= two - 1e-6).all())
    assert four.sum() > one.sum()


def test_the_best_point_is_at_least_the_last_one():
    network, batch = small_network(), small_batch(64)

    def found(**options):
        attack = InnerAttack(steps=5, step_size=1.5, **options)
        return attack.find(network, PGD(0.3, RAMP).prepare(network, None, batch, 0, STREAMS), Linf(0.3), 9, STREAMS)

    best, last = (F.cross_entropy(network(x), batch.y, reduction="none") for x in (found(), found(keep_best=False)))
    assert bool((best >= last - 1e-6).all())


def test_milestones_shorten_the_steps():
    """One pixel, margin falling with x: two steps of 0.25 half-widths and two of 0.025, from the lower end."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False)).double()
    network[1].weight.data = torch.tensor([[-1.0], [1.0]]).double()
    x, y = torch.full((1, 1), 0.5).double(), torch.zeros(1, dtype=torch.int64)
    attack = InnerAttack(steps=4, step_size=0.25, decay=0.1, milestones=[0.5])
    found = attack(network, x, y, (x - 0.5, x + 0.5), torch.zeros(1, 1))
    assert found.item() == pytest.approx(0.5 * (0.25 + 0.25 + 0.025 + 0.025))


@pytest.mark.parametrize("alpha", [-0.1, 1.5, math.nan, True, "half"])
def test_alpha_outside_its_range_is_refused(alpha):
    for kind in EXPRESSIVE:
        with pytest.raises(UserError, match=r"alpha = .* is not in \[0, 1\]"):
            kind(0.1, RAMP, alpha=alpha)


@pytest.mark.parametrize("make", [PGD, TRADES, *EXPRESSIVE])
def test_what_is_not_attacked_is_refused(make):
    with pytest.raises(UserError, match="adversarial training in l2, which is not a box"):
        make(0.1, RAMP, norm="l2")
    with pytest.raises(UserError, match=r"attack\.steps = 0 with a method that needs an attack"):
        make(0.1, RAMP, attack=InnerAttack(steps=0))
    with pytest.raises(UserError, match="is not an attack"):
        make(0.1, RAMP, attack={"steps": 8})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"restarts": 0}, "attack.restarts = 0"),
        ({"radius": 0}, "attack.radius = 0"),
        ({"radius": math.nan}, "attack.radius = nan"),
        ({"decay": -1}, "attack.decay = -1"),
        ({"milestones": [0.5, 4]}, r"attack.milestones = \[0.5, 4\]"),
        ({"milestones": 4}, "attack.milestones = 4"),
        ({"restarts": 2, "keep_best": False}, "attack.restarts = 2 without attack.keep_best"),
    ],
)
def test_what_makes_no_attack_is_refused(options, words):
    with pytest.raises(UserError, match=words):
        InnerAttack(**options)
