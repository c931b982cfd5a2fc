"""Ordinary training, by hand."""

import math

import pytest

from certtrain.errors import UserError
from certtrain.methods import Standard, Streams


def test_loss_and_parts_by_hand(paper_network, paper_batch, refusing_engine):
    # Logits (1, 0); |w|: 1 + 1 + 1 + 2 = 5.
    objective = Standard(l1=0.1)(paper_network, refusing_engine, paper_batch, 7, Streams(0))
    natural = math.log(1 + math.exp(-1))
    assert objective.loss.item() == pytest.approx(natural + 0.5, rel=1e-6)
    assert {name: part.item() for name, part in objective.parts.items()} == pytest.approx(
        {"loss_natural": natural, "clean": 1.0, "loss_l1": 0.5}, rel=1e-6
    )
    assert not any(part.requires_grad for part in objective.parts.values())
    objective.loss.backward()
    assert paper_network[0].weight.grad.abs().sum() > 0


def test_nothing_is_scheduled_and_no_engine_is_needed():
    method = Standard()
    assert method.scheduled(5) == {}
    assert method.ramp_end == 0
    assert not method.needs_engine


@pytest.mark.parametrize("l1", [-1.0, math.nan, math.inf, "0.1"])
def test_a_wrong_l1_is_named(l1):
    with pytest.raises(UserError, match=r"method\.l1"):
        Standard(l1=l1)
