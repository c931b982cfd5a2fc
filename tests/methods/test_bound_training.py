"""The frame of training with bounds: another robust loss is a few pure lines, regions and losses combine freely."""

from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F

from certtrain.bounds import NativeEngine
from certtrain.errors import UserError
from certtrain.methods import IBP, BoundTraining, CrownIBP, Ramp, Schedule, Streams, Weight
from certtrain.methods.inner_attack import InnerAttack
from certtrain.methods.mixture import Mixture
from certtrain.methods.regions import SmallBoxes
from certtrain.methods.robust import IntervalLoss, RobustLoss
from certtrain.testing.methods import MethodSuite, small_batch, small_network

RAMP, HALF = Ramp(2, 4), Weight(0.5, 0.5)


@dataclass(frozen=True)
class Blend(RobustLoss):
    """`alpha L_ibp + (1 - alpha) CE(z(x*), y)` with x* an adversarial input (De Palma et al. 2024, MTL-IBP)."""

    alpha: Schedule
    attack: InnerAttack = field(default_factory=InnerAttack)

    def prepare(self, network, inputs, threat, step, streams):
        start = streams.uniform(inputs.x, inputs.index, step, "blend")
        worst = self.attack(network, inputs.x, inputs.y, threat.box(inputs.x), start)
        return inputs._replace(points=(worst,))

    def loss(self, network, bounds, inputs, methods, values):
        certified, parts = IntervalLoss().loss(network, bounds, inputs, methods, values)
        attacked = F.cross_entropy(network(inputs.points[0]), inputs.y)
        alpha = values["alpha"]
        return alpha * certified + (1 - alpha) * attacked, {**parts, "loss_attacked": attacked.detach()}


class TestBlend(MethodSuite):
    def make(self):
        return BoundTraining(0.1, RAMP, Blend(Weight(0.2, 0.8)), kappa=Weight(0.0, 0.0))


class TestCrownOnSmallBoxes(MethodSuite):
    splits = False  # Shi's regulariser is about the whole batch

    def make(self):
        return BoundTraining(0.1, RAMP, Mixture(HALF), SmallBoxes(0.3), kappa=HALF, regulariser=0.5)


def losses(method):
    """At every step from the warm-up to after the ramp."""
    network, batch = small_network(), small_batch()
    engine = NativeEngine(network)
    return [method(network, engine, batch, step, Streams(0)).loss for step in range(8)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (BoundTraining(0.1, RAMP, IntervalLoss(), l1=0.01), IBP(0.1, RAMP, l1=0.01)),
        (BoundTraining(0.1, RAMP, Mixture(HALF), kappa=HALF), CrownIBP(0.1, RAMP, beta=HALF, kappa=HALF)),
        (BoundTraining(0.1, RAMP, Mixture(Weight(0.0, 0.0))), IBP(0.1, RAMP)),
        (BoundTraining(0.1, RAMP, Blend(Weight(1.0, 1.0))), IBP(0.1, RAMP)),
    ],
)
def test_what_is_the_same_objective_has_the_same_bits(one, other):
    assert all(torch.equal(a, b) for a, b in zip(losses(one), losses(other), strict=True))


def test_what_the_parts_schedule_is_found_logged_and_given_to_the_loss():
    method = BoundTraining(0.1, RAMP, Blend(Weight(0.0, 1.0)), kappa=HALF, regulariser=0.4)
    assert method.scheduled(4) == {"eps": 0.05, "kappa": 0.5, "regulariser": 0.2, "alpha": 0.5}
    assert list(CrownIBP(0.1, RAMP, regulariser=0.4).scheduled(0)) == ["eps", "kappa", "regulariser", "beta"]


def test_two_schedules_of_one_name_are_refused():
    @dataclass(frozen=True)
    class Own(IntervalLoss):
        kappa: Schedule = HALF

    with pytest.raises(ValueError, match="two schedules called kappa"):
        BoundTraining(0.1, RAMP, Own()).scheduled(0)


class Beyond(Schedule):
    def at(self, step, ramp):
        return 1.5 * ramp.fraction(step)


def test_a_schedule_that_leaves_its_range_is_refused_where_it_mixes():
    for method in (IBP(0.1, RAMP, kappa=Beyond()), CrownIBP(0.1, RAMP, beta=Beyond())):
        assert method.phase(3)
        with pytest.raises(UserError, match=r"is 1.5 at step 9, not in \[0, 1\]"):
            method.phase(9)
