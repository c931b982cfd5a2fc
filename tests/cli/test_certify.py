"""`certtrain certify`: logs and cards that say all, go on after a kill, and are never mixed with other settings."""

import json
import os
import shutil
import signal

import pytest
import torch
import yaml
from run_files import forget_hashes

from certtrain.certificates import CertificateLog
from certtrain.certification import stage
from certtrain.certifiers import SmoothingCertifier
from certtrain.cli import main as cli
from certtrain.runs.directory import sha256_file

# What the card of a certificate must state (the names are those of the card's own keys).
CARD = (
    *("radii", "certifier", "made_by", "settings", "engine", "claim", "checkpoint_sha256", "config_sha256"),
    *("dataset", "split", "indices", "indices_sha256", "versions", "git", "command", "hardware", "device", "training"),
    *("input_contract", "start", "end", "seconds", "n", "warnings", "summary", "status"),
)


def certify(*arguments: str) -> int:
    return cli.main(["certify", *arguments])


def card(run, name) -> dict:
    return json.loads((run / "certificates" / f"{name}.json").read_text())


def log(run, name):
    return CertificateLog(run / "certificates" / f"{name}.tsv").read()


def result(run) -> dict:
    return json.loads((run / "result.json").read_text())


@pytest.mark.parametrize(("run", "name"), [("bounds", "crown_ibp"), ("noise", "smoothing_n100")])
def test_the_card_states_what_the_certificates_claim(trained_runs, run, name):
    found = card(trained_runs / run, name)
    assert [key for key in CARD if key not in found] == []
    assert found["status"] == "complete"
    assert found["claim"]["threat"] == {"bounds": "linf", "noise": "l2"}[run]
    assert found["radii"] == ["0.02", "0.05"]
    assert (found["dataset"], found["split"], found["indices"], found["n"]) == ("digits", "test", "all", 360)
    assert found["checkpoint_sha256"] == sha256_file(trained_runs / run / "checkpoints" / "last.ckpt")
    assert found["versions"]["torch"] == torch.__version__.split("+")[0] or found["versions"]["torch"]
    assert found["training"]["epochs"] == 2
    assert found["training"]["seed"] == 0
    assert found["start"] <= found["end"]
    assert found["engine"]["version"]
    assert found["summary"] == result(trained_runs / run)["test"][name]
    settings = found["settings"]
    if run == "noise":
        for key, value in {"sigma": 0.1, "n0": 10, "n": 100, "alpha": 0.001, "seed": 0, "two_sided": False}.items():
            assert settings[key] == value, key
        assert {"budget", "abstain", "precision", "noise"} <= settings.keys()
        assert "1 - alpha" in found["claim"]["says"]
    else:
        assert settings["stages"] == [{"bound": "crown_ibp", "engine": "native"}]
        assert settings["precision"] == "float64"
        assert "outward" in settings["box"]
        assert found["engine"]["name"].endswith("NativeEngine")
        assert settings["attack"]["steps"] == 2


def test_the_log_has_the_columns_of_the_field_and_one_status_per_radius(trained_runs):
    lines = (trained_runs / "bounds" / "certificates" / "crown.tsv").read_text().splitlines()
    header = lines[0].split("\t")
    assert header[:6] == ["idx", "label", "predict", "radius", "correct", "time"]
    assert {"margin", "decided_by", "status@0.02", "status@0.05"} <= set(header)
    assert len(lines) == 1 + 360
    found = log(trained_runs / "noise", "smoothing_n100")
    columns = {"n0", "n", "count_top", "count_runner_up", "classes", "p_lower"}
    assert columns <= set(found.columns)
    assert (found.columns["count_top"] + found.columns["count_runner_up"] <= 100).all()


