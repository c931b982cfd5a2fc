"""The committed results: the README shows what they give, and the logs give the results again."""

import json
import shutil
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from certtrain.audit.card import audit_card, cards_of
from certtrain.certificates import CertificateLog
from certtrain.certificates.summary import summarise
from certtrain.claim import claim_of
from certtrain.cli.main import main
from certtrain.cli.one_run import resolve
from certtrain.radii import parse_radii
from certtrain.runs.directory import RunDirectory, config_differences, config_hash
from certtrain.runs.session_keys import EXTENDS, MAY_DIFFER
from certtrain.system.files import conf_dir

ROOT = Path(__file__).resolve().parents[1]
RESULTS = sorted((ROOT / "experiments").glob("*/results/*/result.json"))
BLOCKS = [ROOT / "README.md", *sorted((ROOT / "experiments").glob("**/README.md"))]


@pytest.mark.parametrize("path", BLOCKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_committed_table_is_what_the_results_give(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    if "<!-- begin: certtrain table" in path.read_text(encoding="utf-8"):
        assert main(["table", "--check", str(path)]) == 0


def test_every_paper_shows_its_table():
    for folder in {path.parent for path in (ROOT / "experiments").glob("*/published.yaml")}:
        assert f"<!-- begin: certtrain table experiments/{folder.name}" in (folder / "README.md").read_text("utf-8")


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.parent.name)
def test_every_committed_log_gives_its_result_again(path):
    result = json.loads(path.read_text(encoding="utf-8"))
    assert result["status"] == "complete"
    assert result["test"]
    for name, entry in result["test"].items():
        folder = path.parent / "certificates"
        log = next(path for path in (folder / f"{name}.tsv", folder / f"{name}.tsv.gz") if path.exists())
        again = summarise(CertificateLog(log).read(), parse_radii(entry["certified"]), claim_of(entry))
        assert {key: entry[key] for key in again} == again
        card = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        assert card["status"] == "complete"
        assert card["summary"]["certified"] == entry["certified"]


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.parent.name)
def test_every_committed_card_passes_its_audit(path):
    cards = cards_of(path.parent)
    assert {card.stem for card in cards} >= set(json.loads(path.read_text(encoding="utf-8"))["test"])
    for card in cards:
        audit = audit_card(card)
        assert audit.of("DIFFERENT") == []
        assert len(audit.of("same")) > 20


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.parent.name)
def test_runs_that_were_kept_are_what_their_overrides_make_now(path):
    """So `resume=` goes on with each of them. A key that conf/ got since is written into their files."""
    run = RunDirectory(path.parent)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        found = compose("train", [*run.read_overrides(), f"name='{run.name}'"], return_hydra_config=True)
    new, _ = resolve(OmegaConf.masked_copy(found, [key for key in found if key != "hydra"]), found.hydra)
    old = run.read_config()
    differing = config_differences(old, {**new, "name": old["name"]}, (*MAY_DIFFER, *EXTENDS))
    # Two presets asked for radii beyond what their draws can show: those columns of the kept results are 0.
    beyond = run.name.startswith(("mnist_smoothing", "quickstart_smoothing"))
    assert [one for one in differing if not (beyond and one[0].split(".")[-1] == "radii")] == []


def test_a_replaced_path_leaves_the_hashes_consistent(trained_runs, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    from collect import collect

    run = shutil.copytree(trained_runs / "noise", tmp_path / "noise")
    text = (run / "config.yaml").read_text(encoding="utf-8").replace("data_dir: data", "data_dir: /elsewhere")
    (run / "config.yaml").write_text(text, encoding="utf-8")
    before = config_hash(RunDirectory(trained_runs / "noise").read_config())
    after = config_hash(RunDirectory(run).read_config())
    for path in (run / "environment.json", *run.glob("certificates/*.json")):
        path.write_text(path.read_text(encoding="utf-8").replace(before, after), encoding="utf-8")
    for card in cards_of(collect(run, tmp_path / "paper")):
        audit = audit_card(card)
        assert not audit.failed
        assert any("original_config_sha256" in text for text in audit.of("not checked"))


def test_the_committed_flips_are_those_of_the_committed_log(tmp_path, monkeypatch, capsys):
    committed = ROOT / "experiments" / "certtrain" / "results" / "breast_cancer_measured-seed0"
    run = shutil.copytree(committed, tmp_path / "runs" / "measured")
    monkeypatch.chdir(tmp_path)
    assert main(["audit", str(run)]) == 0
    assert "scales follow from scales_asked" in capsys.readouterr().out
    assert main(["flips", "measured", "--no-features"]) == 0
    before, after = (json.loads((f / "flips_cascade.json").read_text(encoding="utf-8")) for f in (committed, run))
    assert after == {**before, "features_alone": {}}
    text = (ROOT / "experiments" / "certtrain" / "README.md").read_text(encoding="utf-8")
    for name, found in before["classes"].items():
        shares = [found["right"], *found["cannot_be_flipped"].values()]
        row = " | ".join(f"{100 * k / found['n']:.1f}" for k in shares)
        assert f"| {name}: right, cannot be flipped (%) | {found['n']} | {row} |" in text
