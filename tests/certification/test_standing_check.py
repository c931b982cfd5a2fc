"""The certify stage attacks what it issued; a broken engine must not come through."""

import json

import numpy as np
import pytest

from certtrain.bounds import Bounds, NativeEngine
from certtrain.certifiers import BoundCertifier
from certtrain.cli import main as cli
from certtrain.reporting.collected import collect


@pytest.fixture
def broken():
    """Bounds that are far too high, until undone."""

    def bounds(self, x, y, threat, methods=("ibp",)):
        found = whole(self, x, y, threat, methods)
        return Bounds(found.clean, {m: v + 100 for m, v in found.margins.items()}, found.pre_activations)

    whole = NativeEngine.bounds
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NativeEngine, "bounds", bounds)
        yield patch


def certify(*arguments: str) -> int:
    return cli.main(["certify", "run=bounds", "certifier=ibp", "certifier.ibp.attack_steps=0", *arguments])


def card(runs, name="new_ibp") -> dict:
    return json.loads((runs / "bounds" / "certificates" / f"{name}.json").read_text())


def entry(runs, name="new_ibp") -> dict:
    return json.loads((runs / "bounds" / "result.json").read_text())["test"][name]


def test_sound_certificates_are_checked_and_the_outcome_recorded(trained_runs):
    found = card(trained_runs, "crown")["falsification"]
    assert found["attacked"] == 100
    assert (found["hits"], found["allowed"], found["failed"], found["indices"]) == (0, 0, False, [])
    assert found["asked"] == {"examples": 100, "steps": 100}
    assert found["settings"]["steps"] == 100
    assert entry(trained_runs, "crown")["falsification"] == found
    assert "falsified" not in entry(trained_runs, "crown")
    assert not list((trained_runs / "bounds" / "certificates").glob("*counterexamples*"))


def test_a_broken_engine_is_caught_end_to_end(runs, broken, capsys):
    assert certify("name=new", "radii=[0.05,0.5]") == 1
    shown = capsys.readouterr().out
    assert "FALSIFIED: new_ibp: an attack broke" in shown
    assert "new_ibp.counterexamples.npz" in shown
    assert "IBP (FALSIFIED)" in shown
    found = entry(runs)
    assert found["falsified"] is True
    assert found["falsification"]["hits"] > 50
    assert found == card(runs)["summary"]
    with np.load(runs / "bounds" / "certificates" / "new_ibp.counterexamples.npz") as arrays:
        assert arrays["index"].tolist() == found["falsification"]["indices"]
    facts = json.loads((runs / "bounds" / "certificates" / "new_ibp.counterexamples.json").read_text())
    assert len(facts["counterexamples"]) == found["falsification"]["hits"]
    for one in facts["counterexamples"]:
        assert one["margin"] <= 0
        assert one["distance"] <= one["radius"] == 0.5


def test_what_was_falsified_stays_so_whatever_is_asked_later(runs, broken, snapshot, capsys):
    assert certify("name=new", "radii=[0.5]") == 1
    before = snapshot(runs / "bounds" / "certificates")
    broken.undo()
    for more in ([], ["falsify.examples=0"], ["falsify.examples=5", "falsify.steps=1"]):
        assert certify("name=new", "radii=[0.5]", *more) == 1
        assert "FALSIFIED" in capsys.readouterr().out
        assert snapshot(runs / "bounds" / "certificates") == before
    assert entry(runs)["falsified"] is True
    log = runs / "bounds" / "certificates" / "new_ibp.tsv"
    log.write_bytes(log.read_bytes()[:-40])
    assert certify("name=new", "radii=[0.5]") == 1
    assert entry(runs)["falsified"] is True


def test_no_table_takes_what_was_falsified(runs, broken, capsys):
    path = runs / "bounds" / "result.json"
    assert certify("name=new", "radii=[0.5]") == 1
    path.write_text(json.dumps({**json.loads(path.read_text()), "experiment": "quickstart"}))
    collection = collect([runs])
    [run] = collection.runs["quickstart"]
    assert "new_ibp" not in run.result["test"]
    assert "ibp" in run.result["test"]
    [skipped] = [item for item in collection.skipped if "falsified" in item.reason]
    assert skipped.damaged
    assert "new_ibp" in skipped.reason


def test_training_that_ends_in_broken_certificates_fails(in_tmp, tiny, broken, capsys):
    command = ["train", *tiny, "method=ibp", "certifier=ibp", "certifier.ibp.attack_steps=0", "val_size=0"]
    assert cli.main([*command, "name=run", "radii=[0.5]", "certify_test=true"]) == 1
    assert "FALSIFIED" in capsys.readouterr().out
    assert cli.main([*command, "name=run", "radii=[0.5]", "certify_test=true"]) == 1
    assert "IBP (FALSIFIED)" in capsys.readouterr().out


def test_other_numbers_are_another_check_and_the_same_ones_are_not_repeated(runs, monkeypatch):
    calls = []
    falsify = BoundCertifier.falsify

    def watched(self, *args, **options):
        calls.append(options["steps"])
        return falsify(self, *args, **options)

    monkeypatch.setattr(BoundCertifier, "falsify", watched)
    few = ["falsify.examples=7", "falsify.steps=3"]
    assert certify("name=new", "indices=first_50", "falsify.examples=0") == 0
    name = "new_ibp_first_50"
    assert card(runs, name)["falsification"] is None
    assert entry(runs, name)["falsification"] is None
    for _ in range(2):
        assert certify("name=new", "indices=first_50", *few) == 0
    assert calls == [3]
    assert card(runs, name)["falsification"]["attacked"] == 7
    assert certify("name=new", "indices=first_50", "falsify.examples=0") == 0
    assert card(runs, name)["falsification"]["attacked"] == 7
    assert certify("name=new", "indices=first_50") == 0
    assert calls == [3, 100]


def test_a_number_that_makes_no_check_is_refused_before_anything_runs(runs, snapshot, capsys):
    before = snapshot(runs / "bounds" / "certificates")
    assert certify("name=new", "falsify.steps=0") == 2
    assert "falsify.steps = 0 is not a whole number >= 1" in capsys.readouterr().err
    assert snapshot(runs / "bounds" / "certificates") == before


def test_seeds_whose_certificates_fell_are_failed_jobs(in_tmp, tiny, broken, capsys):
    command = ["train", *tiny, "method=ibp", "certifier=ibp", "certifier.ibp.attack_steps=0", "val_size=0", "epochs=1"]
    assert cli.main([*command, "radii=[0.5]", "certify_test=true", "seeds=2"]) != 0
    shown = capsys.readouterr()
    assert "2 of 2 jobs failed" in shown.err
    assert "an attack broke certificates that it issued" in shown.err
