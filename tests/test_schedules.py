"""Schedules against the published formulas and numbers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from certtrain.errors import UserError
from certtrain.schedules import LearningRate, Ramp, Schedule, Timed, Timeline, Weight, in_steps

lengths = st.integers(0, 5000)
unit = st.floats(0, 1)
ramps = st.builds(
    Ramp,
    start=st.integers(0, 300),
    length=lengths,
    shape=st.sampled_from(["linear", "smoothed"]),
    mid=st.floats(0.01, 0.99),
    power=st.floats(1, 8),
)


def published_smoothed(step: int, first: int, last: int, mid: float, beta: float) -> float:
    """The formula as printed: v_init = 0, v_final = 1."""
    middle = first + int(mid * (last - first))
    t = (middle - first) ** (beta - 1)
    alpha = 1 / ((last - middle) * beta * t + (middle - first) * t)
    if step <= first:
        return 0.0
    if step >= last:
        return 1.0
    if step < middle:
        return alpha * (step - first) ** beta
    return alpha * (middle - first) ** beta + (1 - alpha * (middle - first) ** beta) * (step - middle) / (last - middle)


@pytest.mark.parametrize(
    ("share", "fraction"),
    [(0.05, 0.00012), (0.1, 0.00197), (0.2, 0.0315), (0.25, 0.0769), (0.5, 0.3846), (0.75, 0.6923)],
)
def test_smoothed_ramp_has_the_published_values(share, fraction):
    ramp = Ramp(start=700, length=10_000, shape="smoothed")
    assert ramp.fraction(700 + int(share * 10_000)) == pytest.approx(fraction, abs=6e-5 if share > 0.1 else 6e-6)


@given(ramp=ramps, data=st.data())
def test_smoothed_ramp_equals_the_printed_formula(ramp, data):
    if ramp.shape == "linear" or int(ramp.mid * ramp.length) == 0:
        return
    step = data.draw(st.integers(0, ramp.end + 10))
    expected = published_smoothed(step, ramp.start, ramp.end, ramp.mid, ramp.power)
    assert ramp.fraction(step) == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_smoothed_ramp_is_continuously_differentiable_at_the_middle():
    ramp = Ramp(start=0, length=1_000_000, shape="smoothed")
    middle = 250_000
    before = ramp.fraction(middle) - ramp.fraction(middle - 1)
    after = ramp.fraction(middle + 1) - ramp.fraction(middle)
    assert before == pytest.approx(after, rel=1e-4)
    assert after > 1e-7


@given(ramp=ramps)
def test_ramp_rises_from_zero_to_one_and_reaches_it_at_its_end(ramp):
    values = [ramp.fraction(step) for step in range(max(0, ramp.start - 2), ramp.end + 3)]
    assert values == sorted(values)
    assert ramp.fraction(ramp.end) == 1.0
    assert ramp.fraction(10**9) == 1.0
    if ramp.length:
        assert ramp.fraction(ramp.start) == 0.0
        assert ramp.fraction(ramp.end - 1) < 1.0
    if ramp.start:
        assert ramp.fraction(ramp.start - 1) == 0.0


def test_linear_ramp_by_hand_and_a_jump():
    ramp = Ramp(start=10, length=4)
    assert [ramp.fraction(step) for step in (0, 10, 11, 12, 13, 14, 99)] == [0, 0, 0.25, 0.5, 0.75, 1, 1]
    assert ramp.end == 14
    jump = Ramp(start=3, length=0, shape="smoothed")
    assert [jump.fraction(step) for step in (0, 2, 3, 4)] == [0, 0, 1, 1]
    assert Ramp(0, 0).fraction(0) == 1.0


@given(ramp=ramps, end=unit, step=st.integers(0, 6000), eps=st.floats(1e-3, 1))
def test_eps_linked_weight_is_zhangs_kappa(ramp, end, step, eps):
    eps_t = eps * ramp.fraction(step)
    assert Weight(1.0, end, "eps").at(step, ramp) == pytest.approx((eps - eps_t * (1 - end)) / eps, abs=1e-12)


@given(ramp=ramps, start=unit, end=unit, by=st.sampled_from(["eps", "step"]), step=st.integers(0, 6000))
def test_weight_stays_between_its_ends_and_reaches_both(ramp, start, end, by, step):
    weight = Weight(start, end, by)
    assert min(start, end) - 1e-15 <= weight.at(step, ramp) <= max(start, end) + 1e-15
    assert 0 <= weight.at(step, ramp) <= 1
    assert weight.at(ramp.end, ramp) == end
    if ramp.length:
        assert weight.at(ramp.start, ramp) == start


def test_step_linked_weight_is_linear_on_a_smoothed_ramp():
    ramp = Ramp(start=100, length=1000, shape="smoothed")
    weight = Weight(1.0, 0.5, "step")
    assert [weight.at(s, ramp) for s in (0, 100, 350, 600, 1100)] == pytest.approx([1, 1, 0.875, 0.75, 0.5])
    assert Weight(1.0, 0.5, "eps").at(600, ramp) == pytest.approx(1 - 0.5 * 0.3846, abs=1e-4)


def scheduler_factors(make, epochs: int, steps_per_epoch: int) -> list[float]:
    """Factors per step of a torch scheduler that is stepped after each epoch, at learning rate 1."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(optimizer)
    factors = []
    for _ in range(epochs):
        for _ in range(steps_per_epoch):
            factors.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
        scheduler.step()
    return factors


