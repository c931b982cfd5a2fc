"""Every noise under the conformance suite; and the suite itself can fail."""

import importlib
import pkgutil

import numpy as np
import pytest
import torch
from scipy.special import ndtr

import certtrain.smoothing
from certtrain.smoothing.distribution import Gaussian, Noise
from certtrain.smoothing.uniform import Uniform
from certtrain.testing.noises import NoiseSuite

LAWS = {
    Gaussian: lambda noise, z: ndtr(z / noise.sigma),
    Uniform: lambda noise, z: np.clip(0.5 + z / (2 * noise.width), 0, 1),
}


def offered():
    for module in pkgutil.iter_modules(certtrain.smoothing.__path__):
        importlib.import_module(f"certtrain.smoothing.{module.name}")
    return [kind for kind in Noise.__subclasses__() if kind.__module__.startswith("certtrain.")]


@pytest.mark.parametrize("kind", offered(), ids=lambda kind: kind.__name__)
class TestOffered(NoiseSuite):
    @pytest.fixture(autouse=True)
    def chosen(self, kind):
        self.kind = kind

    def cdf(self, noise, z):
        return LAWS[self.kind](noise, z)


class Faulty(Uniform):
    """Uniform noise with one fault."""

    fault = ""

    def __init__(self, sigma):
        if self.fault == "any sigma":
            self.sigma = float(sigma or 1)
        else:
            super().__init__(sigma)

    def rows(self, seed, purpose, split, index, draw, shape):
        if self.fault == "any stream":
            split = "test"
        if self.fault == "one stream":
            purpose = "select"
        if self.fault == "any index":
            index = index * 0
        whole = super().rows(seed, purpose, split, index, draw, shape)
        if self.fault == "generator":
            return self.sigma * torch.randn(len(index), *shape)
        if self.fault == "place":
            return whole.roll(len(index) // 2, -1)
        if self.fault == "wide":
            return whole * 1.02
        if self.fault == "biased":
            return whole + 0.02 * self.sigma
        if self.fault == "tails":
            return whole.where(whole.abs() < 0.99 * self.width, whole.sign() * 1.001 * self.width)
        if self.fault == "normal":
            return Gaussian(self.sigma).rows(seed, purpose, split, index, draw, shape)
        if self.fault == "coupled":
            flat = whole.flatten(1)
            return (0.98 * flat + 0.2 * flat.roll(1, 1)).reshape(whole.shape)
        return whole

    def radius(self, p):
        if self.fault == "long":
            return 1.05 * super().radius(p)
        if self.fault == "short":
            return 0.5 * super().radius(p)
        if self.fault == "shifted":
            return super().radius(p) + 1e-3 * self.sigma
        if self.fault == "falling":
            return np.where(p > 0.95, 0.5, 1) * super().radius(p)
        return super().radius(p)

    def between(self, p_a, p_b):
        return {"long between": 1.05, "short between": 0.5}.get(self.fault, 1) * super().between(p_a, p_b)

    def one_sided(self, count, n, alpha):
        return super().one_sided(count, n, 2 * alpha if self.fault == "confident" else alpha)

    def settings(self):
        return {"sigma": np.float32(self.sigma)} if self.fault == "settings" else super().settings()

    def test(self, device, *, seed, precision):
        return {} if self.fault == "test" else super().test(device, seed=seed, precision=precision)


@pytest.mark.parametrize(
    ("fault", "test"),
    [
        ("wide", "test_numbers_have_the_moments_of_the_law"),
        ("biased", "test_numbers_have_the_moments_of_the_law"),
        ("normal", "test_numbers_follow_the_law"),
        ("tails", "test_numbers_follow_the_law"),
        ("coupled", "test_numbers_are_independent"),
        ("one stream", "test_numbers_are_independent"),
        ("generator", "test_numbers_are_keyed"),
        ("place", "test_numbers_are_keyed"),
        ("any index", "test_numbers_are_keyed"),
        ("any stream", "test_numbers_are_keyed"),
        ("any stream", "test_a_stream_that_there_is_not_is_refused"),
        ("shifted", "test_a_radius_is_0_at_one_half_and_grows"),
        ("falling", "test_a_radius_is_0_at_one_half_and_grows"),
        ("short between", "test_a_radius_between_two_classes"),
        ("long", "test_no_radius_is_larger_than_that_of_the_worst_classifier"),
        ("long between", "test_no_radius_between_two_classes_is_larger_than_that_of_the_worst"),
        ("short", "test_radii_are_as_large_as_they_can_be"),
        ("short between", "test_radii_are_as_large_as_they_can_be"),
        ("confident", "test_claims_are_wrong_no_more_often_than_alpha"),
        ("settings", "test_settings_state_it"),
        ("any sigma", "test_what_is_no_standard_deviation_is_refused"),
        ("test", "test_its_test_of_itself_passes_it_and_refuses_broken_ones"),
    ],
)
def test_the_suite_finds_a_fault(fault, test):
    class Suite(NoiseSuite):
        kind = type("Chosen", (Faulty,), {"fault": fault})

        def cdf(self, noise, z):
            return LAWS[Uniform](noise, z)

    with pytest.raises((AssertionError, TypeError)):
        getattr(Suite(), test)()
