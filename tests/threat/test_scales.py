"""Per-feature sizes of a box: exact, outward for proofs, inward for attacks, on whole numbers where asked for."""

from fractions import Fraction

import pytest
import torch

from certtrain.attacks import inner, inside
from certtrain.certifiers.claims import bounds_claim
from certtrain.errors import UserError
from certtrain.threat import threat_of
from certtrain.threat.linf import OUTWARD
from certtrain.threat.scales import Scales

SCALES = Scales(
    ("still", "third", "one", "count"), (Fraction(0), Fraction(1, 3), Fraction(1), Fraction(1, 5)), (0, 0, 0, 10)
)
X = torch.tensor([[0.5, 0.25, 0.9, 0.3], [0.0, 1.0, 0.5, 1.0]]).double()


def test_a_box_has_the_size_of_each_feature_and_ends_at_the_range():
    lower, upper = threat_of(eps=Fraction(3, 10), scales=SCALES).box(X)
    assert lower[0].tolist() == pytest.approx([0.5, 0.15, 0.6, 0.24])
    assert upper[0].tolist() == pytest.approx([0.5, 0.35, 1.0, 0.36])
    assert upper[1].tolist() == [0.0, 1.0, pytest.approx(0.8), 1.0]


@pytest.mark.parametrize("eps", [Fraction(1, 10), torch.tensor([0.1, 0.2], dtype=torch.float64)])
def test_an_outward_box_holds_the_exact_one_and_leaves_immutable_features_exact(eps):
    lower, upper = threat_of(eps=eps, outward=True, scales=SCALES).box(X)
    assert torch.equal(lower[:, 0], X[:, 0])
    assert torch.equal(upper[:, 0], X[:, 0])
    radii = [Fraction(1, 10)] * 2 if isinstance(eps, Fraction) else [Fraction(float(e)) for e in eps]
    for row in range(2):
        for i in (1, 2, 3):
            value, exact = Fraction(float(X[row, i])), radii[row] * SCALES.values[i] + Fraction(OUTWARD)
            assert Fraction(float(lower[row, i])) <= max(value - exact, Fraction(0))
            assert Fraction(float(upper[row, i])) >= min(value + exact, Fraction(1))
            assert float(upper[row, i]) <= min(float(value + exact) + 1e-15, 1.0)


def test_the_box_of_an_attack_lies_in_the_exact_one():
    torch.manual_seed(0)
    values = tuple(Fraction(k, 997) for k in (0, 1, 10, 100, 500, 997, 1500))
    scales = Scales(tuple("abcdefg"), values, (0,) * 7)
    x = torch.rand(200, 7, dtype=torch.float64)
    for radius in (Fraction(1, 1000), Fraction(1, 7), Fraction(9, 10)):
        for eps in (inside(radius), torch.full((200,), inside(radius), dtype=torch.float64)):
            lower, upper = inner(threat_of(outward=True, scales=scales), eps).box(x)
            for i, value in enumerate(values):
                for at, low, high in zip(x[:, i].tolist(), lower[:, i].tolist(), upper[:, i].tolist()):
                    assert max(Fraction(at) - radius * value, 0) <= Fraction(low) <= at
                    assert at <= Fraction(high) <= min(Fraction(at) + radius * value, 1)


def test_scales_of_ones_change_no_bit():
    ones, x = Scales(tuple("abcd"), (Fraction(1),) * 4, (0,) * 4), torch.rand(5, 4, dtype=torch.float64)
    for kind in ({"outward": True}, {}, {"inward": True}):
        for eps in (Fraction(2, 255), 0.1, torch.rand(5, dtype=torch.float64)):
            plain, scaled = threat_of(eps=eps, **kind).box(x), threat_of(eps=eps, scales=ones, **kind).box(x)
            assert torch.equal(plain[0], scaled[0])
            assert torch.equal(plain[1], scaled[1])


def test_whole_numbered_features_move_by_whole_numbers_within_the_radius():
    scales = Scales(("count", "real"), (Fraction(1, 5), Fraction(1)), (10, 0))
    numbers = torch.arange(11).double() / 10
    x = torch.stack([numbers.float().double(), torch.full((11,), 0.5)], 1)
    point = x + torch.tensor([0.17, 0.01])  # 1.7 of 10 upwards: to 2 where the radius reaches it
    for radius, most in ((Fraction(1), 2), (Fraction(99, 100), 1), (Fraction(1, 2), 1), (Fraction(1, 4), 0)):
        size = threat_of(eps=inside(radius), scales=scales, inward=True).eps_tensor(x)
        moved = scales.admissible(point, x, size)
        expected = (torch.arange(11) + min(most, 2)).clamp_max(10).double() / 10
        assert torch.equal(moved[:, 0], expected.float().double())  # as a data module scales them
        assert torch.equal(moved[:, 1], point[:, 1])
    beside = x + torch.tensor([0.03, 0.0])  # no row of whole numbers: left as it is
    assert torch.equal(scales.admissible(point, beside, size)[:, 0], beside[:, 0])


