"""The optimiser that a configuration names."""

import pytest
import torch
from torch import nn

from certtrain.config.build import build_optimizer
from certtrain.errors import UserError

ADAM = {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.1}


@pytest.mark.parametrize(
    ("precision", "clip", "fused"),
    [("32-true", 1.0, True), ("bf16-mixed", None, True), ("bf16-mixed", 1.0, None)],
)
def test_it_is_fused_unless_lightning_would_not_clip_what_it_is_given(precision, clip, fused):
    trainer = {"precision": precision, "gradient_clip_val": clip}
    optimizer = build_optimizer({"optimizer": ADAM, "trainer": trainer})([nn.Parameter(torch.ones(2))])
    assert optimizer.param_groups[0]["fused"] is fused


def test_a_mistyped_setting_is_named():
    trainer = {"precision": "32-true", "gradient_clip_val": None}
    make = build_optimizer({"optimizer": {**ADAM, "weight_decai": 0.1}, "trainer": trainer})
    with pytest.raises(UserError, match="weight_decai") as error:
        make([nn.Parameter(torch.ones(2))])
    assert error.value.fix.startswith("did you mean weight_decay")
