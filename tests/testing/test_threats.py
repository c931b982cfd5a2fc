"""Every threat model, and sizes of features, under the conformance suite; and the suite itself can fail."""

from dataclasses import dataclass
from fractions import Fraction

import pytest
import torch

from certtrain.bounds import NativeEngine
from certtrain.bounds.auto_lirpa import AutoLirpaEngine
from certtrain.errors import UserError
from certtrain.testing.methods import small_network
from certtrain.testing.threats import ThreatSuite
from certtrain.threat import Linf, Scaled, Threat, norms, stated_threat
from certtrain.threat.moves import BoxMoves
from certtrain.threat.scales import Scales
from certtrain.threat.sets import Box


@pytest.mark.parametrize("norm", norms())
class TestOurs(ThreatSuite):
    @pytest.fixture(autouse=True)
    def chosen(self, norm):
        self.norm = norm

    def make(self):
        return norms()[self.norm]()

    def test_a_card_names_it(self):
        assert stated_threat(self.norm, {}) == self.make()


SIZES = tuple(Fraction(i % 4, 4) for i in range(16))


class TestScaled(ThreatSuite):
    radii = (Fraction(1, 100), Fraction(1, 3), Fraction(2))

    def make(self):
        return Scaled(scales=Scales(tuple(f"f{i}" for i in range(16)), SIZES, (0,) * 16))

    def test_the_distance_is_0_at_the_input_and_grows_with_the_change(self):
        threat, x = self.make(), self.inputs()
        assert torch.equal(threat.distance(torch.zeros_like(x)), torch.zeros(len(x), dtype=x.dtype))
        assert bool(threat.distance(torch.ones_like(x)).isinf().all())  # some features never change


@dataclass(frozen=True)
class Nothing(Threat):
    """What neither engines nor attacks know."""

    norm = "nothing"

    @property
    def symbol(self):
        return "no set at all"

    def described(self, *, closed=True):
        return "nothing"

    def distance(self, offset):
        return offset.flatten(1).abs().sum(1)


class TestNothing(ThreatSuite):
    def make(self):
        return Nothing()


@dataclass(frozen=True)
class Octagon(Nothing):
    """A set that no engine knows."""

    def region(self, x):
        return ("octagon", x)


@pytest.mark.parametrize("engine", [NativeEngine, AutoLirpaEngine])
@pytest.mark.parametrize("threat", [Nothing(0.1), Octagon(0.1)])
def test_a_third_set_is_never_taken_for_another(engine, threat):
    """`else` meant l2 in the engines: bounds over the wrong set, in silence."""
    x, y = torch.rand(2, 1, 4, 4), torch.tensor([0, 1])
    network = small_network().eval()  # engines do not keep one alive
    with pytest.raises(UserError, match="no set at all"):
        engine(network).bounds(x, y, threat)


class Wide(Linf):
    """Attacks leave the ball."""

    def moves(self, x):
        moves = super().moves(x)
        return BoxMoves(x, moves.eps, (x - 2 * moves.eps).clamp(0, 1), (x + 2 * moves.eps).clamp(0, 1))


class Narrow(Linf):
    """Bounds are over a part of the set."""

    def region(self, x):
        box = super().region(x)
        return Box(x, (x + box.lower) / 2, (x + box.upper) / 2)


class Still(Linf):
    """Attacks stay where they are."""

    def moves(self, x):
        return BoxMoves(x, super().moves(x).eps, x, x)


@pytest.mark.parametrize(
    ("kind", "test"),
    [
        (Wide, "test_attacks_never_leave_the_set"),
        (Narrow, "test_bounds_hold_for_every_point_that_is_reached"),
        (Still, "test_attacks_use_the_room_that_there_is"),
    ],
)
def test_the_suite_finds_what_is_wrong(kind, test):
    class Wrong(ThreatSuite):
        def make(self):
            return kind()

    with pytest.raises(AssertionError):
        getattr(Wrong(), test)()
