"""Keys of the configuration that may change between two sessions of one run."""

from __future__ import annotations

# What they change is not what is trained.
MAY_DIFFER = ("data_dir", "data.data_dir", "runs_dir", "resume", "trainer.accelerator", "logger", "choices.logger")
MAY_DIFFER += ("choices.callbacks", "choices.trainer", "trainer.devices", "trainer.check_every_n_steps")
MAY_DIFFER += ("checkpoint.every_n_seconds", "falsify", "budget")
# These leave a complete run work to do: to train on, and to certify the same weights.
EXTENDS = ("epochs", "certify_test")
# With these changed the weights and what is said about them stay what they were: training on sets certificates aside.
SAME_WEIGHTS = (*MAY_DIFFER, "certify_test")
