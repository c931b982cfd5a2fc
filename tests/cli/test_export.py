"""`certtrain export`: other programs check our claims; the folder says which claim each property is."""

import csv
import json
from collections import Counter
from fractions import Fraction

import numpy as np
import onnxruntime
import pytest
import torch
from vnnlib_reader import read_vnnlib

import certtrain
from certtrain.attacks import pgd_margins
from certtrain.cli import main as cli
from certtrain.data import Digits
from certtrain.runs.directory import sha256_file
from certtrain.threat import threat_of


def export(*arguments: str) -> int:
    return cli.main(["export", *arguments])


@pytest.fixture(scope="module")
def exported(trained_runs, tmp_path_factory):
    """Radii of both kinds: 0.02 mostly verified, 0.3 mostly not."""
    folder = tmp_path_factory.mktemp("other") / "verifiers"
    arguments = [f"run={trained_runs / 'bounds'}", "radii=[0.02,0.05,0.3]", "indices=first_30", f"output={folder}"]
    assert export(*arguments) == 0
    return folder


@pytest.fixture(scope="module")
def found(exported):
    return json.loads((exported / "properties.json").read_text())


@pytest.fixture(scope="module")
def running(exported, found):
    path = exported / found["network"]["file"]
    assert sha256_file(path) == found["network"]["sha256"]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda x: np.concatenate([session.run(["Y"], {"X": row[None]})[0] for row in np.float32(x)])


@pytest.fixture(scope="module")
def test_part():
    data = Digits("unused")
    data.setup()
    return data.test


def margins(logits, labels):
    return np.take_along_axis(logits, labels[:, None], 1) - logits


def test_margins_of_the_onnx_are_ours(trained_runs, running, test_part):
    network = certtrain.load(trained_runs / "bounds")
    for x in (test_part.x[:30], torch.rand(20, 1, 8, 8)):
        with torch.no_grad():
            expected = network(x).numpy()
        given = running(x.numpy())
        labels = expected.argmax(1)
        assert np.abs(margins(given, labels) - margins(expected, labels)).max() <= 1e-4 * np.abs(expected).max()


