"""Columns that may take any category: the union of boxes, against every combination, corner and sample of it."""

import itertools
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from certtrain.attacks import apgd_margins, inner, inside, pgd_margins
from certtrain.bounds import NativeEngine
from certtrain.bounds.auto_lirpa import AutoLirpaEngine
from certtrain.bounds.union import United, united
from certtrain.certifiers import BoundCertifier, CascadeCertifier
from certtrain.data import Batch
from certtrain.errors import UserError
from certtrain.methods import IBP, CrownIBP, Ramp, ShiRegulariser, Streams, Weight
from certtrain.threat import threat_of
from certtrain.threat.scales import Scales

NAMES = ("age", "c=a", "c=b", "c=d", "s=f", "s=m", "height")
SIZES = (Fraction(1), *[Fraction(0)] * 5, Fraction(1, 3))
GROUPS = (("c", (1, 2, 3)), ("s", (4, 5)))
SCALES = Scales(NAMES, SIZES, (0,) * 7, "any", GROUPS)
RADII = (Fraction(1, 50), Fraction(1, 10))


def network(seed=0, size=1.0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(7, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    with torch.no_grad():
        net[0].weight[:, 1:6] *= size  # how much the categories say
        net[0].weight[:, [0, 6]] *= 5
        net[0].bias.copy_(-net[0].weight[:, [0, 6]].sum(1) / 2)  # the classes alternate in the middle of the range
        net[2].bias.zero_()
        net[4].bias.zero_()
    return net


def batch(net, n=40, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 7, generator=generator)
    x[:, 1:6] = 0
    x[torch.arange(n), 1 + torch.randint(3, (n,), generator=generator)] = 1
    x[torch.arange(n), 4 + torch.randint(2, (n,), generator=generator)] = 1
    return Batch(x, net(x).argmax(1), torch.arange(n))


def combinations(x):
    for c, s in itertools.product(range(3), range(2)):
        other = x.clone()
        other[:, 1:6] = 0
        other[:, 1 + c] = other[:, 4 + s] = 1
        yield other


def margins(net, x, y):
    logits = net(x)
    return logits.gather(1, y[:, None])[:, 0] - logits.scatter(1, y[:, None], -torch.inf).amax(1)


def rows_of(parts):
    """Of each row the set of its parts."""
    return [{tuple(part[row].tolist()) for part in parts} for row in range(len(parts[0]))]


def test_the_parts_are_every_combination_once_and_the_input_first():
    x = batch(network()).x
    parts = [part for part, _ in threat_of(eps=0.1, scales=SCALES).parts(x)]
    assert torch.equal(parts[0], x)
    assert len(parts) == 6
    assert rows_of(parts) == rows_of(list(combinations(x)))  # 6 different ones of each row: none twice
    assert all(len(row) == 6 for row in rows_of(parts))
    with pytest.raises(ValueError, match="several boxes, not one"):
        threat_of(eps=0.1, scales=SCALES).box(x)
    [(alone, same)] = threat_of(eps=0.1).parts(x)
    assert alone is x
    assert same == threat_of(eps=0.1)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(0, 2**31), st.sampled_from([0.0, 0.2, 1.0]))
def test_the_union_is_that_of_the_input_and_every_combination(widths, seed, odd):
    """Also of rows that hold no category of a column, two of one, or what is no number; columns are mixed up."""
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(sum(widths) + 1, generator=draw).tolist()
    groups = tuple((f"g{i}", tuple(order[sum(widths[:i]) : sum(widths[: i + 1])])) for i in range(len(widths)))
    sizes = tuple(Fraction(place == order[-1]) for place in range(len(order)))
    scales = Scales(tuple(map(str, range(len(order)))), sizes, (0,) * len(order), groups=groups)
    x = torch.rand(5, len(order), generator=draw)
    for _, places in groups:
        codes = torch.eye(len(places))[torch.randint(len(places), (5,), generator=draw)]
        strange = torch.tensor([0.0, 1.0, 0.5, 2.0, -1.0])[torch.randint(5, codes.shape, generator=draw)]
        x[:, list(places)] = torch.where(torch.rand(5, 1, generator=draw) < odd, strange, codes)
    every = []
    for chosen in itertools.product(*(places for _, places in groups)):
        other = x.clone()
        other[:, [place for _, places in groups for place in places]] = 0
        other[:, list(chosen)] = 1
        every.append(other)
    given_to = [part for part, _ in threat_of(eps=0.1, scales=scales).parts(x)]
    assert torch.equal(given_to[0], x)
    assert rows_of(given_to) == rows_of([x, *every])
    assert len(given_to) == len(every) + (not bool(scales.holds_categories(x).all()))
    assert scales.holds_categories(x).tolist() == [
        any(torch.equal(row, other[i]) for other in every) for i, row in enumerate(x)
    ]


def test_what_is_traced_is_not_asked_for_its_categories():
    """The input comes twice there, and the union is the same."""
    threat, x = threat_of(eps=0.1, scales=SCALES), batch(network()).x
    run = torch.compile(lambda x: torch.stack([part for part, _ in threat.parts(x)]), fullgraph=True, backend="eager")
    assert len(run(x)) == 7
    assert rows_of(run(x)) == rows_of([part for part, _ in threat.parts(x)])


@pytest.mark.parametrize("engine", [NativeEngine, AutoLirpaEngine])
def test_no_row_of_the_union_is_below_a_bound(engine):
    net, generator = network(1, 0.3), torch.Generator().manual_seed(2)
    data = batch(net)
    net, x = net.double(), data.x.double()
    methods = ("ibp", "crown_ibp", "crown")
    for radius in RADII:
        threat = threat_of(eps=radius, scales=SCALES, outward=True)
        found = united(engine(net), threat).bounds(x, data.y, threat, methods)
        assert torch.allclose(found.clean, net(x))
        one = threat_of(eps=radius, scales=SCALES.fixed())
        for other in combinations(x):
            lower, upper = one.box(other)
            for draw in range(60):
                share = torch.rand(x.shape, generator=generator, dtype=torch.float64)
                point = lower + (share.round() if draw % 2 else share) * (upper - lower)
                for method in methods:
                    assert bool((margins(net, point, data.y) >= found.margins[method].min(1).values - 1e-9).all())


def test_nan_in_one_box_is_nan_in_all():
    class Broken(NativeEngine):
        calls = 0

        def bounds(self, x, y, threat, methods=("ibp",)):
            self.calls += 1
            found = super().bounds(x, y, threat, methods)
            return found if self.calls != 3 else type(found)(found.clean, {"ibp": found.margins["ibp"] * torch.nan}, ())

    net = network()
    data, threat = batch(net), threat_of(eps=0.01, scales=SCALES)
    found = United(Broken(net)).bounds(data.x, data.y, threat, ("ibp",))
    assert bool(found.margins["ibp"].isnan().all())


@pytest.mark.parametrize("attack", [pgd_margins, apgd_margins])
def test_attacks_change_categories_and_stay_in_the_union(attack):
    net = network(3)
    data = batch(net)
    net, x = net.double(), data.x.double()
    threat = inner(threat_of(scales=SCALES), inside(RADII[1]))
    found = attack(net, x, data.y, threat, steps=10, restarts=2)
    worst = torch.stack([margins(net, other, data.y) for other in combinations(x)]).amin(0)
    assert bool((found.margin <= worst + 1e-12).all())  # at the least what another category alone does
    assert torch.equal(found.x[:, 1:4].sum(1), torch.ones(len(x)).double())
    assert torch.equal(found.x[:, 4:6].sum(1), torch.ones(len(x)).double())
    assert bool((found.x[:, 1:6] != x[:, 1:6]).any())
    assert bool((SCALES.distance(found.x - x) <= float(RADII[1])).all())
    assert torch.allclose(margins(net, found.x, data.y), found.margin)


@pytest.mark.parametrize("which", ["bounds", "cascade"])
def test_certificates_hold_for_every_category(which):
    net = network(4, 0.3)
    data = batch(net)
    if which == "bounds":
        certifier = BoundCertifier(["ibp", "crown"], RADII, NativeEngine, scales=SCALES)
    else:
        certifier = CascadeCertifier(["ibp", "crown"], RADII, NativeEngine, scales=SCALES, bisect="0.01")
    found = certifier.certify(net, data)
    proved = torch.from_numpy(found.radius > 0)
    assert 3 < int(proved.sum()) < len(data.y)
    for other in combinations(data.x):
        assert bool((net(other).argmax(1) == data.y)[proved].all())
    assert certifier.falsify(net, data, found, steps=20).hits == ()
    flipped = torch.stack([net(other).argmax(1) != data.y for other in combinations(data.x)]).any(0)
    assert bool(flipped.any())
    for radius in ("0.02", "0.1"):  # where another category alone flips it, it is falsified at any radius
        status = found.columns[f"status@{radius}"]
        assert set(status[flipped.numpy()]) == {"falsified"}
    fixed = BoundCertifier(["ibp", "crown"], RADII, NativeEngine, scales=SCALES.fixed()).certify(net, data)
    assert (fixed.radius >= found.radius).all()
    assert (fixed.radius > found.radius).any()
    assert certifier.settings()["scales"]["categories"] == {"c": ["c=a", "c=b", "c=d"], "s": ["s=f", "s=m"]}
    assert Scales.from_dict(certifier.settings()["scales"]) == SCALES
    assert SCALES.sha256 != SCALES.fixed().sha256


@pytest.mark.parametrize("fusion", [False, True])
def test_training_takes_the_worst_category(fusion):
    net = network(5)
    data = batch(net)
    options = {"beta": Weight(0.5, 0.5), "kappa": Weight(0, 0), "loss_fusion": fusion}
    losses = []
    for scales in (SCALES.fixed(), SCALES):
        method = CrownIBP("0.05", Ramp(0, 4), scales=scales, **options)
        loss = method(net, NativeEngine(net), data, 5, Streams(0)).loss
        loss.backward()
        losses.append(loss.item())
    assert losses[1] > losses[0]
    assert bool(net[0].weight.grad.isfinite().all())


def test_training_refuses_statistics_of_rows_that_nobody_has():
    net = nn.Sequential(nn.Linear(7, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    data = batch(network())
    method = IBP("0.05", Ramp(0, 4), scales=SCALES)
    with pytest.raises(UserError, match="columns that may take any category with BatchNorm"):
        method(net, NativeEngine(net), data, 5, Streams(0))
    net, method = network(), IBP("0.05", Ramp(0, 4), regulariser=ShiRegulariser(0.5), scales=SCALES)
    with pytest.raises(UserError, match="columns that may take any category with the regularisers"):
        method(net, NativeEngine(net), data, 3, Streams(0))
