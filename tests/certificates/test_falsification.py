"""What refutes certificates is counted, kept and never overwritten."""

import json

import numpy as np
import pytest

from certtrain.certificates import Certificates
from certtrain.certificates.falsification import (
    Counterexample,
    Falsification,
    FalsifyOptions,
    choose_certified,
    write_counterexamples,
)
from certtrain.errors import UserError


def hit(index=3, **details):
    return Counterexample(index, 1, 0, 0.1, 0.09, -0.5, np.full((2, 2), 0.25), details)


def test_fails_above_what_is_allowed():
    assert not Falsification(5, (), 0, {}).failed
    assert Falsification(5, (hit(),), 0, {}).failed
    assert not Falsification(5, (hit(), hit(4)), 2, {}).failed
    assert Falsification(5, (hit(), hit(4), hit(5)), 2, {}).failed


def test_the_summary_is_plain_json():
    summary = Falsification(5, (hit(), hit(7)), 0, {"steps": 3}).summary()
    assert json.loads(json.dumps(summary)) == {
        **{"attacked": 5, "hits": 2, "allowed": 0, "failed": True},
        **{"indices": [3, 7], "settings": {"steps": 3}},
    }


def test_counterexamples_are_written_and_earlier_ones_stay(tmp_path):
    path = tmp_path / "crown.counterexamples"
    assert write_counterexamples(path, Falsification(5, (), 0, {})) is None
    assert list(tmp_path.iterdir()) == []
    first = write_counterexamples(path, Falsification(5, (hit(votes=[1, 2]),), 0, {"steps": 3}))
    assert [p.name for p in first] == ["crown.counterexamples.npz", "crown.counterexamples.json"]
    before = [p.read_bytes() for p in first]
    second = write_counterexamples(path, Falsification(5, (hit(8), hit(9)), 0, {}))
    assert [p.name for p in second] == ["crown.counterexamples.2.npz", "crown.counterexamples.2.json"]
    assert [p.read_bytes() for p in first] == before
    with np.load(first[0]) as arrays:
        assert np.array_equal(arrays["x"], np.full((1, 2, 2), 0.25))
        assert arrays["index"].tolist() == [3]
    facts = json.loads(first[1].read_text())
    assert facts["counterexamples"] == [
        {
            **{"index": 3, "label": 1, "predict": 0, "radius": 0.1, "distance": 0.09, "margin": -0.5},
            "details": {"votes": [1, 2]},
        }
    ]
    assert facts["settings"] == {"steps": 3}


def rows(n, certified):
    held = np.isin(np.arange(n), certified)
    label = np.ones(n, dtype=int)
    return Certificates(np.arange(n)[::-1].copy(), label, label, np.where(held, 0.1, 0.0), label == 1, np.zeros(n))


def test_chooses_certified_rows_only_evenly_and_always_the_same():
    found = rows(100, range(0, 100, 2))
    assert len(choose_certified(found, 1000)) == 50
    chosen = choose_certified(found, 5)
    assert found.index[chosen].tolist() == [1, 21, 41, 61, 81]  # ten certified ones apart
    shuffled = found.select(np.random.default_rng(0).permutation(100))
    assert shuffled.index[choose_certified(shuffled, 5)].tolist() == found.index[chosen].tolist()
    assert len(choose_certified(found, 0)) == 0
    assert len(choose_certified(rows(4, []), 5)) == 0


def test_a_certified_wrong_prediction_is_not_chosen():
    label = np.array([1, 1])
    wrong = Certificates([0, 1], label, [0, 1], [0.5, 0.5], [False, True], [0, 0])
    assert choose_certified(wrong, 5).tolist() == [1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (0, "falsify = 0 does not say what to attack"),
        ({"examples": 5}, "does not say what to attack"),
        ({"examples": -1, "steps": 5}, "falsify.examples = -1 is not a whole number >= 0"),
        ({"examples": 2.5, "steps": 5}, "falsify.examples = 2.5 is not a whole number"),
        ({"examples": True, "steps": 5}, "falsify.examples = True is not"),
        ({"examples": 5, "steps": 0}, "falsify.steps = 0 is not a whole number >= 1"),
    ],
)
def test_options_that_attack_nothing_are_refused(given, message):
    with pytest.raises(UserError, match=message) as error:
        FalsifyOptions.parse(given)
    assert "falsify" in error.value.where
    assert FalsifyOptions.parse({"examples": 0, "steps": 1}) == FalsifyOptions(0, 1)
