"""What every threat model must do, on images of few pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor

from certtrain.attacks import inner, inside, margin
from certtrain.bounds import NativeEngine
from certtrain.claim import Claim
from certtrain.errors import UserError
from certtrain.testing.methods import CLASSES, SHAPE, small_network
from certtrain.threat import Threat


class ThreatSuite:
    """Inherit, and define `make`.

    Attributes:
        radii: at which it is tried, in its own measure; the last may be wider than the input range.
    """

    radii: ClassVar[tuple[Fraction, ...]] = (Fraction(1, 1000), Fraction(2, 255), Fraction(1, 3), Fraction(2))

    def make(self) -> Threat:
        """The threat model, at any radius."""
        raise NotImplementedError

    def inputs(self) -> Tensor:
        """(B, ...) float64 inputs of the range, some of them at its ends."""
        x = torch.rand(6, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        x[0], x[1] = 0, 1
        return x

    def points(self, radius: Fraction) -> Tensor:
        """(B, N, ...) inputs that attacks reach in the exact set: starts, and steps along random gradients."""
        x, draw = self.inputs(), torch.Generator().manual_seed(1)
        moves = inner(self.make(), torch.full((len(x),), inside(radius), dtype=torch.float64)).moves(x)
        found = [x]
        for restart in range(4):
            point = moves.start(restart, seed=3)
            for _ in range(3):
                found.append(point)
                gradient = torch.randn(x.shape, dtype=x.dtype, generator=draw)
                point = moves.project(point + moves.eps * moves.direction(gradient))
        found = [point if moves.admissible is None else moves.admissible(point) for point in found]
        return torch.stack(found, 1)

    def test_it_says_what_it_is(self) -> None:
        """Name, symbol and set, which a claim takes from it."""
        threat = self.make()
        assert threat.name.startswith(threat.norm)
        assert threat.symbol
        assert threat.described() != "" != threat.described(closed=False)
        claim = Claim.about(threat, "deterministic", radii="grid", subject="It", proof="Proved.")
        assert Claim.from_dict(claim.to_dict()) == claim
        assert threat.symbol in claim.axis or threat.unit in claim.axis

    def test_another_radius_is_the_same_threat_model(self) -> None:
        """`at` changes the radius alone."""
        threat = self.make()
        other = threat.at(self.radii[0])
        assert (other.name, other.eps, replace(other, eps=threat.eps)) == (threat.name, self.radii[0], threat)

    def test_a_negative_radius_is_refused(self) -> None:
        """There is no set of it."""
        assert _refusal(lambda: self.make().at(-0.1)) is not None

    def test_the_distance_is_0_at_the_input_and_grows_with_the_change(self) -> None:
        """Positive where something changed, and no smaller for twice the change."""
        threat, x = self.make(), self.inputs()
        offset = 0.01 * torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(2))
        assert torch.equal(threat.distance(torch.zeros_like(x)), torch.zeros(len(x), dtype=x.dtype))
        assert bool((threat.distance(offset) > 0).all())
        assert bool((threat.distance(2 * offset) >= threat.distance(offset)).all())

    def test_attacks_never_leave_the_set(self) -> None:
        """What is reached is within the exact radius, and in the input range."""
        if not self.make().attackable:
            return
        threat, x = self.make(), self.inputs()
        for radius in self.radii:
            points = self.points(radius)
            for point in points.unbind(1):
                distance = threat.distance(point - x)
                assert all(Fraction(far) <= radius for far in distance.tolist()), (radius, distance)
            assert threat.lower is None or float(points.min()) >= threat.lower
            assert threat.upper is None or float(points.max()) <= threat.upper

    def test_attacks_use_the_room_that_there_is(self) -> None:
        """Some point is more than a third of the radius away: a set that is too small would find nothing."""
        if not self.make().attackable:
            return
        x, radius = self.inputs(), self.radii[0]
        farthest = max(float(self.make().distance(p - x).max()) for p in self.points(radius).unbind(1))
        assert farthest > float(radius) / 3

    def test_bounds_hold_for_every_point_that_is_reached(self) -> None:
        """Lower bounds over the outward set are below the margins of all points of the exact one."""
        if not (self.make().attackable and self.make().bounded):
            return
        x, network = self.inputs(), small_network().double().eval()
        y = torch.arange(len(x)) % CLASSES
        engine = NativeEngine(network)
        for radius in self.radii:
            threat = replace(self.make(), eps=radius, outward=True)
            found = engine.bounds(x, y, threat, engine.methods).margins
            for point in self.points(radius).unbind(1):
                for least in found.values():
                    assert bool((least.amin(1) <= margin(network(point), y) + 1e-9).all())

    def test_what_it_lacks_is_refused_by_name(self) -> None:
        """Engines and attacks that need a set or moves that there are not."""
        x = self.inputs()
        for there, use in ((self.make().attackable, self.make().moves), (self.make().bounded, self.make().region)):
            if there:
                continue
            refused = _refusal(lambda use=use: use(x))
            assert refused is not None
            assert self.make().symbol in refused.what


def _refusal(use: Callable[[], object]) -> UserError | None:
    try:
        use()
    except UserError as error:
        return error
    return None
