"""Losses of attacks, by hand."""

import math

import pytest
import torch

from certtrain.attacks import dlr, margin
from certtrain.attacks.losses import descended
from certtrain.errors import UserError

Z = torch.tensor([[3.0, 1.0, 0.5, -2.0], [3.0, 1.0, 0.5, -2.0], [3.0, 1.0, 0.5, -2.0]], dtype=torch.float64)
Y = torch.tensor([0, 1, 3])


def test_margin_by_hand():
    assert margin(Z, Y).tolist() == [2.0, -2.0, -5.0]


def test_dlr_by_hand():
    """Over z_1st - z_3rd = 3 - 0.5."""
    assert dlr(Z, Y).tolist() == [2.0 / 2.5, -2.0 / 2.5, -5.0 / 2.5]


def test_dlr_of_three_classes_divides_by_the_range():
    assert dlr(Z[:, :3], torch.tensor([0, 1, 2])).tolist() == [2.0 / 2.5, -2.0 / 2.5, -2.5 / 2.5]


def test_two_classes_have_no_third_logit_and_fall_back_to_the_margin():
    y = torch.tensor([0, 1, 0])
    assert torch.equal(dlr(Z[:, :2], y), margin(Z[:, :2], y))


def test_dlr_changes_neither_with_shift_nor_scale():
    assert torch.allclose(dlr(7 * Z + 3, Y), dlr(Z, Y))


def test_equal_logits_are_no_division_by_zero():
    assert dlr(torch.ones(1, 4), torch.tensor([2])).tolist() == [0.0]


def test_cross_entropy_is_ascended():
    y = torch.tensor([0])
    expected = math.log(math.exp(3) / sum(math.exp(z) for z in (3, 1, 0.5, -2)))
    assert descended("cross_entropy", Z[:1], y).item() == pytest.approx(expected)


def test_an_unknown_loss_is_refused():
    from certtrain.attacks import apgd_margins
    from certtrain.threat import threat_of

    with pytest.raises(UserError, match="unknown loss 'margn' of an attack") as error:
        apgd_margins(torch.nn.Linear(2, 2), torch.ones(1, 2), torch.zeros(1).long(), threat_of(), loss="margn")
    assert "did you mean margin?" in str(error.value)
