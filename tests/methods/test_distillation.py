"""A teacher, and the methods that learn from one, CC-Dist and AD-CERT: values by hand, identities, refusals."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from certtrain.bounds import NativeEngine
from certtrain.bounds.auto_lirpa import AutoLirpaEngine
from certtrain.data.batch import Batch
from certtrain.errors import UserError
from certtrain.methods import IBP, Context, Ramp, Streams, Weight
from certtrain.methods.ad_cert import ADCert
from certtrain.methods.cc_dist import CCDist, feature_distance
from certtrain.methods.cc_ibp import CCIBP
from certtrain.methods.inner_attack import InnerAttack
from certtrain.methods.losses import robust_cross_entropy
from certtrain.methods.pgd import PGD
from certtrain.methods.teacher import Teacher
from certtrain.methods.trades import divergence
from certtrain.testing.methods import small_batch, small_network

RAMP, STREAMS, AFTER = Ramp(2, 4), Streams(0), 9
TEACHER = Teacher(small_network(seed=9, batch_norm=True))
LEARNING = (CCDist, ADCert)


def losses(method, *, batch_norm=False):
    """At every step from the warm-up to after the ramp."""
    network, batch = small_network(batch_norm=batch_norm), small_batch(32)
    engine = NativeEngine(network)
    return [method(network, engine, batch, step, STREAMS).loss for step in range(8)]


def after(method, network=None):
    """The objective after the ramp, and what was prepared for it."""
    network, batch = network or small_network(), small_batch(32)
    engine = NativeEngine(network)
    inputs = method.prepare(network, engine, batch, AFTER, STREAMS)
    return method.objective(network, engine, inputs, method.phase(AFTER), method.values(AFTER)), inputs


def begin(method, network, engine=NativeEngine):
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    method.begin(Context(network, engine(network), optimizer, (), 0, 0, STREAMS))


def test_a_teacher_is_a_frozen_copy_that_answers_in_eval_mode():
    network, x = small_network(batch_norm=True).train(), small_batch().x
    teacher = Teacher(network)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(1.0)
    expected = small_network(batch_norm=True).eval()
    found = teacher(x)
    assert torch.equal(found, expected(x))
    assert not found.requires_grad
    assert torch.equal(teacher.features(x), expected[:-1](x))
    assert torch.allclose(teacher(x[:1]), found[:1], atol=1e-6)  # not of the batch
    assert teacher.inside.size == 5
    assert network.training


def test_the_distance_by_hand():
    """h* = 1, [l, u] = [0, 3], t = 2, alpha 1/4: 3/4 - 2 = -5/4, 3/4 + 3/4 - 2 = -1/2; then h* = t = 0, [-2, 1]."""
    values = ([1.0, 0.0], [0.0, -2.0], [3.0, 1.0], [2.0, 0.0])
    found = feature_distance(*(torch.tensor([one]) for one in values), 0.25)
    assert found.item() == pytest.approx((1.25**2 + 0.5**2) / 2)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_cc_dist_at_weight_0_is_cc_ibp_bit_for_bit(batch_norm):
    options = {"alpha": 0.3, "kappa": Weight(0.5, 0.5), "regulariser": 0.5, "l1": 0.01}
    pairs = zip(
        losses(CCDist(0.1, RAMP, TEACHER, weight=0, **options), batch_norm=batch_norm),
        losses(CCIBP(0.1, RAMP, **options), batch_norm=batch_norm),
        strict=True,
    )
    assert all(torch.equal(one, other) for one, other in pairs)


def test_cc_dist_adds_the_distance_from_the_teachers_features():
    method = CCDist(0.1, RAMP, TEACHER, alpha=0.3, weight=2.0)
    found, inputs = after(method)
    without, _ = after(CCIBP(0.1, RAMP, alpha=0.3))
    network = small_network()
    x, target = inputs.points
    assert torch.equal(target, TEACHER.features(inputs.x))
    node = NativeEngine(network).bounds(inputs.x, inputs.y, method.threat, ("ibp",), at=("5",)).at["5"]
    apart = feature_distance(network[:-1](x), node.lower, node.upper, target, 0.3)
    assert found.loss.item() == pytest.approx((without.loss + 2 * apart).item(), rel=1e-4)
    assert found.parts["loss_features"].item() == pytest.approx(apart.item(), rel=1e-4)


def test_a_student_that_is_its_teacher_is_only_held_to_its_bounds():
    network, still = small_network(), InnerAttack(steps=1, step_size=1e-9, radius=1e-9)
    found, _ = after(CCDist(0.1, RAMP, network, alpha=0.0, attack=still), network)
    assert found.parts["loss_features"].item() == pytest.approx(0, abs=1e-9)
    found, _ = after(CCDist(0.1, RAMP, network, alpha=1.0, attack=still), network)
    assert found.parts["loss_features"].item() > 1e-6


def test_ad_cert_by_hand():
    """z = (x, -x) of margin 2x = 1 at x = 1/2, 1/2 at the corner; a teacher that says (3/4, 1/4)."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False)).double()
    network[1].weight.data = torch.tensor([[1.0], [-1.0]]).double()
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(1, 2)).double()
    teacher[1].weight.data.zero_()
    teacher[1].bias.data = torch.tensor([math.log(3), 0.0], dtype=torch.float64)
    batch = Batch(torch.full((3, 1), 0.5).double(), torch.zeros(3, dtype=torch.int64), torch.arange(3))
    corner = InnerAttack(steps=1, step_size=10.0, keep_best=False)

    def kl(margin):
        p = 1 / (1 + math.exp(-margin))
        return 0.75 * math.log(0.75 / p) + 0.25 * math.log(0.25 / (1 - p))

    for natural in (0.0, 0.25, 1.0):
        method = ADCert(0.25, RAMP, teacher, alpha=0.3, natural=natural, attack=corner)
        found = method(network, NativeEngine(network), batch, AFTER, STREAMS).loss.item()
        learnt = (1 - natural) * kl(0.5) + natural * kl(1.0)
        assert found == pytest.approx(0.3 * math.log(1 + math.exp(-0.5)) + 0.7 * learnt, rel=1e-9)


