"""Keys that the configuration got after runs had been made without them, and what those runs did.

A key that a saved configuration lacks counts as having the value given here: the run is gone on with, compared and
tabulated as what it was. A new key under `conf/` gets its line here, with the value that changes nothing.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

BEFORE: MappingProxyType[str, Any] = MappingProxyType(
    {
        "scales": None,
        "init": None,
        "schedule.mid": 0.25,
        "model.batch_norm": False,  # of the networks of Zhang et al.
        "model.last_stride": 1,
        "schedule.lr._target_": "certtrain.schedules.LearningRate",
        "method.kappa._target_": "certtrain.schedules.Weight",
        "method.beta._target_": "certtrain.schedules.Weight",
        "method.loss_fusion": False,
        "trainer.precision": "32-true",
        "trainer.channels_last": False,
        "trainer.compile": False,
        "certifier.smoothing.budget": "example",
        "certifier.smoothing.precision": "float32",
        "certifier.smoothing.batch_size": 512,
    }
)