def test_another_certifier_other_radii_and_examples(runs):
    run = runs / "noise"
    (runs.parent / "mine.txt").write_text("3\n1\n200\n")
    assert certify(f"run={run}", "indices=first_20", "n=50") == 0
    assert certify("run=noise", "indices=every_30th", "radii=[0.01,0.12]", "sigma=0.1", "name=fine") == 0
    assert certify(f"run={run}", "indices=mine.txt", "certifier=ibp", "radii=[1/255]", "norm=linf") == 0
    assert log(run, "smoothing_n50_first_20").index.tolist() == list(range(20))
    assert log(run, "fine_smoothing_n100_every_30th").index.tolist() == list(range(0, 360, 30))
    assert log(run, "ibp_mine").index.tolist() == [1, 3, 200]
    assert card(run, "ibp_mine")["radii"] == ["1/255"]
    assert card(run, "fine_smoothing_n100_every_30th")["radii"] == ["0.01", "0.12"]
    test = result(run)["test"]
    assert set(test) == {"smoothing_n100", "smoothing_n50_first_20", "fine_smoothing_n100_every_30th", "ibp_mine"}
    assert test["ibp_mine"]["n"] == 3
    assert result(run)["status"] == "complete"
    assert {path.name for path in run.glob("certified_accuracy_*.png")} == {
        "certified_accuracy_test_first_20.png",
        "certified_accuracy_test_every_30th.png",
        "certified_accuracy_test_mine.png",
    }


def test_the_figure_of_the_run_keeps_showing_the_other_certifiers(runs, monkeypatch):
    shown, plot = [], stage.certified_accuracy_plot

    def watched(entries, path, **options):
        shown.append((sorted(entries), path.name))
        return plot(entries, path, **options)

    monkeypatch.setattr(stage, "certified_accuracy_plot", watched)
    assert certify("run=bounds", "certifier=ibp", "certifier.ibp.attack_steps=0", "name=again") == 0
    assert shown == [(["again_ibp", "crown", "crown_ibp", "ibp"], "certified_accuracy.png")]


def test_the_validation_split_is_certified_apart_from_the_test_result(runs):
    before = result(runs / "noise")
    assert certify("run=noise", "split=val", "indices=first_20") == 0
    assert result(runs / "noise") == before
    assert card(runs / "noise", "val_smoothing_n100_first_20")["settings"]["noise_split"] == "val"
    first = log(runs / "noise", "smoothing_n100").columns["count_top"][:20]
    assert first.tolist() != log(runs / "noise", "val_smoothing_n100_first_20").columns["count_top"].tolist()


def test_the_same_call_again_adds_nothing(runs, snapshot, few_attacks):
    before = snapshot(runs / "bounds" / "certificates")
    assert certify("run=bounds", *few_attacks) == 0
    assert snapshot(runs / "bounds" / "certificates") == before


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["run=noise", "sigma=0.2"], "sigma"),
        (["run=noise", "alpha=0.01"], "alpha"),
        (["run=noise", "seed=1"], "seed"),
        (["run=noise", "radii=[0.1]"], "radii"),
        (["run=bounds", "certifier=ibp"], "attack"),
        (
            ["run=bounds", "certifier=ibp", "certifier.ibp.attack_steps=2", "norm=l2", "radii=[0.02,0.05]"],
            "input_range",
        ),
    ],
)
def test_other_settings_under_the_name_of_a_log_are_refused(runs, snapshot, capsys, arguments, key):
    before = snapshot(runs)
    assert certify(*arguments) == 2
    shown = capsys.readouterr().err
    assert key in shown
    assert "name=" in shown
    after = snapshot(runs)
    assert {name: after[name] for name in before} == before
    assert {name for name in after if name not in before} <= {"noise/.lock", "bounds/.lock"}


def test_another_checkpoint_under_the_name_of_a_log_is_refused(runs, capsys):
    assert certify("run=bounds", "certifier=ibp", "indices=first_20", "certifier.ibp.attack_steps=0") == 0
    shutil.copy(runs / "noise" / "checkpoints" / "last.ckpt", runs / "bounds" / "checkpoints" / "last.ckpt")
    forget_hashes(runs / "bounds")
    assert certify("run=bounds", "certifier=ibp", "indices=first_20", "certifier.ibp.attack_steps=0") == 2
    assert "checkpoint_sha256" in capsys.readouterr().err


