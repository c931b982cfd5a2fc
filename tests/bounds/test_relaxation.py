"""The lines around a ReLU: on both sides of it, the lower one by the adaptive rule."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from certtrain.bounds.relaxation import Lines


def lines(lower, upper, dtype=torch.float64):
    return Lines.of(torch.tensor([lower], dtype=dtype), torch.tensor([upper], dtype=dtype))


def test_adaptive_rule_and_chord():
    for lower, upper, low, high, offset in [
        (-1.0, 3.0, 1.0, 0.75, 0.75),
        (-3.0, 1.0, 0.0, 0.25, 0.75),
        (-1.0, 0.75, 0.0, 3 / 7, 3 / 7),  # 1 only if u > |l|
        (-1.0, 1.25, 1.0, 5 / 9, 5 / 9),
        (1.0, 2.0, 1.0, 1.0, 0.0),
        (-2.0, -1.0, 0.0, 0.0, 0.0),
        (0.0, 0.0, 0.0, 1.0, 0.0),
    ]:
        found = lines(lower, upper)
        expected = torch.tensor([low, high, offset], dtype=torch.float64)
        torch.testing.assert_close(torch.cat([found.low, found.high, found.offset]), expected)


@settings(deadline=None)
@given(
    st.sampled_from([torch.float32, torch.float64]),
    st.floats(-10, 10, width=32),
    st.one_of(st.just(0.0), st.floats(0, 2**-20, width=32), st.floats(0, 10, width=32)),
)
def test_relu_lies_between(dtype, lower, width):
    lower, width = torch.tensor(lower, dtype=dtype), torch.tensor(width, dtype=dtype)
    upper = lower + width
    found = Lines.of(lower[None], upper[None])
    z = torch.lerp(lower, upper, torch.linspace(0, 1, 33, dtype=dtype)).double().clamp(lower.double(), upper.double())
    rounding = 4 * torch.finfo(dtype).eps * (lower.abs() + upper.abs()).double()
    assert (found.low.double() * z <= z.relu() + rounding).all()
    assert (found.high.double() * z + found.offset.double() >= z.relu() - rounding).all()


def test_nan_stays_nan():
    found = lines(float("nan"), float("nan"))
    assert found.high.isnan()
    assert found.offset.isnan()