@given(st.lists(st.integers(0, 12), min_size=1, max_size=4, unique=True), st.integers(1, 5))
def test_milestones_are_counted_in_whole_epochs_like_multi_step_lr(epochs, steps_per_epoch):
    epochs = sorted(epoch for epoch in epochs if epoch) or [1]
    rate = LearningRate("milestones", tuple(epoch * steps_per_epoch for epoch in epochs), gamma=0.2)
    peer = scheduler_factors(
        lambda o: torch.optim.lr_scheduler.MultiStepLR(o, milestones=epochs, gamma=0.2), 13, steps_per_epoch
    )
    assert [rate(step) for step in range(13 * steps_per_epoch)] == pytest.approx(peer)


def test_cosine_is_cosine_annealing():
    rate = LearningRate("cosine", total=40)
    peer = scheduler_factors(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=40), 40, 1)
    assert [rate(step) for step in range(40)] == pytest.approx(peer, abs=1e-9)
    assert rate(40) == rate(1000) == pytest.approx(0.0)


def test_drops_are_counted_only_after_the_ramp():
    rate = LearningRate("step_after_ramp", gamma=0.5, every=10, after=60)
    assert [rate(step) for step in (0, 59, 60, 69, 70, 79, 80)] == [1, 1, 1, 1, 0.5, 0.5, 0.25]


def test_milestones_after_the_ramp_move_with_it():
    """CTRAIN's `w5 r76 d11/31`: at 5 + 76 + 11 epochs, and 31 later; `d52/0` drops twice at one milestone."""
    timeline = Timeline(160, 10, 160, warmup=5, ramp=76)
    options = {"kind": "milestones_after_ramp", "milestones": [11, 42], "gamma": 0.5}
    rate = LearningRate(**LearningRate.in_steps(timeline, "schedule.lr", options))
    assert [rate(step) for step in (919, 920, 1229, 1230)] == [1, 0.5, 0.5, 0.25]
    assert LearningRate("milestones_after_ramp", (52, 52), gamma=0.5, after=10)(62) == 0.25


