"""Pairs of lines taken backwards, by hand."""

import torch

from certtrain.bounds.nonlinear import LinePairs, Nonlinear


def pairs():
    return LinePairs(*(torch.tensor([[value, 2 * value], [0.0, 1.0]]) for value in (1.0, -1.0, 3.0, 4.0)))


def test_positive_coefficients_take_the_lower_line_negative_ones_the_upper():
    """Example 0: 2 f_0 - f_1 >= 2 (z_0 - 1) - (6 z_1 + 8); example 1: both lines are 0 and z + 1."""
    before, constant = pairs().backward(torch.tensor([[[2.0, -1.0]], [[5.0, 1.0]]]))
    assert before.tolist() == [[[2.0, -6.0]], [[0.0, 1.0]]]
    assert constant.tolist() == [[-10.0], [1.0]]


def test_lines_of_some_examples():
    picked = pairs().at(torch.tensor([1, 0, 1]))
    assert picked.low.tolist() == [[0.0, 1.0], [1.0, 2.0], [0.0, 1.0]]
    assert picked.high_offset.shape == (3, 2)
    whole = pairs()
    assert whole.at(None) is whole


def test_only_a_box_that_is_a_point_is_settled():
    nan, inf = float("nan"), float("inf")
    lower, upper = torch.tensor([1.0, 1.0, nan, -inf]), torch.tensor([1.0, 1.5, nan, inf])
    assert Nonlinear().unsettled(lower, upper).tolist() == [False, True, True, True]