@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_a_log_cut_in_the_middle_of_a_row_goes_on(runs, cut):
    path = runs / "noise" / "certificates" / "smoothing_n100.tsv"
    whole = log(runs / "noise", "smoothing_n100").sorted()
    content = path.read_bytes()
    path.write_bytes(content[: int(cut * len(content))])
    kept = path.read_bytes().rsplit(b"\n", 1)[0]
    assert certify("run=noise") == 0
    assert path.read_bytes().startswith(kept)
    again = log(runs / "noise", "smoothing_n100").sorted()
    for column in ("index", "label", "predict", "radius", "correct"):
        assert getattr(again, column).tolist() == getattr(whole, column).tolist()
    assert again.columns["count_top"].tolist() == whole.columns["count_top"].tolist()


def test_a_signal_keeps_the_rows_and_the_same_command_goes_on(runs, monkeypatch, capsys):
    run, batches = runs / "noise", []
    certify_batch = SmoothingCertifier.certify

    def watched(self, network, batch):
        batches.append(batch.index.tolist())
        if len(batches) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return certify_batch(self, network, batch)

    monkeypatch.setattr(SmoothingCertifier, "certify", watched)
    before = result(run)
    assert certify("run=noise", "n=50", "indices=first_50") == 130
    assert "goes on from here" in capsys.readouterr().out
    assert log(run, "smoothing_n50_first_50").index.tolist() == list(range(32))
    assert card(run, "smoothing_n50_first_50")["status"] == "running"
    assert result(run) == before  # no number of a part of the examples
    assert certify("run=noise", "n=50", "indices=first_50") == 0
    assert [index for batch in batches for index in batch] == list(range(50))
    assert result(run)["test"]["smoothing_n50_first_50"]["n"] == 50


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
def test_a_run_of_a_gpu_is_certified_on_a_processor_with_a_word(runs, capsys):
    path = runs / "noise" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["trainer"]["accelerator"] = "gpu"
    path.write_text(yaml.safe_dump(config))
    assert certify("run=noise", "indices=first_20") == 0
    assert "trained with trainer.accelerator=gpu; there is none here" in capsys.readouterr().out


def test_data_that_the_network_was_not_trained_on_are_refused(runs, capsys):
    path = runs / "bounds" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["data"]["mean"] = [0.5]
    path.write_text(yaml.safe_dump(config))
    assert certify("run=bounds", "certifier=ibp", "name=other") == 2
    shown = capsys.readouterr().err
    assert "normalisation by mean" in shown
    assert not list((runs / "bounds" / "certificates").glob("other*"))


def test_what_differs_from_the_training_is_a_warning_that_stands_in_the_card(runs, capsys):
    assert certify("run=noise", "sigma=0.2", "indices=first_20") == 0
    assert "trained with sigma 0.1, certified with sigma 0.2" in capsys.readouterr().out
    assert card(runs / "noise", "smoothing_n100_first_20")["warnings"] == [
        "trained with sigma 0.1, certified with sigma 0.2"
    ]
    arguments = ["certifier=ibp", "certifier.ibp.attack_steps=0", "indices=first_20"]
    assert certify("run=bounds", *arguments, "radii=[0.02,0.2]") == 0
    assert card(runs / "bounds", "ibp_first_20")["warnings"] == ["trained for eps 0.05, certified up to 0.2"]
    assert card(runs / "bounds", "crown")["warnings"] == []
    assert certify("run=bounds", *arguments, "norm=l2", "radii=[0.02,0.05]", "name=round") == 0
    assert "certified in norm l2" in str(card(runs / "bounds", "round_ibp_first_20")["warnings"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run=nois"], "did you mean noise?"),
        ([], "run=runs/NAME"),
        (["run=noise", "indices=some"], "first_500"),
        (["run=noise", "indices=first_361"], "360"),
        (["run=noise", "split=tset"], "did you mean test"),
        (["run=noise", "checkpoint=best"], "checkpoint_sha256"),
        (["run=noise", "checkpoint=lst"], "last or best"),
        (["run=noise", "certifier=corwn"], "did you mean crown"),
        (["run=noise", "radii=[]"], "radii=[0.1,0.2]"),
        (["run=noise", "sigma=0"], "sigma=0.25"),
        (["run=noise", "n=0"], "n"),
        (["run=bounds", "certifier=ibp", "certifier.ibp.methods=[ipb]"], "did you mean ibp"),
    ],
)
def test_mistakes_are_explained(runs, snapshot, capsys, arguments, expected):
    before = snapshot(runs)
    assert certify(*arguments) == 2
    shown = capsys.readouterr().err
    assert expected in shown
    assert "Traceback" not in shown
    after = snapshot(runs)
    assert {name: after[name] for name in before} == before


