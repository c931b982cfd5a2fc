"""A claim says all that its readers need, and comes back from a card as what it was, or not at all."""

import contextlib
import json
from dataclasses import replace
from fractions import Fraction

import pytest
from claims import L2_BOUNDS, LINF, SMOOTHED, STAGED
from hypothesis import given
from hypothesis import strategies as st

from certtrain.certifiers.claims import bounds_claim
from certtrain.claim import Claim, claim_of
from certtrain.errors import UserError
from certtrain.threat import threat_of
from certtrain.threat.scales import Scales

SCALES = Scales(("age", "sex", "a", "b"), (Fraction(1, 10), Fraction(0), Fraction(0), Fraction(0)), (20, 0, 0, 0), "s")
ALL = [LINF, L2_BOUNDS, SMOOTHED, STAGED, bounds_claim(threat_of("linf", scales=SCALES), "float64")]


@pytest.mark.parametrize("claim", ALL)
def test_it_comes_back_from_a_card(claim):
    assert Claim.from_dict(json.loads(json.dumps(claim.to_dict()))) == claim
    assert claim_of({"claim": claim.to_dict()}) == claim


@pytest.mark.parametrize("claim", ALL)
def test_a_sentence_that_another_claim_makes_is_refused(claim):
    for key, value in (("threat", "l1"), ("closed", not claim.closed), ("radii", "count")):
        assert Claim.from_dict({**claim.to_dict(), key: value}) != claim
    other = {**claim.to_dict(), "region": "every input there is"}
    with pytest.raises(ValueError, match="sentence is not what its parts say"):
        Claim.from_dict(other)
    assert Claim.from_dict({**other, "says": replace(claim, region="every input there is").sentence()}) != claim


@given(
    st.dictionaries(st.sampled_from([*LINF.to_dict(), "alpha", "budget", "odd"]), st.none() | st.integers() | st.text())
)
def test_what_a_stranger_writes_is_a_claim_or_a_message(changed):
    with contextlib.suppress(UserError):
        assert isinstance(claim_of({"claim": {**SMOOTHED.to_dict(), **changed}}), Claim)


@pytest.mark.parametrize(
    "stated", [None, "proved", [], {}, {"kind": "deterministic"}, {**LINF.to_dict(), "alpha": True}]
)
def test_no_claim(stated):
    with pytest.raises(UserError, match="cannot be read"):
        claim_of({"claim": stated})


def test_alpha_belongs_to_what_may_be_false():
    for changed in ({"alpha": 0.1}, {"alpha": 0.1, "budget": "example"}, {"kind": "probabilistic", "alpha": 1.5}):
        with pytest.raises(ValueError, match="alpha"):
            replace(LINF, **changed)
    with pytest.raises(ValueError, match="radii is one of"):
        replace(LINF, radii="some")


def test_the_sentences_name_the_set_and_whose_class_is_claimed():
    assert "every input of the closed l-inf ball of the stated radius within [0, 1] as the label" in LINF.sentence()
    assert "every input of the closed l2 ball of the stated radius as the label" in L2_BOUNDS.sentence()
    assert "not a proof about float32 inference" in LINF.sentence()
    assert "the class of the smoothed classifier is constant in the open l2 ball" in SMOOTHED.sentence()
    assert "alpha holds per example" in SMOOTHED.sentence()
    assert "for all of them together" in replace(SMOOTHED, budget="dataset").sentence()
    scaled = ALL[-1].sentence()
    assert "times the sizes in settings.scales" in scaled
    assert "for the whole numbers in it" in scaled


def test_what_means_and_axes_are_called():
    assert [claim.mean_radius for claim in (LINF, SMOOTHED, STAGED)] == ["acr_grid", "acr", None]
    assert replace(LINF, radii="continuous").mean_radius == replace(LINF, radii="count").mean_radius == "acr"
    assert [claim.axis for claim in (LINF, SMOOTHED)] == ["l-inf radius", "l2 radius"]
    assert ALL[-1].axis == f"radius, in multiples of {SCALES.label}"