def test_the_instances_are_the_competitions(exported, found):
    with open(exported / "instances.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 90
    assert {row[0] for row in rows} == {"onnx/bounds.onnx"}
    assert [row[1] for row in rows] == [entry["file"] for entry in found["properties"]]
    assert {float(row[2]) for row in rows} == {300.0}
    assert all((exported / name).is_file() for row in rows for name in row[:2])


def test_properties_are_what_the_logs_claim(exported, found, running, test_part):
    """Each box holds its exact ball. Counterexamples of ours satisfy the property; inside proved balls nothing does."""
    draw, seen = np.random.default_rng(0), Counter()
    for entry in found["properties"]:
        (box,), satisfied = read_vnnlib((exported / entry["file"]).read_text())
        x, label = test_part.x[entry["index"]], int(test_part.y[entry["index"]])
        assert entry["label"] == label
        for (low, high), value in zip(box, x.flatten().tolist(), strict=True):
            radius = Fraction(entry["radius"])
            assert low <= max(Fraction(value) - radius, 0)
            assert high >= min(Fraction(value) + radius, 1)
        lower, upper = (np.array([float(side[k]) for side in box], dtype=np.float32) for k in (0, 1))
        statuses = {claim["status"] for claim in entry["claims"]}
        if statuses == {"misclassified"}:
            assert satisfied(running(x[None].numpy())[0].tolist())
        elif "verified" in statuses:
            corners = np.where(draw.random((20, lower.size)) < 0.5, lower, upper)
            inside = lower + draw.random((20, lower.size), dtype=np.float32) * (upper - lower)
            points = np.concatenate([corners, inside]).reshape(-1, *x.shape)
            assert not any(satisfied(row) for row in running(points).tolist())
        seen.update(statuses)
    assert seen["verified"] > 30
    assert seen["misclassified"] > 0


def test_a_counterexample_satisfies_the_property(exported, found, running, trained_runs, test_part):
    network, hits = certtrain.load(trained_runs / "bounds"), 0
    for entry in [entry for entry in found["properties"] if entry["radius"] == "0.3"][:10]:
        x, y = test_part.x[entry["index"]][None], test_part.y[entry["index"]][None]
        attack = pgd_margins(network, x, y, threat_of("linf", Fraction(3, 10)), steps=20)
        if attack.margin.item() < -1e-3:
            (box,), satisfied = read_vnnlib((exported / entry["file"]).read_text())
            assert all(low <= value <= high for (low, high), value in zip(box, attack.x.flatten().tolist()))
            assert satisfied(running(attack.x.numpy())[0].tolist())
            hits += 1
    assert hits > 5


def test_statuses_come_from_the_logs_with_what_they_were_proved_at(exported, found, trained_runs):
    card = json.loads((trained_runs / "bounds" / "certificates" / "crown.json").read_text())
    assert found["checkpoint_sha256"] == card["checkpoint_sha256"]
    by_radius = {radius: [e for e in found["properties"] if e["radius"] == radius] for radius in ("0.02", "0.3")}
    assert {claim["log"] for claim in by_radius["0.02"][0]["claims"]} == {"ibp", "crown_ibp", "crown"}
    assert all(entry["claims"] == [] for entry in by_radius["0.3"])  # larger than any radius of the logs
    text = (exported / "README.txt").read_text()
    assert "nothing claimed" in text
    assert "sha256" in text
    assert sum(int(line.split()[0]) for line in text.split("of the properties\n")[1].splitlines()) == 90


def test_a_smaller_radius_is_proved_by_a_larger_one(runs):
    assert export("run=bounds", "radii=[0.01]", "indices=first_20") == 0
    found = json.loads((runs / "bounds" / "export" / "properties.json").read_text())
    proved = [claim for entry in found["properties"] for claim in entry["claims"]]
    assert {claim["status"] for claim in proved} == {"verified"}
    assert {claim["proved_at"] for claim in proved} <= {"0.02", "0.05"}


def test_logs_of_other_weights_claim_nothing(runs):
    for path in (runs / "bounds" / "certificates").glob("*.json"):
        card = json.loads(path.read_text())
        path.write_text(json.dumps(card | {"checkpoint_sha256": "0" * 64}))
    assert export("run=bounds", "indices=first_20") == 0
    found = json.loads((runs / "bounds" / "export" / "properties.json").read_text())
    assert [entry for entry in found["properties"] if entry["claims"]] == []


def test_the_network_alone(runs):
    assert export("run=noise", "vnnlib=false") == 0
    assert {path.name for path in (runs / "noise" / "export").rglob("*") if path.is_file()} == {
        "noise.onnx",
        "properties.json",
        "README.txt",
    }


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run=noise"], ["about l2 balls", "vnnlib=false"]),
        (["run=noise", "norm=linf"], ["about l2 balls", "vnnlib=false"]),
        (["run=bounds", "norm=l2"], ["norm=l2", "box", "vnnlib=false"]),
        (["run=bounds", "radii=[]"], ["empty"]),
        (["run=bounds", "timeout=0"], ["timeout = 0"]),
        (["run=bounds", "split=tset"], ["did you mean test"]),
        (["run=bounds", "indices=first_361"], ["360"]),
        (["run=bounds", "certifier=crown"], ["certifier"]),
        (["run=bound"], ["did you mean bounds?"]),
        ([], ["certtrain export run=runs/NAME"]),
    ],
)
def test_mistakes_are_explained_and_leave_nothing(runs, snapshot, capsys, arguments, expected):
    before = snapshot(runs)
    assert export(*arguments) == 2
    shown = capsys.readouterr().err
    assert [word for word in expected if word not in shown] == []
    assert snapshot(runs) == before


def test_nothing_is_overwritten(runs, snapshot, capsys):
    assert export("run=bounds", "indices=first_5") == 0
    before = snapshot(runs)
    assert export("run=bounds", "indices=first_3") == 2
    assert "output=DIR" in capsys.readouterr().err
    assert snapshot(runs) == before


def test_a_folder_that_cannot_be_made(runs, capsys):
    (runs / "file").write_text("in the way")
    assert export("run=bounds", "indices=first_3", "output=runs/file/export") == 2
    assert "cannot write" in capsys.readouterr().err
