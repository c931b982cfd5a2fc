"""What each feature may do under a certificate, in its own units."""

from fractions import Fraction

from html_reader import Reader
from makers import bound_rows, certificate, html

from certtrain.reporting.page.allowed import allowed
from certtrain.reporting.page.evidence import Certified
from certtrain.threat.features import Feature, features_to_list
from certtrain.threat.scales import Scales

SCALES = Scales(("age", "<b>income", "sex"), (Fraction(1, 36), Fraction(1, 50), Fraction(0)), (72, 0, 0), "survey")
FEATURES = [Feature("age", 18.0, 90.0, 12.0), Feature("<b>income", 0.0, 1e5, 2e4), Feature("sex", 0.0, 1.0, 0.5)]


def of(**more):
    return certificate(bound_rows(), settings={"precision": "float64", "scales": SCALES.to_dict()}, **more)


def settings(found):
    return Certified(found.name, found.card, found.rows, {**found.entry, "settings": found.card["settings"]})


def test_changes_in_own_units():
    made = settings(of(input_contract={"features": features_to_list(FEATURES)}))
    title, table = allowed(made)
    rows = Reader(html("table", table)).table("feature")
    assert [row["feature"] for row in rows] == ["age", "<b>income", "sex"]
    own = [row["at radius 1, in its own units"] for row in rows]
    assert own == ["± 2, whole numbers", "± 2000", "none"]
    assert rows[0]["range in the training part"] == "18 to 90"
    assert f"2 of 3 features, survey ({SCALES.sha256[:8]})" in title


def test_without_ranges_shares_only_and_without_sizes_nothing():
    rows = Reader(html("table", allowed(settings(of()))[1])).table("feature")
    assert [row["at radius 1 (% of its range)"] for row in rows] == ["± 2.778", "± 2", "none"]
    assert {row["at radius 1, in its own units"] for row in rows} == {"–"}
    assert allowed(certificate(bound_rows())) is None


def test_a_card_that_says_nonsense_is_said_to():
    made = settings(certificate(bound_rows(), settings={"scales": {"name": "x", "sha256": "0"}}))
    title, table = allowed(made)
    assert title.startswith("What may change cannot be read from the card: KeyError")
    assert table is None
