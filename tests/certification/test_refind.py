"""Inputs found again: they do change the class, inside the exact ball, of the certified network only."""

import json

import numpy as np
import torch
from html_reader import Reader

from certtrain.certification.refind import Refinder
from certtrain.cli.main import main
from certtrain.config.build import build_data
from certtrain.config.loading import load_run
from certtrain.radii import parse_radius
from certtrain.reporting.page.evidence import read_evidence


def falsified(runs, radius="0.05"):
    """The run, its data, a certificate, and the examples that its attack broke at the radius."""
    run = load_run(runs / "bounds")
    found = next(c for c in read_evidence(run.run).certificates if c.name == "ibp")
    index = found.rows.index[found.rows.columns[f"status@{radius}"] == "falsified"]
    return run, build_data(run.config), found, index, [parse_radius(radius)] * len(index)


def test_what_is_found_changes_the_class_inside_the_ball(runs):
    run, data, certificate, index, radii = falsified(runs)
    found = Refinder(run.run, data)(certificate, index, radii)
    assert len(found) >= 0.9 * len(index) > 0
    network = run.network.double()
    for i, hit in found.items():
        x = data.test.x[i].double().numpy()
        assert np.abs(hit.x - x).max() <= 0.05
        assert 0 <= hit.x.min() <= hit.x.max() <= 1
        predict = int(network(torch.from_numpy(hit.x)[None]).argmax())
        assert predict == hit.predict != hit.label == int(data.test.y[i])


def test_only_of_the_certified_network_and_once(runs, monkeypatch):
    run, data, certificate, index, radii = falsified(runs)
    refinder = Refinder(run.run, data)
    first = refinder(certificate, index, radii)
    monkeypatch.setattr(Refinder, "_attack", None)  # another call would fail, and nothing would be found
    assert refinder(certificate, index, radii) == first != {}
    certificate.card["checkpoint_sha256"] = "another"
    assert Refinder(run.run, data)(certificate, index, radii) == {}
    run.checkpoint.unlink()
    assert refinder(certificate, index, radii) == {}


def test_on_the_page(runs):
    def pictures(*arguments):
        assert main(["report", "bounds", "--images", "3", *arguments]) == 0
        read = Reader((runs / "bounds" / "report.html").read_text())
        return [a["alt"] for a in read.of("img") if a["alt"].startswith("counterexample")]

    assert pictures()
    assert pictures("--no-attack") == []
    path = runs / "bounds" / "config.yaml"
    path.write_text(path.read_text().replace("certtrain.models", "nobody.models"))
    for card in (runs / "bounds" / "certificates").glob("*.json"):
        assert json.loads(card.read_text())["checkpoint_sha256"]
    assert main(["report", "bounds", "--images", "3"]) == 2  # what nobody trusts is not built
    assert main(["report", "bounds", "--images", "0"]) == 0