@pytest.mark.parametrize("options", [{}, {"natural": 1 / 6, "soft_attack": True}])
def test_ad_cert_at_alpha_1_is_ibp(options):
    own = {"kappa": Weight(0.0, 0.0), "regulariser": 0.5, "l1": 0.01}
    method = ADCert(0.1, RAMP, TEACHER, alpha=1, **options, **own)
    pairs = zip(losses(method), losses(IBP(0.1, RAMP, **own)), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_ad_cert_is_the_interval_loss_and_what_its_teacher_says_at_the_attacked_inputs():
    network = small_network()
    found, inputs = after(ADCert(0.1, RAMP, TEACHER, alpha=0.3))
    x, target = inputs.points
    assert torch.equal(x, PGD(0.1, RAMP).prepare(network, None, small_batch(32), AFTER, STREAMS).points[0])
    assert torch.equal(target, TEACHER(inputs.x))
    margins = NativeEngine(network).bounds(inputs.x, inputs.y, IBP(0.1, RAMP).threat, ("ibp",)).margins["ibp"]
    learnt = divergence(target, network(x)).mean()
    assert found.loss.item() == pytest.approx((0.3 * robust_cross_entropy(margins) + 0.7 * learnt).item(), rel=1e-4)
    _, soft = after(ADCert(0.1, RAMP, TEACHER, soft_attack=True))
    assert divergence(target, network(soft.points[0])).mean() > learnt
    hard = [F.cross_entropy(network(points), inputs.y) for points in (x, soft.points[0])]
    assert hard[0] > hard[1]


@pytest.mark.parametrize("kind", LEARNING)
def test_what_is_refused(kind):
    for teacher in ("runs/robust", None, {"network": 1}):
        with pytest.raises(UserError, match="is not a network"):
            kind(0.1, RAMP, teacher)
    with pytest.raises(UserError, match=r"alpha = 1.5 is not in \[0, 1\]"):
        kind(0.1, RAMP, TEACHER, alpha=1.5)
    with pytest.raises(UserError, match=r"attack\.steps = 0"):
        kind(0.1, RAMP, TEACHER, attack=InnerAttack(steps=0))
    with pytest.raises(UserError, match="in l2, which is not a box"):
        kind(0.1, RAMP, TEACHER, norm="l2")


def test_what_ad_cert_refuses():
    for share in (-0.1, 1.1, True):
        with pytest.raises(UserError, match=r"natural = .* is not in \[0, 1\]"):
            ADCert(0.1, RAMP, TEACHER, natural=share)
    with pytest.raises(UserError, match="soft_attack = 'yes' is neither"):
        ADCert(0.1, RAMP, TEACHER, soft_attack="yes")
    other = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    with pytest.raises(UserError, match="a teacher of 4 classes, and a network of 3"):
        after(ADCert(0.1, RAMP, other))


def test_what_cc_dist_refuses_before_the_first_step():
    with pytest.raises(UserError, match="bn_source=clean, where no pass gives the features"):
        CCDist(0.1, RAMP, TEACHER, bn_source="clean")
    CCDist(0.1, RAMP, TEACHER, weight=0, bn_source="clean")
    with pytest.raises(UserError, match=r"method\.weight = -1"):
        CCDist(0.1, RAMP, TEACHER, weight=-1)
    begin(CCDist(0.1, RAMP, TEACHER), small_network())
    wider = nn.Sequential(nn.Flatten(), nn.Linear(16, 7), nn.ReLU(), nn.Linear(7, 3))
    with pytest.raises(UserError, match="5 features before its last linear layer, and the teacher 7"):
        begin(CCDist(0.1, RAMP, wider), small_network())
    flat = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    begin(CCDist(0.1, RAMP, flat, weight=0), small_network())
    with pytest.raises(UserError, match="the teacher has no features to learn from"):
        begin(CCDist(0.1, RAMP, nn.Sequential(nn.Linear(16, 3))), small_network())
    with pytest.raises(UserError, match="auto_lirpa has no bounds inside"):
        begin(CCDist(0.1, RAMP, TEACHER), small_network(), AutoLirpaEngine)
