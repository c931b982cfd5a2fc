"""Boxes of another size for each feature: bounds against formulas, sampling, attacks and the field's library."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from certtrain.attacks import ATTACKS, apgd_margins, inner, inside, pgd_margins
from certtrain.bounds import NativeEngine
from certtrain.bounds.auto_lirpa import AutoLirpaEngine
from certtrain.certifiers import BoundCertifier, CascadeCertifier
from certtrain.data import Batch
from certtrain.methods import CrownIBP, Ramp, Streams, Weight
from certtrain.models.normalize import Normalize
from certtrain.threat import threat_of
from certtrain.threat.scales import Scales

D = 6
SIZES = (Fraction(0), Fraction(1, 7), Fraction(1), Fraction(2), Fraction(3, 10), Fraction(0))
SCALES = Scales(tuple("abcdef"), SIZES, (0,) * D)
RADII = (Fraction(1, 50), Fraction(1, 10), Fraction(1, 4))


def network(seed=0, width=16):
    torch.manual_seed(seed)
    first, second, last = nn.Linear(D, width), nn.Linear(width, width), nn.Linear(width, 3)
    return nn.Sequential(Normalize([0.4] * D, [0.3] * D, (D,)), first, nn.ReLU(), second, nn.ReLU(), last)


def batch(net, n=30, seed=1):
    x = torch.rand(n, D, generator=torch.Generator().manual_seed(seed))
    return Batch(x, net(x).argmax(1), torch.arange(n))


@pytest.mark.parametrize("engine", [NativeEngine, AutoLirpaEngine])
@pytest.mark.parametrize("method", ["ibp", "crown_ibp", "crown"])
def test_a_linear_network_has_the_margin_of_the_formula(engine, method):
    """min over the box of `w x'` is `w x - sum |w_i| s_i r` where no end of the range is met."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(D, 2)).double()
    x = 0.4 + 0.2 * torch.rand(5, D, dtype=torch.float64)
    y, radius = torch.zeros(5, dtype=torch.int64), Fraction(1, 10)
    found = engine(net).bounds(x, y, threat_of(eps=radius, scales=SCALES), (method,)).margins[method][:, 0]
    weight = net[0].weight[0] - net[0].weight[1]
    sizes = torch.tensor([float(size) for size in SIZES], dtype=torch.float64)
    exact = x @ weight + net[0].bias[0] - net[0].bias[1] - float(radius) * (weight.abs() * sizes).sum()
    assert torch.allclose(found, exact, atol=1e-12, rtol=0)


def test_both_engines_agree():
    net = network().double()
    data = batch(net.float())
    net, x = net.double(), data.x.double()
    for outward in (False, True):
        threat = threat_of(eps=Fraction(1, 10), scales=SCALES, outward=outward)
        ours = NativeEngine(net).bounds(x, data.y, threat, ("ibp", "crown_ibp", "crown")).margins
        theirs = AutoLirpaEngine(net).bounds(x, data.y, threat, ("ibp", "crown_ibp", "crown")).margins
        for method, margins in ours.items():
            scale = float(margins.detach().abs().max())
            assert float((margins - theirs[method]).detach().abs().max()) <= 1e-9 * scale


@pytest.mark.parametrize("method", ["ibp", "crown_ibp", "crown"])
def test_no_corner_sample_or_attack_is_below_a_bound(method):
    net = network(2)
    data, generator = batch(net), torch.Generator().manual_seed(3)
    net, x = net.double(), data.x.double()
    for radius in RADII:
        threat = threat_of(eps=radius, scales=SCALES)
        least = NativeEngine(net).bounds(x, data.y, threat, (method,)).margins[method].min(1).values
        lower, upper = threat.box(x)
        for draw in range(200):
            share = torch.rand(x.shape, generator=generator, dtype=torch.float64)
            share = share.round() if draw % 2 else share
            logits = net(lower + share * (upper - lower))
            rest = logits.scatter(1, data.y[:, None], -torch.inf).amax(1)
            assert bool((logits.gather(1, data.y[:, None])[:, 0] - rest >= least - 1e-9).all())
        ball = inner(threat, inside(radius))
        for attack in ATTACKS.values():
            assert bool((attack(net, x, data.y, ball, steps=20, restarts=2).margin >= least - 1e-9).all())


@pytest.mark.parametrize("attack", [pgd_margins, apgd_margins])
@pytest.mark.parametrize("kind", ["random", "constant steps"])
def test_attacks_stay_in_the_exact_box_and_leave_immutable_features(attack, kind):
    if kind == "constant steps" and attack is apgd_margins:
        pytest.skip("it chooses its step lengths itself")
    net = network(4)
    data = batch(net)
    net, x, more = net.double(), data.x.double(), {"step_size": 0.3} if kind == "constant steps" else {}
    for radius in RADII:
        for eps in (inside(radius), torch.full((len(x),), inside(radius), dtype=torch.float64)):
            threat = inner(threat_of(outward=True, scales=SCALES), eps)
            found = attack(net, x, data.y, threat, steps=15, restarts=3, **more).x
            assert torch.equal(found[:, [0, 5]], x[:, [0, 5]])
            assert bool((found != x).any())
            for at, moved in zip(x.tolist(), found.tolist()):
                for start, end, size in zip(at, moved, SIZES):
                    assert abs(Fraction(end) - Fraction(start)) <= radius * size
                    assert 0 <= end <= 1


