"""`certtrain certify certifier=anytime` and `budget=dataset`, from the command to the table."""

import json
import shutil
from contextlib import redirect_stdout
from io import StringIO

import pytest

from certtrain.certificates import CertificateLog
from certtrain.cli import main as cli
from certtrain.smoothing.anytime import StageSchedule

FEW = ["indices=first_40", "falsify.examples=10", "falsify.steps=3"]


def certify(*arguments, run="noise"):
    return cli.main(["certify", f"run={run}", *FEW, *arguments])


@pytest.fixture(scope="module")
def anytime(trained_runs, tmp_path_factory):
    """A folder of runs with one certified by stages, to be read or added to, and what the command printed."""
    runs = tmp_path_factory.mktemp("anytime")
    run = shutil.copytree(trained_runs / "noise", runs / "noise")
    with redirect_stdout(StringIO()) as shown:
        assert certify("certifier=anytime", "n=4000", "radii=[0.02,0.1,0.2]", run=run) == 0
    return runs, shown.getvalue()


def found(runs, name):
    folder = runs / "noise"
    entry = json.loads((folder / "result.json").read_text())["test"][name]
    card = json.loads((folder / "certificates" / f"{name}.json").read_text())
    return entry, card, CertificateLog(folder / "certificates" / f"{name}.tsv").read()


def test_anytime_from_the_command(anytime):
    runs, printed = anytime
    assert "none: a radius here is a target that was reached" in printed
    assert "times fewer than the last look's 4,000" in " ".join(printed.split())
    entry, card, rows = found(runs, "anytime_n4000_first_40")
    assert "acr" not in entry
    assert entry["mean_draws"] == rows.columns["n"].mean()
    assert rows.columns["n"].mean() < 3000
    assert list(entry["certified"]) == ["0.02", "0.1", "0.2"]
    assert "at looks that were fixed beforehand" in card["claim"]["says"]
    assert card["noise_selftest"]["numbers"] > 4_000_000
    schedule = StageSchedule.from_dict(card["settings"]["schedule"])
    assert all(schedule.replay(schedule.read_counts(text)).finished for text in rows.columns["stage_counts"])
    assert (runs / "noise" / "certified_accuracy_test_first_40.png").exists()
    assert (entry["falsification"]["attacked"], entry["falsification"]["failed"]) == (10, False)


def test_the_same_draws_as_with_a_fixed_n(anytime):
    """The claims of both about the same example come from the same stream: they differ near a target only."""
    runs, _ = anytime
    assert certify("certifier=smoothing", "n=4000", "radii=[0.02,0.1,0.2]", run=runs / "noise") == 0
    anytime, fixed = found(runs, "anytime_n4000_first_40"), found(runs, "smoothing_n4000_first_40")
    for radius, share in fixed[0]["certified"].items():
        assert abs(share - anytime[0]["certified"][radius]) <= 0.05
    assert "at a number of draws that was fixed beforehand" in fixed[1]["claim"]["says"]
    assert fixed[0]["acr"] > 0


def test_a_log_goes_on_where_it_was(runs):
    arguments = ("certifier=anytime", "n=2000", "radii=[0.05]")
    assert certify(*arguments) == 0
    log = runs / "noise" / "certificates" / "anytime_n2000_first_40.tsv"
    whole = CertificateLog(log).read()
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:17]) + lines[17][:20])
    assert certify(*arguments) == 0
    again = CertificateLog(log).read().sorted()
    for name in ("stage_counts", "stage", "n", "count_top"):
        assert (again.columns[name] == whole.columns[name]).all()
    assert (again.radius == whole.radius).all()


def test_a_target_out_of_reach_is_refused_before_the_first_draw(runs, capsys):
    assert certify("certifier=anytime", "n=200", "radii=[0.3]") == 2
    assert "200 draws cannot show a radius of 0.3" in capsys.readouterr().err
    assert not list((runs / "noise" / "certificates").glob("anytime*.tsv"))


def test_a_budget_for_the_data_set(runs, capsys):
    assert certify("budget=dataset", "n=1500", "radii=[0.02,0.1]", "name=shared") == 0
    assert "any certificate is wrong with at most this probability" in " ".join(capsys.readouterr().out.split())
    entry, card, rows = found(runs, "shared_smoothing_n1500_first_40")
    assert entry["settings"]["alpha_each"] == 0.001 / 40
    assert "all of them together" in card["claim"]["says"]
    assert certify("n=1500", "radii=[0.02,0.1]", "name=alone") == 0
    alone = found(runs, "alone_smoothing_n1500_first_40")[2]
    assert (rows.columns["count_top"] == alone.columns["count_top"]).all()
    assert (rows.radius <= alone.radius).all()
    assert (rows.radius < alone.radius).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("budget=everyone",), "unknown budget 'everyone'"),
        (("certifier.smoothing.precision=half",), "unknown precision 'half'"),
        (("certifier=anytime", "certifier.anytime.early=1.5"), "early = 1.5"),
        (("certifier=anytime", "alpha=2"), "alpha = 2 is not in (0, 1)"),
    ],
)
def test_bad_input(runs, capsys, arguments, message):
    assert certify(*arguments) == 2
    assert message in capsys.readouterr().err
