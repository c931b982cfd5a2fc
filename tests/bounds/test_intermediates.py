"""Bounds inside a network are reused in smaller balls, and in no other set."""

import copy
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import nn

from certtrain.bounds import NativeEngine
from certtrain.bounds.intermediates import narrowed
from certtrain.radii import float_up
from certtrain.threat import Scaled, threat_of
from certtrain.threat.scales import Scales

DOUBLE = torch.float64


def with_sizes(threat, scales):
    return Scaled(eps=threat.eps, lower=threat.lower, upper=threat.upper, outward=threat.outward, scales=scales)


def conv_net(seed=0):
    torch.manual_seed(seed)
    layers = (nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 3)).double().eval()


def mixed_net(seed=0):
    torch.manual_seed(seed)
    layers = (nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 8), nn.SiLU(), nn.Linear(8, 3))
    return nn.Sequential(*layers).double().eval()


NETS = {"conv": (conv_net, (1, 8, 8)), "mixed": (mixed_net, (5,))}


def given(name="conv", n=6, seed=0):
    build, shape = NETS[name]
    net = build(seed)
    x = torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    engine = NativeEngine(net)
    engine.owner = net  # an engine does not keep its network
    with torch.no_grad():
        return net, engine, x, net(x).argmax(1)


def inside(engine, x, y, threat, outer=None):
    with torch.no_grad():
        return engine.bounds_inside(x, y, threat, ("crown",), outer)


def points_of(x, norm, radius, count=200):
    """(count, B, ...) points of the ball, most of them on its border."""
    noise = torch.randn(count, *x.shape, dtype=DOUBLE)
    if norm == "linf":
        return (x + radius * noise.sign()).clamp(0, 1)
    lengths = noise.flatten(2).norm(dim=2).view(count, -1, *[1] * (x.dim() - 1))
    return x + radius * noise / lengths


def values_inside(net, points):
    """The inputs of the nonlinearities but the first, and the logits, each (count, B, ...)."""
    seen, hooks = [], []
    for module in net:
        if isinstance(module, nn.ReLU | nn.Tanh | nn.SiLU):
            hooks.append(module.register_forward_pre_hook(lambda module, args: seen.append(args[0])))
    with torch.no_grad():
        seen.append(net(points.flatten(0, 1)))
    for hook in hooks:
        hook.remove()
    return [value.unflatten(0, points.shape[:2]) for value in seen[1:]]


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("seed", range(3))
def test_reused_bounds_are_sound_and_settle_as_much(name, norm, seed):
    net, engine, x, y = given(name, seed=seed)
    outer = None
    for radius in ["0.05", "0.04", "0.01"] if norm == "linf" else ["0.2", "0.17", "0.05"]:
        threat = threat_of(norm, Fraction(radius), outward=True)
        plain, alone = inside(engine, x, y, threat)
        found, known = inside(engine, x, y, threat, outer)
        assert torch.equal(plain.clean, found.clean)
        *values, logits = values_inside(net, points_of(x, norm, float(radius)))
        for (lower, upper), value in zip(known.boxes.values(), values, strict=True):
            assert (lower - 1e-12 <= value).all()
            assert (value <= upper + 1e-12).all()
        own = logits.gather(2, y.expand(len(logits), -1)[:, :, None])
        margins = (own - logits).masked_fill(nn.functional.one_hot(y, 3).bool(), torch.inf)
        assert (found.margins["crown"].amin(1) <= margins.amin((0, 2)) + 1e-12).all()
        # Before the first of them lines do not depend on what is known: nothing can be looser where it matters.
        (lower, upper), (least, most) = (next(iter(some.boxes.values())) for some in (known, alone))
        open_ = (least < 0) & (most > 0)
        assert (lower >= least - 1e-12)[open_].all()
        assert (upper <= most + 1e-12)[open_].all()
        assert not ((lower < 0) & (upper > 0))[~open_].any()
        assert (found.margins["crown"] - plain.margins["crown"]).mean() > -1e-3
        outer = known


def test_what_a_larger_ball_settles_is_not_bounded_again(monkeypatch):
    _, engine, x, y = given()
    bounded = []
    from certtrain.bounds import crown

    refined = crown._refined

    def counting(run, lines, source, lower, upper, unsettled):
        bounded.append(int(unsettled.sum()))
        return refined(run, lines, source, lower, upper, unsettled)

    monkeypatch.setattr(crown, "_refined", counting)
    smaller = threat_of(eps=0.049)
    _, outer = inside(engine, x, y, threat_of(eps=0.05))
    bounded.clear()
    inside(engine, x, y, smaller)
    alone, bounded[:] = sum(bounded), []
    inside(engine, x, y, smaller, outer)
    assert 0 < sum(bounded) < alone