def certifiers(**more):
    yield BoundCertifier(["ibp", "crown"], RADII, NativeEngine, **more)
    yield CascadeCertifier(
        ["ibp", "crown_ibp", "crown"], RADII, NativeEngine, bisect="0.01", bisect_up_to="0.5", **more
    )
    yield CascadeCertifier(["ibp", "crown"], RADII, NativeEngine, screen=True, **more)
    yield BoundCertifier(["alpha_crown"], RADII, AutoLirpaEngine, **more)
    yield BoundCertifier(["crown_zero", "alpha_crown"], RADII, NativeEngine, **more)


@pytest.mark.parametrize("which", range(5))
def test_certificates_stand_the_check_and_scales_of_ones_are_none(which):
    net = network(5)
    data = batch(net, 24)
    certifier = list(certifiers(scales=SCALES))[which]
    found = certifier.certify(net, data)
    outcome = certifier.falsify(net, data, found, steps=20)
    assert outcome.attacked == int((found.radius > 0).sum()) > 5
    assert outcome.hits == ()
    assert certifier.settings()["scales"]["sha256"] == SCALES.sha256
    ones = Scales(SCALES.names, (Fraction(1),) * D, (0,) * D)
    plain, same = (list(certifiers(**more))[which].certify(net, data) for more in ({}, {"scales": ones}))
    assert np.array_equal(plain.radius, same.radius)
    for name, column in plain.columns.items():
        if not name.startswith("seconds_"):
            assert np.array_equal(column, same.columns[name], equal_nan=column.dtype != object), name
    assert "scales" not in list(certifiers())[which].settings()


def test_a_bound_that_is_too_high_is_caught_at_an_admissible_point():
    class TooHigh(NativeEngine):
        def bounds(self, x, y, threat, methods=("ibp",)):
            found = super().bounds(x, y, threat, methods)
            return type(found)(found.clean, {m: v + 10 for m, v in found.margins.items()}, found.pre_activations)

    net, scales = network(6), Scales(SCALES.names, SIZES, (0, 0, 0, 20, 0, 0))
    data = batch(net)
    x = data.x.clone()
    x[:, 3] = (torch.arange(len(x)) % 21 / 20).float()
    data = Batch(x, net(x).argmax(1), data.index)
    certifier = BoundCertifier(["ibp"], RADII, TooHigh, attack_steps=0, scales=scales)
    outcome = certifier.falsify(net, data, certifier.certify(net, data), steps=30)
    assert outcome.failed
    for hit in outcome.hits:
        moved = hit.x[3] * 20
        assert abs(moved - round(moved)) < 1e-5  # a whole number of its twenty
        assert hit.x[0] == float(x[hit.index, 0])
        assert hit.distance <= hit.radius
        with torch.no_grad():
            logits = net.double()(torch.from_numpy(hit.x)[None])
        assert int(logits.argmax()) != hit.label


def test_falsified_is_a_whole_number_away():
    """A count whose middle changes the class: real attacks break it at any radius, whole ones from one count on."""
    net = nn.Sequential(nn.Linear(1, 2)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[-1.0], [1.0]]))
        net[0].bias.copy_(torch.tensor([0.95, 0.0]))  # class 1 from 0.475 on
    x = torch.tensor([[0.4]])  # 4 of 10; the next number, 5, is of class 1
    radii, data = ["0.08", "0.09", "0.1"], Batch(x, torch.tensor([0]), torch.tensor([0]))
    statuses = {}
    for whole in (0, 10):
        certifier = BoundCertifier(["ibp"], radii, NativeEngine, scales=Scales(("count",), (Fraction(1),), (whole,)))
        found = certifier.certify(net, data)
        statuses[whole] = [str(found.columns[f"status@{radius}"][0]) for radius in radii]
    assert statuses == {0: ["falsified"] * 3, 10: ["unknown", "unknown", "falsified"]}


def test_training_over_scales_of_ones_is_training_and_immutable_inputs_get_no_box():
    data = batch(network(7))
    losses = []
    for scales in (None, Scales(SCALES.names, (Fraction(1),) * D, (0,) * D), SCALES):
        net = network(7)
        method = CrownIBP("0.1", Ramp(0, 4), beta=Weight(0.5, 0.5), scales=scales)
        loss = method(net, NativeEngine(net), data, 5, Streams(0)).loss
        loss.backward()
        losses.append((loss.item(), net[1].weight.grad.clone()))
    assert losses[0][0] == losses[1][0]
    assert torch.equal(losses[0][1], losses[1][1])
    assert losses[2][0] != losses[0][0]
    box = width_of(SCALES, data.x)
    assert torch.equal(box[:, [0, 5]], torch.zeros(len(data.x), 2))


def width_of(scales, x):
    lower, upper = threat_of(eps=0.1, scales=scales).box(x)
    return upper - lower
