"""What a card warns of, in words."""

from dataclasses import replace
from fractions import Fraction

import pytest

from certtrain.bounds import NativeEngine
from certtrain.certification.card import scales_warning, trained_with_warnings
from certtrain.certifiers import BoundCertifier, SmoothingCertifier
from certtrain.threat.scales import Scales

NAMES = ("age", "height", "weight", "income", "c=a", "c=b", "d=x", "d=y")
SIZES = (Fraction(6, 100), *[Fraction(1, 3)] * 3, *[Fraction(0)] * 4)
TRAINED = Scales(NAMES, SIZES, (50, *[0] * 7), "measured", (("d", (6, 7)),))


def sized(**sizes):
    values = [sizes.get(name, value) for name, value in zip(NAMES, SIZES)]
    return replace(TRAINED, values=tuple(values), name="others")


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (replace(TRAINED, name="new"), "the same sizes"),
        (sized(age=Fraction(1, 10)), "age 0.06 by whole numbers, now 0.1 by whole numbers"),
        (replace(TRAINED, whole=(0,) * 8), "age 0.06 by whole numbers, now 0.06"),
        (sized(income=Fraction(0)), "income 0.333, now 0"),
        (sized(income=Fraction(333333, 1000000)), "income 85/255, now 0.333333"),  # what three digits do not tell apart
        (replace(TRAINED, groups=()), "d any category, now as it is"),
        (replace(TRAINED, groups=(("c", (4, 5)),)), "d any category, now as it is; c as it is, now any category"),
        (
            Scales(NAMES, (*[Fraction(1)] * 4, *SIZES[4:]), (0,) * 8),
            "d any category, now as it is; age 0.06 by whole numbers, now 1; height 0.333, now 1; and 2 more",
        ),
    ],
)
def test_other_scales_than_in_training_are_told_by_what_differs(now, said):
    expected = f"trained for scales {TRAINED.label}, certified for scales {now.label}: {said}"
    assert scales_warning(TRAINED, now) == expected
    assert len(expected) < 200


def test_scales_or_none():
    assert scales_warning(None, None) is scales_warning(TRAINED, replace(TRAINED)) is None
    assert scales_warning(TRAINED, None) == f"trained for scales {TRAINED.label}, certified for a ball without scales"
    assert scales_warning(None, TRAINED) == f"trained for a ball without scales, certified for scales {TRAINED.label}"


@pytest.mark.parametrize("around", [False, True])
def test_a_method_around_another_was_trained_with_its_noise_and_radius(around):
    """What the base takes is below `base`."""

    def trained(**method):
        node = {"_target_": "x", "base": method} if around else method
        return {"method": node, "sigma": 0.25, "eps": "0.1", "norm": "linf"}

    now = {"sigma": 0.25, "radii": ["0.2"], "norm": "linf"}
    smoothing = SmoothingCertifier(sigma=0.25, radii=["0.2"], n0=10, n=100, alpha=0.001, seed=0)
    assert trained_with_warnings(trained(sigma=0.25), now, (None, None), [smoothing]) == []
    assert trained_with_warnings(trained(kappa={}), now, (None, None), [smoothing]) == [
        "trained without noise, certified by smoothing"
    ]
    bounds = BoundCertifier(["ibp"], ["0.2"], NativeEngine)
    assert trained_with_warnings(trained(kappa={}), now, (None, None), [bounds]) == [
        "trained for eps 0.1, certified up to 0.2"
    ]
