"""Verifiers as stages of a cascade: what each answer of theirs ends as, and what of it is not taken on their word."""

from collections import defaultdict

import numpy as np
import pytest
import torch
from answers import certify, status

from certtrain.bounds import NativeEngine
from certtrain.certifiers import CascadeCertifier
from certtrain.certifiers.verifier import Verdicts, Verifier


class Says(Verifier):
    """A verifier that answers what it was told, one example at a time."""

    proof = "hearsay"

    def __init__(self, status, margin=np.nan, point=None, crash_at=None):
        self.status, self.margin, self.point, self.crash_at = status, margin, point, crash_at

    def settings(self):
        return {"status": self.status}

    def verify(self, subject, problems):
        assert not subject.network.training
        for at, row in enumerate(problems.rows.tolist()):
            if at == self.crash_at:
                raise RuntimeError("solver died")
            points = None if self.point is None else torch.tensor([self.point], dtype=torch.float64)
            yield Verdicts(
                np.array([row]),
                np.array([self.status], dtype=object),
                np.array([self.margin]),
                0.1,
                "why",
                points=points,
            )


def with_verifier(verifier, n=3, radii=("0.1", "0.2"), **options):
    table = {"ibp": {0.2: [1, -1, -1], 0.1: [9, 9, -1]}}
    return certify(table | {"own": {}}, n=n, radii=radii, verifiers={"own": verifier}, **options)[0]


def test_a_verifier_proves_what_the_bounds_before_it_leave_open():
    found = with_verifier(Says("verified", 0.5))
    assert found.radius.tolist() == [0.2, 0.2, 0.2]
    assert list(found.columns["decided_by"]) == ["ibp", "own", "own"]
    assert found.columns["seconds_own"] == pytest.approx([0, 0.1, 0.1])
    cascade = CascadeCertifier(["ibp", "own"], ["0.1"], NativeEngine, verifiers={"own": Says("unknown")})
    assert cascade.settings()["stages"][1] == {"bound": "own", "status": "unknown", "proof": "hearsay"}
    assert "float64 with rounding to nearest or by hearsay:" in cascade.claim().sentence()


@pytest.mark.parametrize("status_", ["timeout", "invalid", "error", "unknown"])
def test_what_a_verifier_leaves_open_has_its_status_where_nothing_else_decides(status_):
    found = with_verifier(Says(status_))
    assert status(found, "0.2") == ["verified", status_, status_]
    assert status(found, "0.1") == ["verified", "verified", status_]
    if status_ == "error":
        assert list(found.columns["reason"]) == ["", "own at 0.2: why", "own at 0.2: why"]


@pytest.mark.parametrize("margin", [np.nan, np.inf, 0.0, -1.0])
def test_a_proof_without_a_positive_margin_is_an_error(margin):
    found = with_verifier(Says("verified", margin))
    assert status(found, "0.2") == ["verified", "error", "error"]
    assert found.radius.tolist() == [0.2, 0.1, 0]


def test_a_verifier_that_dies_keeps_the_verdicts_that_fell():
    found = with_verifier(Says("verified", 0.5, crash_at=1))
    assert status(found, "0.2") == ["verified", "verified", "error"]
    assert found.columns["reason"][2] == "own at 0.2: RuntimeError: solver died"


@pytest.mark.parametrize(("point", "said"), [((0.0, -5.0), "falsified"), ((0.0, 5.0), "unknown"), (None, "unknown")])
def test_a_counterexample_is_the_networks_answer_inside_the_set_and_not_the_verifiers_word(point, said):
    """Sign changes its class at 0, 0.5 away: a point far outside is moved into the set before the network is asked."""
    found = with_verifier(Says("falsified", point=point), radii=("0.1", "0.2"))
    assert status(found, "0.2") == ["verified", "unknown", "unknown"]  # the set does not reach that far
    table = {"ibp": {0.6: [-1], 0.1: [-1]}, "own": {}}
    found, _ = certify(table, n=1, radii=("0.1", "0.6"), verifiers={"own": Says("falsified", point=point)})
    assert (status(found, "0.1"), status(found, "0.6")) == (["unknown"], [said])


def test_bisection_asks_verifiers_too():
    class Half(Verifier):
        def verify(self, subject, problems):
            eps = (
                problems.threat.eps.expand(len(problems))
                if isinstance(problems.threat.eps, torch.Tensor)
                else torch.full((len(problems),), float(problems.threat.eps))
            )
            won = (eps <= 0.15).numpy()
            yield Verdicts(
                problems.rows.numpy(),
                np.where(won, "verified", "unknown").astype(object),
                np.where(won, 1.0, -1.0),
                0.0,
            )

    table = {"ibp": defaultdict(lambda: [-1, -1]), "own": {}}
    found, _ = certify(table, n=2, radii=("0.1", "0.2"), verifiers={"own": Half()}, bisect="0.001")
    assert found.columns["largest_eps"] == pytest.approx([0.15, 0.15], abs=0.001)
    assert (found.columns["largest_eps"] <= 0.15).all()


@pytest.mark.parametrize("answered", [[3], [0], [1, 1]], ids=["misclassified", "proved before", "twice"])
def test_verdicts_of_examples_that_are_not_asked_about_are_an_error(answered):
    class Stray(Verifier):
        def verify(self, subject, problems):
            assert problems.rows.tolist() == [1, 2]
            proved = np.full(len(answered), "verified", dtype=object)
            yield Verdicts(np.array(answered), proved, np.ones(len(answered)), 0.0)

    table = {"ibp": {0.1: [1, -1, -1, 1]}, "own": {}}
    found, _ = certify(table, n=4, wrong=(3,), radii=("0.1",), verifiers={"own": Stray()})
    assert status(found, "0.1") == ["verified", "error", "error", "misclassified"]
    assert found.radius.tolist() == [0.1, 0, 0, 0]
    assert found.columns["reason"][1].startswith("own at 0.1: ValueError: verdicts of examples")
