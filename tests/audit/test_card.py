"""A card passes as it was written, and fails when anything that it rests on is changed."""

import gzip
import json
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from certtrain.audit.card import audit_card, cards_of
from certtrain.bounds import NativeEngine
from certtrain.certificates.card_check import indices_sha256
from certtrain.certificates.findings import equal
from certtrain.certification.examples import Examples, certify_examples
from certtrain.certifiers import AnytimeCertifier, BoundCertifier, CascadeCertifier, SmoothingCertifier
from certtrain.certifiers.claims import smoothing_claim
from certtrain.errors import UserError
from certtrain.runs.directory import RunDirectory, config_hash, sha256_file
from certtrain.smoothing.distribution import Gaussian

CONFIG = {"seed": 0, "data_dir": "data"}
CERTIFIERS = {
    "bounds": lambda: BoundCertifier(["ibp", "crown"], ["0.01", "0.05", "0.2"], NativeEngine, attack_steps=3),
    "smoothing": lambda: SmoothingCertifier(0.25, ["0", "0.1"], n0=20, n=200),
    "two_sided": lambda: SmoothingCertifier(0.25, ["0.1"], n0=20, n=200, two_sided=True),
    "budget": lambda: SmoothingCertifier(0.25, ["0.1"], n0=20, n=400, budget="dataset", alpha=0.05),
    "cascade": lambda: CascadeCertifier(
        ["ibp", "crown"], ["0.01", "0.05", "0.2"], NativeEngine, attack_steps=3, screen=True, bisect="0.01"
    ),
    "anytime": lambda: AnytimeCertifier(0.25, ["0.1", "0.2"], n0=20, n=300),
}