LARGE = threat_of("linf", Fraction(1, 10), outward=True)
REACHES_OUT = {
    "a larger radius": LARGE.at(Fraction(11, 100)),
    "a radius larger by one unit in the last place": LARGE.at(
        float(torch.nextafter(torch.tensor(0.1, dtype=DOUBLE), torch.tensor(1.0, dtype=DOUBLE)))
    ),
    "a larger radius of one example": LARGE.at(torch.tensor([0.1, 0.1, 0.1000001, 0.1, 0.1, 0.1], dtype=DOUBLE)),
    "a radius that is no number": LARGE.at(torch.tensor([0.1, 0.1, float("nan"), 0.1, 0.1, 0.1], dtype=DOUBLE)),
    "a wider input range": replace(LARGE, lower=-1.0),
    "no input range": replace(LARGE, lower=None, upper=None),
    "the other norm, also of a small radius": threat_of("l2", Fraction(1, 1000)),
}


@pytest.mark.parametrize("case", REACHES_OUT)
def test_a_set_that_reaches_out_is_refused(case):
    _, engine, x, y = given()
    _, outer = inside(engine, x, y, LARGE)
    with pytest.raises(ValueError, match="smaller sets only"):
        inside(engine, x, y, REACHES_OUT[case], outer)


def test_an_outward_rounded_box_reaches_out_of_one_that_is_not():
    _, engine, x, y = given()
    _, outer = inside(engine, x, y, replace(LARGE, outward=False))
    inside(engine, x, y, replace(LARGE, outward=False), outer)
    with pytest.raises(ValueError, match="smaller sets only"):
        inside(engine, x, y, LARGE, outer)


def test_going_up_is_refused_and_going_down_is_not():
    _, engine, x, y = given()
    outer = None
    for radius in ("0.1", "0.1", "0.09", "0.05"):
        _, outer = inside(engine, x, y, LARGE.at(Fraction(radius)), outer)
    with pytest.raises(ValueError, match="smaller sets only"):
        inside(engine, x, y, LARGE.at(Fraction("0.09")), outer)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_each_example_has_a_radius_of_its_own(norm):
    _, engine, x, y = given()
    threat = threat_of(norm)
    large = torch.linspace(0.02, 0.1, 6, dtype=DOUBLE)
    _, outer = inside(engine, x, y, threat.at(large))
    inside(engine, x, y, threat.at(large * 0.9), outer)
    for wrong in (large.flip(0), torch.tensor(0.05), large + 1e-12):
        with pytest.raises(ValueError, match="smaller sets only"):
            inside(engine, x, y, threat.at(wrong), outer)
    order = torch.tensor([4, 1, 0])
    inside(engine, x[order], y[order], threat.at(large[order]), outer.at(order))
    with pytest.raises(ValueError, match="other inputs"):
        inside(engine, x[order], y[order], threat.at(large[order]), outer.at(order.flip(0)))


def scaled(*values):
    return Scales(tuple("abcde"), tuple(Fraction(value) for value in values), (0,) * 5)


def test_other_scales_are_refused_where_one_feature_reaches_out():
    _, engine, x, y = given("mixed")
    threat = with_sizes(LARGE, scaled("1", "0.5", "0", "0.1", "1"))
    _, outer = inside(engine, x, y, threat)
    inside(engine, x, y, threat.at(Fraction("0.099999999")), outer)
    inside(engine, x, y, with_sizes(threat, scaled("1", "0.4", "0", "0", "0.9")), outer)
    for wrong in (
        ("1", "0.5", "0.000001", "0.1", "1"),
        ("1", "0.500001", "0", "0.1", "1"),
        ("0.1", "1", "0", "0", "0"),
    ):
        with pytest.raises(ValueError, match="smaller sets only"):
            inside(engine, x, y, with_sizes(threat, scaled(*wrong)), outer)
    for without in (LARGE, LARGE.at(Fraction("0.0999"))):
        with pytest.raises(ValueError, match="smaller sets only"):
            inside(engine, x, y, without, outer)