@pytest.mark.parametrize("count", [10, 10**5, 4 * 10**6, 6 * 10**6, 2**23 - 1])
def test_whole_numbers_lie_in_the_box_that_is_proved_also_of_rows_with_fractions(count):
    draw = torch.Generator().manual_seed(count)
    rows = torch.randint(count + 1, (4000, 1), generator=draw) + torch.rand(
        4000, 1, generator=draw, dtype=torch.float64
    )
    x = (rows / count).clamp(0, 1).float().double()
    for most in range(1, 10):
        units = Fraction(-(-most * 10**12 // count), 10**12)  # as `resolve_scales` rounds them up
        scales = Scales(("count",), (units,), (count,))
        lower, upper = threat_of(eps=Fraction(1), scales=scales, outward=True).box(x)
        size = threat_of(eps=inside(Fraction(1)), scales=scales, inward=True).eps_tensor(x)
        for point in (x - size, x + size):
            moved = scales.admissible(point, x, size)
            assert bool(((lower <= moved) & (moved <= upper)).all())


def test_distances_are_the_radius_that_reaches_a_point():
    offset = torch.tensor([[0.0, 0.1, 0.2, 0.0], [1e-9, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.2 + 1e-9]]).double()
    assert SCALES.distance(offset).tolist() == [pytest.approx(0.3), float("inf"), 1.0]


def test_the_hash_is_of_sizes_and_the_dictionary_gives_them_back():
    found = Scales.from_dict(SCALES.to_dict())
    assert found == SCALES
    assert SCALES.to_dict()["features"] == {"still": "0", "third": "85/255", "one": "1", "count": "0.2"}
    other = Scales(SCALES.names, (Fraction(0), Fraction(1, 3), Fraction(1), Fraction(1, 4)), SCALES.whole)
    assert other.sha256 != SCALES.sha256
    assert Scales(SCALES.names, SCALES.values, (0,) * 4).sha256 != SCALES.sha256
    assert SCALES.immutable == ("still",)


def test_balls_are_named_by_norm_and_scales():
    threat = threat_of("linf", scales=SCALES)
    assert threat.name == f"linf scaled by scaled ({SCALES.sha256[:8]})"
    assert threat.symbol == f"l-inf scaled by {SCALES.label}"
    assert bounds_claim(threat, "float64").axis == f"radius, in multiples of {SCALES.label}"
    assert (threat_of("l2").symbol, bounds_claim(threat_of("l2"), "float64").axis) == ("l2", "l2 radius")


def test_what_makes_no_box_is_refused():
    with pytest.raises(UserError, match="sizes per feature are those of a box, and the l2 ball is the same in all"):
        threat_of("l2", scales=SCALES)
    with pytest.raises(ValueError, match="not all are 0"):
        Scales(("a",), (Fraction(0),), (0,))
    with pytest.raises(ValueError, match="each named once"):
        Scales(("a", "a"), (Fraction(1),) * 2, (0, 0))
    with pytest.raises(ValueError, match="4 scales for inputs of shape"):
        threat_of(eps=0.1, scales=SCALES).box(torch.rand(2, 3))


def test_sizes_asked_for_in_inference_mode_are_none_that_autograd_refuses():
    # A size of its own, which no other test has asked for before.
    scales = Scales(("a", "b"), (Fraction(1, 7), Fraction(1, 11)), (0, 0))
    with torch.inference_mode():
        scales.tensor(torch.zeros(1, 2))
    eps = torch.tensor(0.5, requires_grad=True)
    threat_of("linf", scales=scales).at(eps).box(torch.full((1, 2), 0.5))[1].sum().backward()
    assert eps.grad == pytest.approx(1 / 7 + 1 / 11)


def test_torch_compile_follows_boxes_and_categories_of_scales_that_nothing_asked_before():
    scales = Scales(("a", "b", "c"), (Fraction(1, 3), Fraction(0), Fraction(0)), (0, 0, 0), groups=(("word", (1, 2)),))

    threat = threat_of("linf", scales=scales)

    def corners(x, eps):
        return [box.at(eps).box(part) for part, box in threat.parts(x)]

    x, eps = torch.tensor([[0.5, 1.0, 0.0], [0.2, 0.0, 0.0]]), torch.tensor(0.3)  # one row is of no category
    torch._dynamo.reset()
    found = torch.compile(corners, fullgraph=True, backend="eager")(x, eps)
    assert torch.equal(torch.stack([*map(torch.stack, found)]), torch.stack([*map(torch.stack, corners(x, eps))]))
    torch._dynamo.reset()
