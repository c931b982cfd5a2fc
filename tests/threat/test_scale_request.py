"""What a user writes under `scales`: sizes in own units, spreads and shares of the range, and everything refused."""

import re
from fractions import Fraction

import pytest

from certtrain.errors import UserError
from certtrain.threat.features import Feature
from certtrain.threat.scale_request import read_request, request_text, resolve_scales

FEATURES = (
    Feature("age", 18.0, 90.0, 12.0, whole=True),
    Feature("income", 0.0, 1e5, 2e4),
    Feature("sex=f", 0.0, 1.0, 0.5, whole=True, one_hot="sex"),
    Feature("sex=m", 0.0, 1.0, 0.5, whole=True, one_hot="sex"),
)


def resolve(**asked):
    return resolve_scales(asked, FEATURES)


def test_sizes_in_own_units_spreads_and_shares():
    found = resolve(name="measured", units={"age": 2}, spread={"income": "0.1"}, immutable=["sex"], integers=["age"])
    assert found.values[0] == Fraction(-(-2 * 10**12 // 72), 10**12)  # 2 of 72 years, rounded up to 12 decimals
    assert 0 <= found.values[0] - Fraction(2, 72) < Fraction(1, 10**12)
    assert found.values[1:] == (Fraction(2, 100), Fraction(0), Fraction(0))
    assert (found.name, found.whole, found.names[2]) == ("measured", (72, 0, 0, 0), "sex=f")


@pytest.mark.parametrize(
    ("others", "income"), [(0, "0"), (0.25, "0.25"), ({"range": "1/3"}, "1/3"), ({"spread": 0.5}, "0.1")]
)
def test_others(others, income):
    assert resolve(units={"age": 1}, others=others, immutable=["sex"]).values[1] == Fraction(income)


def test_names_that_yaml_reads_as_something_else_are_names():
    features = (Feature("2020", 0.0, 1.0, 0.5), Feature("True", 0.0, 1.0, 0.5, whole=True))
    found = resolve_scales("units: {2020: 0.5}\nimmutable: [True]\nintegers: [True]\nname: 7", features)
    assert (found.values, found.whole, found.name) == ((Fraction(1, 2), Fraction(0)), (0, 1), "7")
    with pytest.raises(UserError, match="no feature \"\\['2020'\\]\""):
        resolve_scales({"immutable": [["2020"]], "others": 0.1}, features)


def test_whole_numbers_that_float32_does_not_tell_apart_are_refused():
    """An attack would take a neighbour two numbers away for the next one."""
    features = [Feature("cents", 0.0, width, 1.0, whole=True) for width in (2.0**23 - 1, 2.0**23)]
    asked = {"units": {"cents": 1}, "integers": ["cents"]}
    assert resolve_scales(asked, features[:1]).whole == (2**23 - 1,)
    with pytest.raises(UserError, match="'cents' has 8,388,608 whole numbers, more than inputs in float32 tell apart"):
        resolve_scales(asked, features[1:])


def test_text_is_read_as_the_mapping_that_it_is():
    asked = {"units": {"age: at (first) visit": 2}, "others": 0}
    assert read_request(request_text(asked)) == read_request(asked)
    assert read_request("units: {age: 1e-3}")["units"] == {"age": "1e-3"}
    assert read_request(None) is read_request("null") is request_text(None) is None
    assert resolve_scales(None, None) is None


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("{", "scales is no YAML"),
        (3, "scales = 3 does not say what may change"),
        ({"unit": {"age": 1}}, "scales has no key 'unit'"),
        ({"units": ["age"]}, r"scales.units = \['age'\] is no mapping"),
        ({"immutable": "sex"}, "scales.immutable = 'sex' is no list"),
        ({"categories": "sex"}, "scales.categories = 'sex' is no list"),
        ({"name": ""}, "scales.name = '' is no name"),
        ({"name": "two\nlines"}, "is no name: it stands in tables and in lines of files"),
        ({"name": "[red]"}, "is no name"),
        ({"name": "a scaled by b"}, "is no name"),
        ({"name": "n" * 61}, "is no name"),
        ({"units": {"age": -1}}, "scales.units.age = -1 is negative"),
        ({"units": {"age": float("nan")}}, "scales.units.age = nan is not a finite number"),
        ({"units": {"age": float("inf")}}, "scales.units.age = inf is not a finite number"),
        ({"range": {"age": True}}, "scales.range.age = True is not a finite number"),
        ({"range": {"age": "much"}}, "scales.range.age = 'much' is not a finite number"),
        ({"others": {"units": 2}}, "is not one size"),
        ({"others": {"spread": 1, "range": 1}}, "is not one size"),
        ({"others": -0.5}, "scales.others = -0.5 is negative"),
    ],
)
def test_forms_that_are_refused(asked, message):
    with pytest.raises(UserError, match=message):
        read_request(asked)


@pytest.mark.parametrize(
    ("asked", "message", "fix"),
    [
        ({"units": {"agee": 1}, "others": 0}, "there is no feature 'agee'", "did you mean age"),
        ({"immutable": ["sexe"], "others": 1}, "there is no feature 'sexe'", "sex"),
        ({"units": {"age": 1}, "immutable": ["age"], "others": 0}, "names the feature 'age' twice", "one size"),
        ({"units": {"age": 1}}, "does not say how income, sex=f, sex=m may change", "others: 0"),
        ({"others": 1}, "'sex=f' is one value of the column 'sex', 0 or 1: no box", r"immutable: \[sex\]"),
        ({"others": 0}, "every feature is immutable: the radius would mean nothing", "at least one"),
        ({"units": {"age": 0}, "others": 0}, "every feature is immutable", "at least one"),
        ({"others": 0, "units": {"age": 1}, "integers": ["income"]}, "'income' has fractions", "leave income out"),
        ({"others": 0, "units": {"age": 1}, "integers": ["incom"]}, "there is no feature 'incom'", "income"),
        ({"others": 0, "units": {"age": 1}, "categories": ["age"]}, "'age' is no column of words", "sex"),
        ({"others": 0, "categories": ["sex"], "immutable": ["sex"]}, "names the feature 'sex=f' twice", "one size"),
        ({"others": 0, "categories": ["sex"]}, "every feature is immutable: the radius would mean", "at least one"),
    ],
)
def test_names_that_are_refused(asked, message, fix):
    with pytest.raises(UserError, match=message) as error:
        resolve_scales(asked, FEATURES)
    assert re.search(fix, error.value.fix)


def test_categories_are_the_places_of_a_columns_values():
    found = resolve(units={"age": 1}, others=0, categories=["sex"])
    assert (found.groups, found.values[2:]) == ((("sex", (2, 3)),), (0, 0))
    assert found.immutable == ("income",)
    assert found.fixed() == resolve(units={"age": 1}, others=0)


def test_too_many_combinations_are_refused():
    words = [Feature(f"c{k}={i}", 0.0, 1.0, 0.1, one_hot=f"c{k}") for k in range(2) for i in range(9)]
    with pytest.raises(UserError, match="c0 and c1 make 81 combinations of categories") as error:
        resolve_scales({"units": {"age": 1}, "others": 0, "categories": ["c0", "c1"]}, [*FEATURES, *words])
    assert "at most 64" in error.value.fix


def test_data_without_named_features_are_refused():
    with pytest.raises(UserError, match="sizes of the named features of a table, and data=digits has none"):
        resolve_scales({"others": 1}, None, data="data=digits")
