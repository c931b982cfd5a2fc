"""`certtrain plot`: runs, cards, our logs and the field's in one figure; comparisons; what is refused."""

import json

import numpy as np
import pytest
from claims import L2_BOUNDS
from field_logs import simulate

from certtrain.certificates.card_check import read_whole
from certtrain.cli.main import main


def refused(arguments, capsys):
    assert main(["plot", *map(str, arguments)]) == 2
    return capsys.readouterr().err


def test_runs_cards_and_logs_in_one_figure(runs, capsys):
    field = simulate(rows=50).write(runs.parent / "theirs")
    card = next((runs / "noise" / "certificates").glob("*.json"))
    assert main(["plot", "runs/bounds", str(card), str(card.with_suffix(".tsv")), str(field)]) == 0
    assert capsys.readouterr().out.split() == ["wrote", "certified_accuracy.png", "wrote", "certified_accuracy.pdf"]
    assert main(["plot", "runs/noise", "--output", "a.png", "--output", "b", "--label", "ours"]) == 0
    assert {path.name for path in runs.parent.glob("[ab].*")} == {"a.png", "b.png", "b.pdf"}


def test_risk_coverage(runs, capsys):
    assert main(["plot", "runs/noise", "--risk-coverage", "--output", "risk.png"]) == 0
    assert "leaves no risk" in refused(["runs/bounds", "--risk-coverage"], capsys)


def test_the_distribution_of_probabilities(runs, capsys):
    """Of 40 images some are wrong or abstained; the median is an image's own bound, rounded down."""
    [card] = (runs / "noise" / "certificates").glob("*.json")
    assert main(["plot", str(card), "--ecdf", "--output", "p.png"]) == 0
    shown = capsys.readouterr().out
    rows = read_whole(card.with_suffix(".tsv"), json.loads(card.read_text()))
    p = np.sort(np.where(rows.correct & (rows.predict >= 0), rows.columns["p_lower"], 0.0))
    median = p[int(np.ceil(len(p) / 2)) - 1]
    expected = f"{np.floor(1e4 * median) / 1e4:.4f}" if median >= 0.5 else "wrong"
    cells = next(line.split() for line in shown.splitlines() if line.split()[:1] == ["1"])
    assert (cells[1], cells[7]) == (str(len(p)), expected)
    assert "holds no probabilities" in refused(["runs/bounds", "--ecdf"], capsys)


def test_compare(in_tmp, capsys):
    a = simulate(rows=60, seed=1)
    first = a.write(in_tmp / "first")
    a.radius = a.radius * 0.9
    second = a.write(in_tmp / "second")
    arguments = ["plot", str(first), str(second), "--compare", "--resamples", "500", "--seed", "3", "--radii", "0.5"]
    assert main(arguments) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "B = 500, seed 3" in shown
    assert "ACR" in shown
    other = simulate(rows=61, seed=1).write(in_tmp / "other")
    assert "of other images" in refused([first, other, "--compare"], capsys)
    assert "two logs, not 3" in refused([first, second, other, "--compare"], capsys)


def test_compare_refuses_other_claims(runs, capsys):
    noise = next((runs / "noise" / "certificates").glob("*.json"))
    bounds = runs / "bounds" / "certificates" / "ibp.json"
    assert "are not comparable" in refused([noise, bounds, "--compare"], capsys)
    card = json.loads(bounds.read_text())
    bounds.write_text(json.dumps({**card, "claim": L2_BOUNDS.to_dict()}))
    assert "other claims" in refused([noise, bounds, "--compare"], capsys)


def test_falsified_certificates_are_not_drawn(runs, capsys):
    card = runs / "bounds" / "certificates" / "ibp.json"
    content = json.loads(card.read_text())
    card.write_text(json.dumps({**content, "falsification": {"failed": True}}))
    assert "not to be drawn as certified" in refused(["runs/bounds"], capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "there is no file none"),
        (["."], "has no certificates"),
        (["log", "--output", "x.jpg"], "neither PNG nor PDF"),
        (["log", "--output", "notes.png"], "is not overwritten"),
        (["log", "--label", "a", "--label", "b"], "2 labels for 1 curves"),
        (["log", "--norm", "l7"], "unknown norm 'l7'"),
        (["log", "log", "--compare", "--resamples", "5"], "--resamples 5"),
        (["log", "log", "--compare", "--seed", "-1"], "--seed -1"),
        (["bounds.tsv"], "says what its radii are of"),
        (["log", "--risk-coverage", "--compare"], "not allowed with"),
    ],
)
def test_mistakes(in_tmp, capsys, arguments, message):
    simulate(rows=20).write(in_tmp / "log")
    simulate(rows=20).write(in_tmp / "bounds.tsv", form="{}", further=[("status@0.1", ["verified"] * 20)])
    text = (in_tmp / "bounds.tsv").read_text().replace("0:00:", "")
    (in_tmp / "bounds.tsv").write_text(text)
    (in_tmp / "notes.png").write_text("mine")
    assert message in refused(arguments, capsys)