OTHER_CLAIM = smoothing_claim(Gaussian(0.25), 0.001, "dataset", "continuous")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run directory with one card per certifier."""
    run = RunDirectory(tmp_path_factory.mktemp("runs") / "run")
    run.certificates.mkdir(parents=True)
    run.checkpoints.mkdir()
    run.last.write_bytes(b"weights")
    run.config.write_text("seed: 0\ndata_dir: data\n")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.rand(40, 4)
    label = network(x).argmax(1)
    label[::7] = (label[::7] + 1) % 3
    examples = Examples(x, label, torch.arange(0, 40, 2), "test", "made")
    card = {"checkpoint": "last.ckpt", "checkpoint_sha256": sha256_file(run.last), "config_sha256": config_hash(CONFIG)}
    card["indices"] = "every_2nd"
    test = {}
    for name, make in CERTIFIERS.items():
        certifier = make()
        if name == "budget":
            certifier.spread_over(20)
        log = run.certificates / f"{name}.tsv"
        stated = {**card}
        test[name], _ = certify_examples(
            network, certifier, examples, log, stated, batch_size=20, device=torch.device("cpu")
        )
    run.write_result({"status": "complete", "checkpoints_sha256": run.checkpoint_hashes(), "test": test})
    return run.path


@pytest.fixture
def run(made, tmp_path):
    """A copy of it, to be changed."""
    return RunDirectory(shutil.copytree(made, tmp_path / "run"))


def change_log(run, name, row, column, value):
    """Put another value into a row, and its hash into the card: whoever forges a log mends that, too."""
    path = run.certificates / f"{name}.tsv"
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    lines[row + 1][lines[0].index(column)] = value
    path.write_text("\n".join("\t".join(cells) for cells in lines) + "\n")
    change_card(run, name, log_sha256=sha256_file(path))


def change_card(run, name, **values):
    path = run.certificates / f"{name}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def failures(run, name):
    return audit_card(run.certificates / f"{name}.json").of("DIFFERENT")


@pytest.mark.parametrize("name", CERTIFIERS)
def test_what_was_made_passes_and_is_left_as_it_was(made, name, snapshot):
    before = snapshot(made)
    audit = audit_card(made / "certificates" / f"{name}.json")
    assert audit.findings
    assert audit.of("DIFFERENT") == []
    assert audit.of("not checked") == []
    assert snapshot(made) == before
    assert [path.stem for path in cards_of(made)] == sorted(CERTIFIERS)


def test_a_packed_log_is_the_same_log(run):
    log = run.certificates / "smoothing.tsv"
    log.with_suffix(".tsv.gz").write_bytes(gzip.compress(log.read_bytes()))
    log.unlink()
    assert failures(run, "smoothing") == []


@pytest.mark.parametrize("name", CERTIFIERS)
def test_no_character_of_a_log_can_be_changed(run, name):
    path = run.certificates / f"{name}.tsv"
    content = bytearray(path.read_bytes())
    for at in np.random.default_rng(0).integers(0, len(content), 5):
        spoiled = content.copy()
        spoiled[at] ^= 1
        path.write_bytes(spoiled)
        assert any("log_sha256" in text or "not a certificate log" in text for text in failures(run, name))


@pytest.mark.parametrize(
    ("name", "column", "value", "message"),
    [
        ("smoothing", "radius", "0.7", "the radius follows from the counts?"),
        ("smoothing", "count_top", "201", "the counts fit n?"),
        ("smoothing", "count_top", "101", "p_lower follows from the counts?"),
        ("smoothing", "n", "1000", "n is the card's?"),
        ("smoothing", "n0", "7", "n0 is the card's?"),
        ("smoothing", "correct", "0", "correct is predict = label?"),
        ("smoothing", "status", "abstained", "status fits predict?"),
        ("smoothing", "time", "9.5", "summary: seconds"),
        ("two_sided", "count_runner_up", "90", "the radius follows from the counts?"),
        ("budget", "radius", "0.3", "the radius follows from the counts?"),
        ("anytime", "radius", "0.05", "radius is not what the votes give under the schedule"),
        ("anytime", "stage", "9", "stage is not what the votes give under the schedule"),
        ("anytime", "stage_counts", "32/32", "is not what the votes give"),
        ("anytime", "stage_counts", "32/32 30/40", "votes that the schedule does not give"),
        ("anytime", "stage_counts", "32/33", "are not votes at the looks of the schedule"),
        ("anytime", "n", "299", "n is not what the votes give under the schedule"),
        ("bounds", "status@0.05", "unknown", "verified at r is radius >= r?"),
        ("bounds", "status@0.01", "falsified", "nothing is both falsified at a radius and verified at it or above?"),
        ("bounds", "status@0.01", "fine", "statuses are known?"),
        ("bounds", "margin", "-0.5", "a proof has a margin > 0?"),
        ("bounds", "margin", "nan", "a proof has a margin > 0?"),
        ("bounds", "decided_by", "", "a proof names a bound of the card?"),
        ("bounds", "decided_by", "alpha_crown", "a proof names a bound of the card?"),
        ("bounds", "decided_by", "attack", "an attack decided only what was falsified?"),
        ("bounds", "idx", "1", "indices_sha256"),
        ("bounds", "radius", "0.04", "a radius is 0 or one of the card's?"),
        ("bounds", "radius", "9.0", "a radius is 0 or one of the card's?"),
        ("cascade", "largest_eps", "0.001", "the largest certified eps is at least the radius?"),
        ("cascade", "largest_eps", "9.0", "the largest certified eps is below the next radius?"),
        ("cascade", "seconds_ibp", "9.5", "summary: stages"),
    ],
)
def test_a_forged_row_is_found_although_its_hash_was_mended(run, name, column, value, message):
    change_log(run, name, 1, column, value)  # a right prediction, certified at the smallest radius at least
    assert any(message in text for text in failures(run, name))


@pytest.mark.parametrize("name", ["smoothing", "bounds", "cascade"])
def test_every_figure_of_the_summary_is_recomputed(run, name):
    path = run.certificates / f"{name}.json"
    summary = json.loads(path.read_text())["summary"]
    for key in summary:
        change_card(run, name, summary={**summary, key: "other"})
        assert any(key in text for text in failures(run, name)), key
    change_card(run, name, summary={**summary, "extra": 1})
    assert any("extra" in text for text in audit_card(path).of("not checked"))


def test_that_a_classifier_is_no_better_than_a_guess_follows_from_the_rows(run):
    path = run.certificates / "bounds.json"
    summary = json.loads(path.read_text())["summary"]
    assert summary.pop("guessing").startswith("it ")  # 17 right of 20, where 17 are of one class
    change_card(run, "bounds", summary=summary)
    assert any("guessing" in text for text in failures(run, "bounds"))  # left out
    change_card(run, "bounds", summary={**summary, "guessing": "it is as good as any"})
    assert any("guessing" in text for text in failures(run, "bounds"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"status": "running"}, "the certificate was never completed"),
        ({"n": 19}, "n: stated 19, found 20"),
        ({"seconds": 1e9}, "card: seconds"),
        ({"indices_sha256": "0" * 64}, "indices_sha256"),
        ({"checkpoint_sha256": "0" * 64}, "checkpoint_sha256 of last.ckpt"),
        ({"config_sha256": "0" * 64}, "config_sha256 of config.yaml"),
        ({"falsification": {"failed": True, "hits": 2, "attacked": 9}}, "an attack broke 2 of 9 certificates"),
    ],
)
def test_other_values_of_the_card(run, values, message):
    change_card(run, "smoothing", **values)
    assert any(message in text for text in failures(run, "smoothing"))


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("smoothing", {"budget": "alpha for all 20 examples (Bonferroni)"}, "KeyError: 'alpha_each'"),
        ("smoothing", {"budget": "alpha for everything"}, "budget 'alpha for everything'?"),
        ("budget", {"budget": "alpha for all 10 examples (Bonferroni)"}, "20 rows share alpha by 10"),
        ("budget", {"budget_examples": 1, "alpha": 0.0025}, "examples that share alpha"),
        ("anytime", {"n": 10**6}, "draws of the schedule"),
        ("smoothing", {"purposes": ["estimate", "estimate"]}, "from one stream of noise"),
        ("smoothing", {"noise_split": "train"}, "split of the noise"),
        ("smoothing", {"abstain": "never"}, "abstention rule"),
        ("bounds", {"stages": [{"bound": "crown"}, {"bound": "ibp"}]}, "certifier of the settings"),
        ("bounds", {"input_range": None}, "input range of the threat model"),
        ("bounds", {"precision": "float32"}, "claim: stated"),
    ],
)
def test_other_words_of_the_settings(run, name, values, message):
    card = json.loads((run.certificates / f"{name}.json").read_text())
    change_card(run, name, settings={**card["settings"], **values})
    assert any(message in text for text in failures(run, name))


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("smoothing", {"certifier": "anytime"}, "certifier of the settings"),
        (
            "smoothing",
            {"claim": smoothing_claim(Gaussian(0.25), 0.001, "dataset", "continuous").to_dict()},
            "claim: stated",
        ),
        ("anytime", {"radii": ["0.05", "0.1"]}, "targets of the schedule"),
        ("bounds", {"indices": "all"}, "indices=all: without idx 1, 3, 5, 7, 9 and 14 more"),
        ("bounds", {"indices": "first_2"}, "indices=first_2: without idx 1, with idx 2, 4, 6, 8, 10 and 14 more"),
        ("bounds", {"falsification": {"failed": False, "hits": 1, "allowed": 0, "attacked": 9}}, "1 hits, 0 allowed"),
    ],
)
def test_other_words_of_the_card(run, name, values, message):
    change_card(run, name, **values)
    assert any(message in text for text in failures(run, name))


def test_a_grid_from_0(run):
    network, x = nn.Linear(4, 3), torch.rand(20, 4)
    examples = Examples(x, torch.zeros(20, dtype=torch.int64), torch.arange(20), "test", "made")
    certifier = BoundCertifier(["ibp"], ["0", "0.01"], NativeEngine, attack_steps=0)
    certify_examples(
        network,
        certifier,
        examples,
        run.certificates / "zero.tsv",
        {"checkpoint_sha256": sha256_file(run.last)},
        batch_size=20,
        device=torch.device("cpu"),
    )
    assert not any("verified at r" in text for text in failures(run, "zero"))
    change_log(run, "zero", 1, "status@0.01", "verified")
    change_log(run, "zero", 1, "radius", "0.0")
    assert any("verified at r is radius >= r?" in text for text in failures(run, "zero"))


def test_a_list_of_examples_is_not_in_the_card(run):
    change_card(run, "bounds", indices="lists/mine.txt")
    assert "indices: the list mine.txt, which the card does not hold" in audit_card(
        run.certificates / "bounds.json"
    ).of("not checked")


def test_counterexamples_that_the_card_denies(run):
    beside = run.certificates / "bounds.counterexamples.2.json"
    beside.write_text(json.dumps({"failed": False, "hits": 1}))
    assert failures(run, "bounds") == []
    beside.write_text(json.dumps({"failed": True, "hits": 1}))
    assert any("bounds.counterexamples.2.json refutes the certificates" in text for text in failures(run, "bounds"))


def test_another_alpha_or_schedule_does_not_fit_the_rows(run):
    for name, key, value in (("smoothing", "alpha", 0.05), ("smoothing", "sigma", 0.5), ("anytime", "alpha", 0.05)):
        settings = json.loads((run.certificates / f"{name}.json").read_text())["settings"]
        change_card(run, name, settings={**settings, key: value})
        assert failures(run, name)
    settings = json.loads((run.certificates / "anytime.json").read_text())["settings"]
    lower = [" ".join(str(max(0, int(count) - 3)) for count in row.split()) for row in settings["schedule"]["critical"]]
    change_card(run, "anytime", settings={**settings, "schedule": {**settings["schedule"], "critical": lower}})
    assert any("a false claim has probability" in text for text in failures(run, "anytime"))


def test_result_and_surroundings(run):
    result = json.loads(run.result.read_text())
    result["test"]["smoothing"]["clean"] = 1.0
    run.result.write_text(json.dumps(result))
    assert any("result.json: clean: 1.0 there" in text for text in failures(run, "smoothing"))
    run.config.write_text("seed: 1\n")
    run.last.write_bytes(b"other")
    assert len(failures(run, "bounds")) == 3  # the checkpoint: by the card, and by result.json


def test_an_earlier_configuration_counts_where_going_on_with_the_run_can_have_changed_it(run):
    run.config.rename(run.path / "config.0.yaml")
    run.config.write_text("seed: 0\ndata_dir: elsewhere\ncertify_test: true\n")
    assert failures(run, "bounds") == []
    for text, key in (("seed: 1\ndata_dir: data\n", "seed"), ("seed: 0\ndata_dir: data\nepochs: 9\n", "epochs")):
        run.config.write_text(text)
        assert failures(run, "bounds") == [f"config_sha256: it is of config.0.yaml, and config.yaml has another {key}"]


def test_other_files_beside_the_configuration_are_no_earlier_ones(run):
    (run.path / "config.broken.yaml").write_text("[")
    assert failures(run, "bounds") == []
    run.config.rename(run.path / "config.mine.yaml")
    run.config.write_text("seed: 1\ndata_dir: data\n")
    assert any("config_sha256 of config.yaml" in text for text in failures(run, "bounds"))


def test_what_is_not_there_is_said(run):
    for path in (run.last, run.config, run.result):
        path.unlink()
    audit = audit_card(run.certificates / "smoothing.json")
    assert not audit.failed
    assert [text.split(":")[0] for text in audit.of("not checked")] == [
        *("checkpoint_sha256", "config_sha256", "result.json")
    ]


@pytest.mark.parametrize("key", ["log_sha256", "config_sha256"])
def test_a_card_without_a_hash_fails(run, key):
    path = run.certificates / "smoothing.json"
    card = json.loads(path.read_text())
    del card[key]
    path.write_text(json.dumps(card))
    assert any(key in text for text in failures(run, "smoothing"))


def test_a_torn_or_missing_log(run):
    log = run.certificates / "smoothing.tsv"
    content = log.read_bytes()
    log.write_bytes(content[:-3])
    assert any("last line of smoothing.tsv is broken" in text for text in failures(run, "smoothing"))
    assert log.read_bytes() == content[:-3]
    log.unlink()
    assert any("there is no log smoothing.tsv" in text for text in failures(run, "smoothing"))


def test_what_is_no_card(run, tmp_path):
    with pytest.raises(UserError, match="cannot read the card"):
        audit_card(tmp_path / "none.json")
    with pytest.raises(UserError, match=r"is not a card: it has no certifier, claim, radii, settings"):
        audit_card(run.result)
    with pytest.raises(UserError, match=r"has no certificates"):
        cards_of(tmp_path)


def test_equality_is_that_of_json():
    assert equal(1.0, 1)
    assert equal({"a": [1, None]}, {"a": (1, float("nan"))})
    assert equal({"a": [1.0]}, {"a": [1.0 + 1e-12]}, tolerance=1e-9)
    assert not equal({"a": [1, 2]}, {"a": [1]})
    assert not equal({"a": 1}, {"b": 1}, tolerance=1e-9)
    assert not equal(1, True)
    assert not equal("1", 1)
    assert not equal(1.0, 1.0 + 1e-12)
    assert equal(1.0, 1.0 + 1e-12, tolerance=1e-9)
    assert indices_sha256([3, 1]) == indices_sha256([1, 3])