@given(
    rate=st.builds(
        LearningRate,
        kind=st.sampled_from(["constant", "milestones", "milestones_after_ramp", "cosine", "step_after_ramp"]),
        milestones=st.lists(st.integers(0, 500), min_size=1, max_size=5).map(lambda m: tuple(sorted(m))),
        gamma=st.floats(0.01, 1),
        every=st.integers(1, 100),
        after=st.integers(0, 200),
        total=st.integers(1, 600),
    )
)
def test_learning_rate_never_rises(rate):
    factors = [rate(step) for step in range(0, 700, 7)]
    assert factors == sorted(factors, reverse=True)
    assert all(0 <= factor <= 1 and math.isfinite(factor) for factor in factors)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ramp(-1, 5), "start of the ramp"),
        (lambda: Ramp(0, -5), "length of the ramp"),
        (lambda: Ramp(0, 2.5), "length of the ramp"),
        (lambda: Ramp(0, 5, "smothed"), "did you mean smoothed"),
        (lambda: Ramp(0, 5, mid=1.0), "mid"),
        (lambda: Ramp(0, 5, mid="0.4"), "mid"),
        (lambda: Ramp(0, 5, power=0.5), "power"),
        (lambda: Weight(1.0, 1.5), "end"),
        (lambda: Weight(-0.1, 1.0), "start"),
        (lambda: Weight(math.nan, 1.0), "start"),
        (lambda: Weight(1.0, 0.0, "epsilon"), "eps"),
        (lambda: LearningRate("milestone"), "did you mean milestones"),
        (lambda: LearningRate("milestones"), "at least one"),
        (lambda: LearningRate("milestones", (5, 3)), "ascending"),
        (lambda: LearningRate("milestones", (-5, 3)), "a milestone is -5"),
        (lambda: LearningRate(gamma=0.0), "gamma"),
        (lambda: LearningRate("step_after_ramp", every=0), "two drops"),
        (lambda: LearningRate("cosine", total=0), "length of training"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(UserError) as caught:
        make()
    assert message in str(caught.value)
    assert caught.value.where
    assert caught.value.fix


# --- declared in a configuration, in epochs


class Steps(Schedule):
    """A user's own: values that hold from given steps on."""

    lengths = {"at_steps": 0, "hold": 1}  # noqa: RUF012

    def __init__(self, values, at_steps, hold=1):
        self.values, self.at_steps, self.hold = values, at_steps, hold

    def at(self, step, ramp):
        return self.values[sum(start <= step for start in self.at_steps)]


OWN = f"{__name__}.Steps"


@pytest.mark.parametrize(("scale", "starts", "hold"), [(False, [100, 250], 3), (True, [50, 125], 2)])
def test_a_schedule_of_ones_own_is_converted_wherever_it_stands(scale, starts, hold):
    timeline = Timeline(30, 10, recipe_epochs=60, scale=scale, warmup=1, ramp=10)
    declared = {"_target_": OWN, "values": [0, 1, 2], "at_steps": [10, 25], "hold": 0.3}
    node = {"_target_": "a.Method", "parts": [{"_target_": "a.Part", "gamma": declared}], "beta": 10}
    found = in_steps(node, "method", timeline)
    expected = {**declared, "at_steps": starts, "hold": hold}
    assert found == {**node, "parts": [{"_target_": "a.Part", "gamma": expected}]}
    assert declared["at_steps"] == [10, 25]


def test_a_length_that_is_none_is_named_by_its_place():
    node = {"gamma": {"_target_": OWN, "values": [], "at_steps": [1, "two"]}}
    with pytest.raises(UserError, match=r"method.gamma.at_steps = 'two' is not a length in epochs"):
        in_steps(node, "method", Timeline(30, 10, 60))


def test_a_declared_ramp_and_learning_rate_take_from_the_run_what_they_do_not_state():
    timeline = Timeline(30, 7, recipe_epochs=60, scale=True, warmup=0.1, ramp=10.1)
    assert Ramp.in_steps(timeline, "schedule", {}) == {"start": 0, "length": 36}
    assert Ramp.in_steps(timeline, "method.ramp", {"start": 1, "length": 3}) == {"start": 4, "length": 10}
    rate = {"_target_": "certtrain.schedules.LearningRate", "kind": "step_after_ramp", "every": 0.01, "gamma": 0.5}
    assert in_steps(rate, "schedule.lr", timeline) == {**rate, "every": 1, "after": 36, "total": 210}
    with pytest.raises(UserError, match=r"take 30\.5 epochs, training only 30") as error:
        Ramp.in_steps(timeline, "method.ramp", {"start": 1, "length": 60})
    assert "method.ramp.length" in error.value.where


def test_what_counts_no_steps_is_left_as_it_is():
    node = {"_target_": "no_such_package.Thing", "every": 3, "more": {"_target_": "torch.nn.Linear", "in_features": 2}}
    assert in_steps(node, "method", Timeline(30, 10, 60)) == node
    assert not issubclass(Weight, Ramp)
    assert all(issubclass(kind, Timed) for kind in (Ramp, Weight, LearningRate))