def test_a_run_without_validation_has_no_validation_split_to_certify(in_tmp, tiny, capsys):
    assert cli.main(["train", *tiny, "method=standard", "epochs=1", "val_size=0", "name=run"]) == 0
    assert certify("run=run", "split=val") == 2
    assert "held out no val examples" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run=noise", "certifier=crown"], "norm=linf radii=[...]"),
        (["run=noise", "certifier=crown", "radii=[0.01]"], "norm=linf"),
        (["run=noise", "certifier=crown", "norm=linf"], "radii=[...]"),
        (["run=bounds", "certifier=smoothing"], "radii=[...]"),
        (["run=bounds", "certifier=anytime"], "radii=[...]"),
        (["run=bounds", "norm=l2"], "radii=[...]"),
    ],
)
@pytest.mark.parametrize("command", [["certify"], ["predict", "input=digit.npy"]])
def test_the_radii_of_a_run_are_not_read_in_another_norm(runs, snapshot, capsys, command, arguments, expected):
    before = snapshot(runs)
    assert cli.main([*command, *arguments]) == 2
    shown = capsys.readouterr().err
    assert "radii [0.02,0.05]".replace(",", ", ") in shown
    assert expected in shown
    assert snapshot(runs) == before


def test_the_radii_of_a_smoothing_run_are_l2_also_where_bounds_prove_them(runs):
    arguments = ["certifier=ibp", "certifier.ibp.attack_steps=0", "falsify.examples=0", "indices=first_5"]
    assert certify("run=noise", *arguments, "norm=l2") == 0
    found = card(runs / "noise", "ibp_first_5")
    assert (found["claim"]["threat"], found["radii"]) == ("l2", ["0.02", "0.05"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run=noise", "sigma=64"], "sigma=0.251 for 64 of 255 grey levels"),
        (["run=noise", "sigma=8/255"], "sigma=0.0313725"),
        (["run=bounds", "radii=[8]"], "8/255"),
        (["run=bounds", "norm=l2", "radii=[8.1]"], "the diagonal 8 of the input range"),
        (["run=bounds", "certifier=smoothing", "sigma=0.1", "radii=[9]"], "the diagonal 8 of the input range"),
    ],
)
def test_grey_levels_are_told_from_input_units(runs, capsys, arguments, expected):
    assert certify(*arguments) == 2
    assert expected in capsys.readouterr().err


def test_more_selection_than_estimation_draws_are_a_warning(runs):
    assert certify("run=noise", "n0=200", "n=100", "indices=first_5", "falsify.examples=0") == 0
    warning = "n0 = 200 draws select the class, only n = 100 estimate its radius"
    assert warning in card(runs / "noise", "smoothing_n100_first_5")["warnings"]


def test_uniform_noise_certifies_l1(runs, capsys):
    asked = ("run=noise", "certifier=uniform", "indices=first_20", "n=200")
    assert certify(*asked) == 2
    assert "certifies in l1" in " ".join(capsys.readouterr().err.split()).replace("certifier=uniform ", "")
    assert certify(*asked, "radii=[0.02,0.1]") == 0
    assert "smoothed with uniform noise, sigma 0.1, l1" in " ".join(capsys.readouterr().out.split())
    found = card(runs / "noise", "uniform_n200_first_20")
    assert (found["claim"]["threat"], found["summary"]["certifier"]) == ("l1", "uniform")
    assert cli.main(["audit", str(runs / "noise" / "certificates" / "uniform_n200_first_20.json")]) == 0
