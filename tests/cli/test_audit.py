"""`certtrain audit`: cards of a run, a log at another alpha, and plain logs, from the command line."""

import json

import pytest
from field_logs import simulate

from certtrain.cli import audit
from certtrain.cli.main import main


def refused(arguments, capsys):
    assert main(["audit", *map(str, arguments)]) == 2
    return capsys.readouterr().err


def test_a_run_passes(runs, capsys, snapshot):
    before = snapshot(runs)
    assert main(["audit", "runs/bounds", "runs/noise"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "4 of 4 pass" in shown
    assert "integrity, not authenticity" in shown
    for name, said in (("bounds", "radii are those of a grid"), ("noise", "selective (%)")):
        card = next((runs / name / "certificates").glob("*.json"))
        assert main(["audit", str(card)]) == 0
        assert said in " ".join(capsys.readouterr().out.split())
    assert snapshot(runs) == before


def test_a_forged_row_fails(runs, capsys):
    log = next((runs / "noise" / "certificates").glob("*.tsv"))
    text = log.read_text()
    lines = text.splitlines()
    cells = lines[1].split("\t")
    cells[3] = "0.9"
    log.write_text("\n".join([lines[0], "\t".join(cells), *lines[2:]]) + "\n")
    for path in (log, log.with_suffix(".json"), "runs/noise"):
        assert main(["audit", str(path)]) == 1
        shown = capsys.readouterr().out
        assert "FAILS" in shown
        assert "log_sha256" in shown
        assert "the radius follows from the counts?" in shown


def test_a_log_at_another_alpha(runs, capsys):
    log = next((runs / "noise" / "certificates").glob("*.tsv"))
    asked = ["audit", str(log), "--alpha", "0.05", "--bonferroni", "400", "--two-sided", "--output", "new/derived.tsv"]
    assert main(asked) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "alpha 0.001" in shown
    assert "alpha 0.05 for 400 examples together, two-sided" in shown
    card = json.loads((runs.parent / "new" / "derived.json").read_text())
    assert card["settings"]["alpha_each"] == 0.05 / 400
    assert card["derived_from"]["log"] == log.name
    assert main(["audit", "new/derived.json"]) == 0
    capsys.readouterr()
    assert "nothing is overwritten" in refused(asked[1:], capsys)


def test_what_is_derived_says_what_it_claims(runs, capsys):
    log = next((runs / "noise" / "certificates").glob("*.tsv"))
    card = json.loads(log.with_suffix(".json").read_text())
    assert main(["audit", str(log), "--alpha", "0.05", "--bonferroni", "400", "--two-sided", "--output", "a.tsv"]) == 0
    derived = json.loads((runs.parent / "a.json").read_text())
    assert "for all of them together" in derived["claim"]["says"]
    assert derived["settings"]["abstain"] == "p_lower < p_upper of the other classes"
    assert "falsification" not in derived
    # Certificates that fell do not get up at another alpha.
    fallen = {"failed": True, "hits": 3, "allowed": 0, "attacked": 9, "files": []}
    log.with_suffix(".json").write_text(json.dumps({**card, "falsification": fallen}))
    assert main(["audit", str(log), "--alpha", "0.05", "--output", "b.tsv"]) == 0
    derived = json.loads((runs.parent / "b.json").read_text())
    assert "alpha holds per example" in derived["claim"]["says"]
    assert derived["falsification"] == fallen
    assert main(["audit", "b.json"]) == 1
    assert "an attack broke 3 of 9 certificates" in capsys.readouterr().out


def test_what_the_votes_do_not_say(runs, capsys):
    log = next((runs / "noise" / "certificates").glob("*.tsv"))
    assert "votes under one noise say nothing about another" in refused(
        [log, "--alpha", "0.01", "--sigma", "9"], capsys
    )
    assert "does not hold for the" in refused([log, "--alpha", "0.01", "--bonferroni", "2"], capsys)


def test_a_log_without_its_card_needs_sigma(runs, capsys):
    log = next((runs / "noise" / "certificates").glob("*.tsv"))
    log.with_suffix(".json").unlink()
    assert "says sigma" in refused([log, "--alpha", "0.01"], capsys)
    assert main(["audit", str(log), "--alpha", "0.01", "--sigma", "0.1", "--output", "derived.tsv"]) == 0
    assert not (runs.parent / "derived.json").exists()


def test_a_log_in_stages_is_refused(runs, capsys):
    log = next((runs / "noise" / "certificates").glob("*.tsv"))
    lines = log.read_text().splitlines()
    log.write_text("\n".join([f"{lines[0]}\tstage", *(f"{line}\t1" for line in lines[1:])]) + "\n")
    assert "that would be peeking" in refused([log, "--alpha", "0.01"], capsys)


def test_a_plain_log(in_tmp, capsys):
    path = simulate(10_000, 0.001, 0.25).write(in_tmp / "sigma_0.25")
    assert main(["audit", str(path), "--sigma", "0.25", "--radii", "0.25,0.5"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "fit n = 10,000, alpha = 0.001 one-sided" in shown
    assert "ACR" in shown
    assert "selective (%)" in shown
    assert main(["audit", str(path), "--sigma", "0.25", "--n", "1000", "--alpha", "0.001", "--total", "50000"]) == 1
    shown = capsys.readouterr().out
    assert "above the cap" in shown
    assert "truncated" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.tsv"], "there is no file none.tsv"),
        (["none.json"], "cannot read the card"),
        (["log", "--alpha", "0.01"], "has no counts of votes"),
        (["log", "--alpha", "0.01", "--n", "100", "--output", "x.tsv"], "has no counts of votes"),
        (["log", "--alpha", "1"], "alpha = 1 is not in (0, 1)"),
        (["log", "--sigma", "-1"], "sigma = -1"),
        (["log", "--n", "0"], "--n 0"),
        (["log", "--two-sided"], "this needs --alpha"),
        (["log", "log", "--alpha", "0.1", "--output", "x.tsv"], "--output takes one log"),
        (["card.json", "--alpha", "0.1"], "a card states its own alpha"),
        (["log", "--radii", "big"], "'big' is not a radius"),
        (["."], "has no certificates/*.json"),
        ([], "the following arguments are required"),
    ],
)
def test_mistakes(in_tmp, capsys, arguments, message):
    simulate(rows=20).write(in_tmp / "log")
    assert message in refused(arguments, capsys)


def test_the_help_says_what_it_takes():
    assert "--bonferroni" in audit.parser().format_help()


def test_figures_of_different_images_are_said_not_to_compare(in_tmp, capsys):
    log = simulate(rows=20)
    one = log.write(in_tmp / "one")
    log.radius = log.radius * 0.9
    two, fewer = log.write(in_tmp / "two"), simulate(rows=19).write(in_tmp / "fewer")
    main(["audit", str(one), str(two)])
    assert "do not compare" not in capsys.readouterr().out
    main(["audit", str(one), str(two), str(fewer)])
    told = "logs without a card: certificates on different images (19 and 20); their figures do not compare"
    assert told in " ".join(capsys.readouterr().out.split())


def test_cards_on_different_images_are_said_not_to_compare(runs, capsys):
    assert main(["audit", "runs/bounds"]) == 0
    assert "do not compare" not in capsys.readouterr().out
    card = next((runs / "bounds" / "certificates").glob("*.json"))
    content = json.loads(card.read_text())
    card.with_name("others.json").write_text(json.dumps({**content, "indices_sha256": "0" * 64, "n": 7}))
    assert main(["audit", "runs/bounds"]) == 1
    told = f"certificates on different images (7 and {content['n']}); their figures do not compare"
    assert f"{content['dataset']} {content['split']}: {told}" in " ".join(capsys.readouterr().out.split())
