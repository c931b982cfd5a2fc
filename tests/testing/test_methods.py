"""Every method that the configuration offers, under the conformance suite; and the suite itself can fail."""

import functools

import pytest
import torch
import torch.nn.functional as F
from composing import composed

from certtrain.config import build
from certtrain.config.overrides import options
from certtrain.methods import Method, Objective
from certtrain.methods.teacher import Teacher
from certtrain.testing.methods import MethodSuite, small_network

TEACHER = Teacher(small_network(seed=9))
SHORT = ("schedule.warmup=1", "schedule.ramp=2", "epochs=4")
VARIANTS = [(f"method={name}",) for name in options("method")]
VARIANTS += [
    ("method=ibp", "method.regulariser=0"),
    ("method=crown_ibp", "method.regulariser=0"),
    ("method=crown_ibp", "method.loss_fusion=true"),
    ("method=ibp", "norm=l2"),
    ("method=ibp", "method.l1=0.001"),
]


@functools.cache
def config_of(*overrides):
    return composed(*overrides, *SHORT)


@pytest.mark.parametrize("overrides", VARIANTS, ids=" ".join)
class TestOffered(MethodSuite):
    @pytest.fixture(autouse=True)
    def chosen(self, overrides):
        self.overrides = overrides
        method = self.make()
        # Shi's are ratios of means over the batch.
        self.learns = "method=macer" not in overrides  # which asks for a radius of what is right: the loss begins anew
        self.splits = getattr(getattr(method, "base", method), "regulariser", None) is None

    @pytest.mark.slow
    def test_the_compiled_objective_is_the_same(self):
        """As tested of each class beside it, in `tests/methods`; here with the arguments of the configuration."""
        super().test_the_compiled_objective_is_the_same()

    def make(self):
        config = config_of(*self.overrides)
        if config["method"].get("teacher") == "???":
            config = {**config, "method": {**config["method"], "teacher": "a run"}}
        return build.build_method(config, 10, teacher=lambda name: TEACHER)


class Sloppy(Method):
    """Does what the suite is there to find."""

    def __init__(self, fault):
        self.fault, self.calls = fault, 0

    def prepare(self, network, engine, batch, step, streams):
        if self.fault == "generator":
            return batch._replace(x=batch.x + torch.randn_like(batch.x))
        if self.fault == "place":
            noise = torch.linspace(0, 1, len(batch.x))[:, None, None, None]
            return batch._replace(x=batch.x + noise)
        if self.fault == "graph":
            return batch._replace(x=batch.x.clone().requires_grad_())
        if self.fault == "mode":
            network.eval()
        return batch

    def objective(self, network, engine, inputs, phase, values):
        loss = F.cross_entropy(network(inputs.x), inputs.y, reduction="sum" if self.fault == "sum" else "mean")
        return Objective(loss * values["weight"], {"loss_own": loss if self.fault == "attached" else loss.detach()})

    def scheduled(self, step):
        self.calls += 1
        return {"weight": float(self.calls) if self.fault == "counting" else 1.0}


@pytest.mark.parametrize(
    ("fault", "test"),
    [
        ("generator", "test_the_same_arguments_give_the_same_objective"),
        ("place", "test_random_numbers_belong_to_the_example_not_to_its_place"),
        ("graph", "test_what_is_prepared_has_no_gradient_and_leaves_the_network_alone"),
        ("mode", "test_what_is_prepared_has_no_gradient_and_leaves_the_network_alone"),
        ("sum", "test_a_batch_is_the_mean_of_its_parts"),
        ("attached", "test_losses_and_gradients_are_finite_in_every_phase"),
        ("counting", "test_schedules_are_functions_of_the_step"),
    ],
)
def test_the_suite_finds_a_fault(fault, test):
    class Suite(MethodSuite):
        def make(self):
            return Sloppy(fault)

    with pytest.raises(AssertionError):
        getattr(Suite(), test)()


def test_the_suite_passes_a_sound_method():
    class Suite(MethodSuite):
        def make(self):
            return Sloppy("none")

    for name in [name for name in dir(MethodSuite) if name.startswith("test_")]:
        getattr(Suite(), name)()
