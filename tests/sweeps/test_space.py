"""Search spaces: what is drawn, how it is written, and mistakes named before the first trial."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certtrain.errors import UserError
from certtrain.sweeps.space import Parameter, read_space

KNOWN = {
    **{"eps": "2/255", "train_eps": "2/255", "radii": [0.1], "optimizer.lr": 0.1, "method.kappa.end": 0.5},
    **{"schedule.epochs": 60, "schedule.ramp": 10, "schedule.warmup": 1, "data.batch_size": 64, "model.hidden": [16]},
    **{"method": {}, "method.kappa": {}, "val_size": 0.1, "seed": 0, "method.init": "default"},
}
GROUPS = {"method": ["ibp", "crown_ibp"], "optimizer": ["adam", "sgd"]}


class Draws:
    """A trial that takes the given share of each range."""

    def __init__(self, share: float) -> None:
        self.share = share

    def suggest_float(self, name, low, high, *, step, log):
        value = low * (high / low) ** self.share if log else low + self.share * (high - low)
        return low + round((value - low) / step) * step if step else value

    def suggest_int(self, name, low, high, *, step):
        return low + round(self.share * (high - low) / step) * step

    def suggest_categorical(self, name, choices):
        return choices[round(self.share * (len(choices) - 1))]


def texts(space: dict, share: float) -> dict[str, str]:
    return {p.key: p.text(p.suggest(Draws(share))) for p in read_space(space, KNOWN, GROUPS)}


def test_nested_and_dotted_keys_in_the_order_written():
    space = {
        "method": {"kappa": {"end": {"low": 0.0, "high": 1.0}}, "init": {"choices": ["default", "ibp"]}},
        "optimizer.lr": {"low": 1e-5, "high": 0.1, "log": True},
        "schedule": {
            "warmup": {"low": 0, "high": 5, "step": 1},
            "ramp": {"low": 0.1, "high": 0.75, "times": "schedule.epochs"},
        },
        "train_eps": {"low": 1.0, "high": 2.0, "times": "eps"},
        "data": {"batch_size": {"choices": [64, 128]}},
        "optimizer": {"choices": ["adam", "sgd"]},
        "model.hidden": {"choices": [[8], [8, 8]]},
    }
    low, high = texts(space, 0.0), texts(space, 1.0)
    assert list(low)[:3] == ["method.kappa.end", "method.init", "optimizer.lr"]
    assert low["train_eps"] == "2/255"  # the exact radius
    assert float(high["train_eps"]) == pytest.approx(4 / 255, rel=1e-3)
    assert (low["schedule.warmup"], high["schedule.warmup"]) == ("0", "5")
    assert (low["schedule.ramp"], high["schedule.ramp"]) == ("6", "45")
    assert (low["optimizer.lr"], high["optimizer.lr"]) == ("1e-05", "0.1")
    assert (low["method.init"], high["data.batch_size"], high["optimizer"]) == ("default", "128", "sgd")
    assert (low["model.hidden"], high["model.hidden"]) == ("[8]", "[8, 8]")
    assert Parameter("x", choices=(None, True)).text(None) == "null"
    assert Parameter("x", choices=(None, True)).text(True) == "true"


def test_a_group_and_a_key_of_its_options():
    found = texts({"optimizer": {"choices": ["adam", "sgd"], "lr": {"low": 0.1, "high": 0.2}}}, 1.0)
    assert found == {"optimizer": "sgd", "optimizer.lr": "0.2"}


@given(st.floats(1, 2), st.sampled_from(["2/255", "8/255", "0.1", "0.3", "1/3"]))
def test_a_multiple_of_eps_is_short_and_never_below_eps(factor, eps):
    text = Parameter("train_eps", 1.0, 2.0, times=eps).text(factor)
    assert len(text) <= 9
    exact = factor * float(Fraction(eps))
    assert float(Fraction(text)) == pytest.approx(exact, rel=2e-3)
    assert Fraction(text) >= Fraction(eps)


@given(st.floats(1e-8, 1e3), st.floats(0, 1))
def test_numbers_stay_in_their_range_and_have_few_digits(low, share):
    high = low * 7.7777777
    text = Parameter("x", low, high).text(low + share * (high - low))
    assert low * (1 - 1e-5) <= float(text) <= high * (1 + 1e-5)
    assert len(text) <= 12


@pytest.mark.parametrize(
    ("space", "expecting"),
    [
        ({"optimizer": {"lrr": {"low": 0.1, "high": 1.0}}}, "did you mean optimizer.lr"),
        ({"method": {"kapa": {"end": {"low": 0.0, "high": 1.0}}}}, "method.kappa.end"),
        ({"optimizer.lr": {"low": 0.1, "hihg": 1.0}}, "did you mean high"),
        ({"optimizer.lr": {"low": 1.0, "high": 0.1}}, "low < high"),
        ({"optimizer.lr": {"low": 0.0, "high": 0.1, "log": True}}, "0 < low"),
        ({"optimizer.lr": {"low": 0.1}}, "high = None"),
        ({"optimizer.lr": {"low": 0.1, "high": "much"}}, "'much'"),
        ({"optimizer.lr": {"low": 0.1, "high": 1.0, "step": 2.0}}, "no range"),
        ({"optimizer.lr": 0.1}, "no range"),
        ({"optimizer.lr": {"choices": []}}, "list of choices"),
        ({"optimizer.lr": {"choices": [1], "low": 0.1}}, "nothing beside it"),
        ({"optimizer": {"choices": ["adam", "sdg"]}}, "did you mean sgd"),
        ({"optimizer": {"low": 0.0, "high": 1.0}}, "group of options"),
        ({"train_eps": {"low": 1.0, "high": 2.0, "times": "esp"}}, "did you mean eps"),
        ({"train_eps": {"low": 1.0, "high": 2.0, "times": "radii"}}, "no key with a number"),
        ({"seed": {"low": 0, "high": 9, "step": 1}}, "cannot be searched"),
        ({"val_size": {"low": 0.1, "high": 0.2}}, "cannot be searched"),
        ({"radii": {"choices": [[0.1], [0.2]]}}, "cannot be searched"),
        ({}, "empty"),
    ],
)
def test_mistakes_are_named(space, expecting):
    with pytest.raises(UserError) as error:
        read_space(space, KNOWN, GROUPS)
    assert expecting in str(error.value)
    assert "sweep.space" in error.value.where
