"""`certtrain certify certifier=cascade`: all four bounds by both engines, the tables, the card and the audit."""

import json
import shutil
from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import pytest
from torch import nn

from certtrain.certificates import STATUSES, CertificateLog
from certtrain.cli import main as cli

QUICK = ["certifier=cascade", "certifier.cascade.attack_steps=5", "radii=[0.02,0.1]"]


@pytest.fixture(scope="module")
def cascade(trained_runs, tmp_path_factory):
    """A run certified by the cascade, to be read, and what the command printed."""
    run = shutil.copytree(trained_runs / "bounds", tmp_path_factory.mktemp("cascade") / "bounds")
    with redirect_stdout(StringIO()) as shown:
        words = [*QUICK, "indices=every_3rd", "certifier.cascade.bisect=0.01"]
        assert cli.main(["certify", f"run={run}", *words]) == 0
    return run, shown.getvalue()


def test_the_statuses_add_up_and_the_command_prints_them(cascade):
    run, shown = cascade
    entry = json.loads((run / "result.json").read_text())["test"]["cascade_every_3rd"]
    assert set(entry["statuses"]) == {"0.02", "0.1"}
    for counts in entry["statuses"].values():
        assert tuple(counts) == STATUSES
        assert sum(counts.values()) == entry["n"] == 120
    assert entry["statuses"]["0.1"]["verified"] / 120 == pytest.approx(entry["certified"]["0.1"])
    lines = [line for line in shown.splitlines() if line.split()[:1] == ["0.1"]]
    assert [str(counts[name]) for name in STATUSES] + ["120"] == lines[1].split()[1:]
    assert [line for line in shown.splitlines() if len(line) > 100 and str(run) not in line] == []
    assert "mean largest certified eps, to 0.01:" in shown
    for name in ("attack", "IBP", "CROWN-IBP", "CROWN", "CROWN-zero", "α-CROWN"):
        assert any(line.split()[:1] == [name] for line in shown.splitlines())
    assert entry["float32_changed"] is None
    assert list(entry["stages"]) == ["attack", "ibp", "crown_ibp", "crown", "crown_zero", "alpha_crown"]
    assert entry["largest_eps"] >= entry["acr_grid"]


def test_the_card_names_the_engine_of_each_stage_and_the_log_its_columns(cascade):
    run, _ = cascade
    card = json.loads((run / "certificates" / "cascade_every_3rd.json").read_text())
    stages = {stage["bound"]: stage for stage in card["settings"]["stages"]}
    assert {stage["engine"] for stage in stages.values()} == {"native"}
    assert stages["alpha_crown"]["iterations"] == 20
    assert card["settings"]["attack"]["name"] == "pgd_margin+pgd_ce+apgd_ce+apgd_dlr"
    assert (card["settings"]["precision"], card["settings"]["screen"]) == ("float64", None)
    assert card["falsification"]["failed"] is False
    rows = CertificateLog(run / "certificates" / "cascade_every_3rd.tsv").read()
    assert {"margin", "decided_by", "status@0.1", "seconds_attack", "seconds_alpha_crown", "largest_eps"} <= set(
        rows.columns
    )
    assert (rows.columns["largest_eps"] >= rows.radius).all()
    assert set(rows.columns["decided_by"]) <= {"", "attack", *stages}


@pytest.mark.parametrize(
    "settings",
    [
        ["certifier=cascade", "bounds=auto_lirpa"],
        ["certifier=crown", "bounds=auto_lirpa"],
    ],
)
def test_a_stage_that_cannot_bound_the_network_is_refused_before_anything_is_written(
    runs, snapshot, monkeypatch, capsys, settings
):
    """auto_LiRPA's engine knows no sigmoid: nothing is attacked or bounded first."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Sigmoid(), nn.Linear(16, 10)).eval()

    def never(*_, **__):
        raise AssertionError("work was done first")

    monkeypatch.setattr("certtrain.config.loading.make_network", lambda *_, **__: network)
    monkeypatch.setattr("certtrain.config.loading.load_weights", lambda own, *_: own)
    monkeypatch.setattr("certtrain.certifiers.cascade.strongest", never)
    before = snapshot(runs)
    assert cli.main(["certify", "run=bounds", *settings, "radii=[0.02]", "indices=first_5"]) == 2
    shown = capsys.readouterr().err
    assert "2 (Sigmoid" in shown
    assert "certifier.cascade.stages=[ibp,crown_ibp,crown]" in shown
    assert snapshot(runs) == before


def test_it_proves_at_least_the_union_of_the_bounds_alone(cascade):
    run, _ = cascade
    rows = CertificateLog(run / "certificates" / "cascade_every_3rd.tsv").read()
    union = np.zeros(120)
    for name in ("ibp", "crown_ibp", "crown"):
        single = CertificateLog(run / "certificates" / f"{name}.tsv").read()
        at = single.columns["status@0.02"][np.isin(single.index, rows.index)] == "verified"
        union = np.maximum(union, np.where(at, 0.02, 0.0))
    assert (rows.radius >= union).all()


def test_the_audit_recomputes_statuses_and_stages(cascade, tmp_path, capsys):
    run = shutil.copytree(cascade[0], tmp_path / "bounds")
    path = run / "certificates" / "cascade_every_3rd.json"
    assert cli.main(["audit", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "statuses" in shown
    card = json.loads(path.read_text())
    card["summary"]["statuses"]["0.1"]["verified"] += 1
    path.write_text(json.dumps(card))
    assert cli.main(["audit", str(path)]) != 0


def test_stages_and_attacks_are_chosen_on_the_command_line(runs, capsys):
    few = ["certifier.cascade.stages=[ibp,crown]", "certifier.cascade.attacks=[pgd_ce]", "indices=first_20"]
    assert cli.main(["certify", "run=bounds", *QUICK, *few, "certifier.cascade.screen=true"]) == 0
    assert "of the float32 screen's verdicts" in capsys.readouterr().out
    rows = CertificateLog(runs / "bounds" / "certificates" / "cascade_first_20.tsv").read()
    assert [name for name in rows.columns if name.startswith("seconds_")] == [
        *("seconds_attack", "seconds_ibp", "seconds_crown")
    ]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("certifier.cascade.stages=[ibp,corwn]", "did you mean crown"),
        ("certifier.cascade.attacks=[apgd]", "unknown attack 'apgd'"),
        ("certifier.cascade.bisect=-1", "negative"),
        ("bounds=auto_lirpa certifier.cascade.engines=null", "native has it"),
    ],
)
def test_mistakes_are_explained(runs, capsys, argument, message):
    assert cli.main(["certify", "run=bounds", *QUICK, *argument.split()]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