def test_what_counts_is_the_set_that_was_bounded_not_the_radius_that_it_is_near():
    """The same radius as an exact fraction and as a float, whose box may be larger by a rounding of its own."""
    _, engine, x, y = given("mixed")
    threat = with_sizes(LARGE, scaled("1", "0.7", "0.3", "0.1", "1"))
    as_float = threat.at(torch.full((6,), float_up(Fraction(1, 10)), dtype=DOUBLE))
    assert any((a != b).any() for a, b in zip(threat.box(x), as_float.box(x)))
    _, outer = inside(engine, x, y, threat)
    with pytest.raises(ValueError, match="smaller sets only"):
        inside(engine, x, y, as_float, outer)


def test_other_inputs_are_refused_however_near():
    _, engine, x, y = given()
    _, outer = inside(engine, x, y, LARGE)
    near = x.clone()
    near[3, 0, 0, 0] += 1e-15
    for other in (near, x.flip(0), x[:5], x.roll(1, 0)):
        with pytest.raises(ValueError, match="other inputs"):
            inside(engine, other, y[: len(other)], LARGE.at(Fraction(1, 100)), outer)


def test_other_precisions_are_refused():
    net, _, x, y = given()
    small = copy.deepcopy(net).float()
    _, outer = inside(engine := NativeEngine(small), x.float(), y, threat_of(eps=0.1))
    small.double()  # even in the very same network
    outer = replace(outer, weights=inside(engine, x, y, threat_of(eps=0.1))[1].weights)
    with pytest.raises(ValueError, match=r"float32 prove nothing in torch\.float64"):
        inside(engine, x, y, threat_of(eps=0.01), outer)


def test_a_network_that_changed_is_refused():
    net, engine, x, y = given()
    _, outer = inside(engine, x, y, LARGE)
    with pytest.raises(ValueError, match="another network"):
        inside(NativeEngine(twin := copy.deepcopy(net)), x, y, LARGE, outer)
    assert twin is not net
    net[0].weight.data.mul_(1.01)  # a change that leaves no trace but in the logits
    with pytest.raises(ValueError, match="other logits"):
        inside(engine, x, y, LARGE, outer)
    net[0].weight.data.div_(1.01)
    with torch.no_grad():
        net[0].weight.mul_(1.0)
    with pytest.raises(ValueError, match="another network"):
        inside(engine, x, y, LARGE, outer)
    net.train()
    _, outer = inside(engine, x, y, LARGE)
    net.eval()
    with pytest.raises(ValueError, match="another network"):
        inside(engine, x, y, LARGE, outer)


def test_the_boxes_cannot_be_had_without_saying_for_what():
    _, engine, x, y = given()
    _, outer = inside(engine, x, y, LARGE)
    with pytest.raises(AttributeError):
        outer.boxes = {}
    with pytest.raises(ValueError, match="smaller sets only"):
        outer.over(x, LARGE.at(Fraction(1, 2)), outer.clean, outer.weights)


def test_nothing_known_changes_nothing_and_rows_come_and_go():
    _, engine, x, y = given()
    small = LARGE.at(Fraction(1, 100))
    _, outer = inside(engine, x[:2], y[:2], LARGE)
    whole = outer.unknown(x, engine.graph.network(x).detach())
    alone, plain = inside(engine, x, y, small)
    found, same = inside(engine, x, y, small, whole)
    assert torch.equal(found.margins["crown"], alone.margins["crown"])
    assert all(torch.equal(a, b) for step in plain.boxes for a, b in zip(plain.boxes[step], same.boxes[step]))
    whole.put(torch.tensor([0, 1]), outer)
    inside(engine, x, y, small, whole)
    with pytest.raises(ValueError, match="smaller sets only"):
        inside(engine, x, y, LARGE.at(Fraction(2, 10)), whole)
    inside(engine, x, y, LARGE.at(Fraction(2, 10)), whole.reaching(LARGE.at(Fraction(2, 10))))
    assert whole.reaching(small) is whole
    with pytest.raises(ValueError, match="other inputs"):
        whole.put(torch.tensor([0, 2]), outer)


def test_bounds_that_are_no_number_say_nothing():
    nan, box = torch.tensor([float("nan")] * 2), (torch.tensor([-1.0, -2.0]), torch.tensor([1.0, float("nan")]))
    lower, upper = narrowed(box, (nan, torch.tensor([0.5, 0.5])))
    assert lower.tolist() == [-1, -2]
    assert upper[0] == 0.5
    assert upper[1].isnan()  # what was no number stays none
