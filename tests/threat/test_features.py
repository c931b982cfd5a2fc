"""Features of a table: ranges, spreads and kinds from the training part, there and back."""

import pytest
import torch

from certtrain.errors import UserError
from certtrain.threat.features import Feature, describe_features, features_from_list, features_to_list

TRAIN = torch.tensor([[1.0, 0.5, 7.0], [3.0, 1.0, 7.0], [5.0, 0.75, 7.0]])


def test_ranges_spreads_and_kinds():
    age, ratio, constant = describe_features(["age", "ratio", "constant"], TRAIN)
    assert (age.minimum, age.maximum, age.whole, age.one_hot) == (1.0, 5.0, True, None)
    assert age.spread == pytest.approx((8 / 3) ** 0.5)
    assert (age.own(0.5), ratio.whole, ratio.width) == (3.0, False, 0.5)
    assert (constant.width, constant.spread) == (1.0, 0.0)  # as it is scaled: to 0


def test_one_value_of_a_column_of_words():
    found = describe_features(["c=a", "x", "y"], TRAIN, {"c=a": "c"})
    assert [feature.one_hot for feature in found] == ["c", None, None]


def test_there_and_back_through_plain_values():
    features = describe_features(["a", "b", "c"], TRAIN)
    assert features_from_list(features_to_list(features)) == tuple(features)
    with pytest.raises(UserError, match="a feature has other fields than name, minimum"):
        features_from_list([{"name": "a", "colour": 1}])
    assert isinstance(features[0], Feature)
