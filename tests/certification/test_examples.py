"""Certifying a list of examples: row by row, continued where it was left, refused under other settings."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from timeless import untimed
from torch import nn

from certtrain.bounds import NativeEngine
from certtrain.certificates import CertificateLog
from certtrain.certification.examples import Examples, accelerator, certify_examples, choose_indices
from certtrain.certifiers import BoundCertifier, SmoothingCertifier
from certtrain.errors import UserError

CPU = torch.device("cpu")


class OtherEngine(NativeEngine):
    """The same bounds under another name."""

    name = "other"


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def examples(n: int = 30, step: int = 1) -> Examples:
    x = torch.rand(n, 4, generator=torch.Generator().manual_seed(0))
    return Examples(x, network()(x).argmax(1), torch.arange(0, n, step), "test", "made")


def bounds(radii=("0.01", "0.05")) -> BoundCertifier:
    return BoundCertifier(["ibp"], radii, NativeEngine, attack_steps=3)


def smoothing(n=200) -> SmoothingCertifier:
    return SmoothingCertifier(0.25, ["0.1"], n0=20, n=n, seed=1)


def run(certifier, log: Path, chosen=None, sha="a" * 64, **options):
    chosen = chosen or examples()
    return certify_examples(
        network(), certifier, chosen, log, {"checkpoint_sha256": sha}, batch_size=7, device=CPU, **options
    )


@pytest.mark.parametrize(
    ("count", "number", "expected"), [(4, 0, "cuda"), (4, 3, "cuda:3"), (4, 5, "cuda:1"), (1, 2, "cuda"), (0, 1, "cpu")]
)
def test_each_process_gets_an_accelerator_of_its_own(monkeypatch, count, number, expected):
    chosen = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)
    monkeypatch.setattr(torch.accelerator, "set_device_index", chosen.append)
    device = accelerator("auto", number)
    assert str(device) == expected
    assert chosen == ([] if device.index is None else [device.index])
    assert str(accelerator("cpu", number)) == "cpu"


@pytest.mark.parametrize("make", [bounds, smoothing])
def test_a_stopped_run_continues_to_the_same_log(make, tmp_path):
    whole, _ = run(make(), tmp_path / "whole.tsv")
    calls = 0

    def stop():
        nonlocal calls
        calls += 1
        if calls == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run(make(), tmp_path / "part.tsv", stop=stop)
    assert len(CertificateLog(tmp_path / "part.tsv").done_indices()) == 14
    assert json.loads((tmp_path / "part.json").read_text())["status"] == "running"
    with (tmp_path / "part.tsv").open("a") as file:
        file.write("14\t1\t")  # what a kill -9 leaves of a row
    seen = []
    rest, certificates = run(make(), tmp_path / "part.tsv", progress=lambda done, new: seen.append(done))
    assert seen == [14, 21, 28, 30]
    assert untimed(rest) == untimed(whole)
    one, two = CertificateLog(tmp_path / "whole.tsv").read(), CertificateLog(tmp_path / "part.tsv").read()
    assert np.array_equal(one.index, two.index)
    assert np.array_equal(one.radius, two.radius)
    assert len(certificates) == 30
    card = json.loads((tmp_path / "part.json").read_text())
    assert card["status"] == "complete"
    assert card["summary"]["n"] == 30
    assert card["log_sha256"] == CertificateLog(tmp_path / "part.tsv").sha256()


def test_a_complete_log_is_not_computed_again(tmp_path):
    first, _ = run(bounds(), tmp_path / "a.tsv")
    text = (tmp_path / "a.tsv").read_text()

    class Never(BoundCertifier):
        def certify(self, network, batch):
            raise AssertionError("computed again")

    again, _ = run(Never(["ibp"], ["0.01", "0.05"], NativeEngine, attack_steps=3), tmp_path / "a.tsv")
    assert again["certified"] == first["certified"]
    assert (tmp_path / "a.tsv").read_text() == text


@pytest.mark.parametrize(
    "other",
    [
        lambda log: run(bounds(radii=("0.02",)), log),
        lambda log: run(BoundCertifier(["crown"], ["0.01", "0.05"], NativeEngine, attack_steps=3), log),
        lambda log: run(bounds(), log, sha="b" * 64),
        lambda log: run(BoundCertifier(["ibp"], ["0.01", "0.05"], OtherEngine, attack_steps=3), log),
        lambda log: run(bounds(), log, chosen=examples(step=2)),
    ],
)
def test_other_settings_weights_or_examples_under_the_same_name_are_refused(other, tmp_path):
    run(bounds(), tmp_path / "a.tsv")
    before = (tmp_path / "a.tsv").read_bytes(), (tmp_path / "a.json").read_bytes()
    with pytest.raises(UserError, match="other settings"):
        other(tmp_path / "a.tsv")
    assert ((tmp_path / "a.tsv").read_bytes(), (tmp_path / "a.json").read_bytes()) == before


def test_other_inputs_at_the_same_positions_are_refused(tmp_path):
    """A data set of the same name, size and labels with one pixel changed: no row is added, none is attacked."""
    log, ours = tmp_path / "a.tsv", examples()
    run(bounds(), log)
    card = json.loads((tmp_path / "a.json").read_text())
    assert card["inputs_sha256"] == ours.inputs_sha256 == examples().inputs_sha256
    before = log.read_bytes(), (tmp_path / "a.json").read_bytes()
    x = ours.x.clone()
    x[29, 3] += 1e-7
    assert (x[29, 3] != ours.x[29, 3]).all()
    with pytest.raises(UserError, match="is about other inputs or classes than made test holds now") as caught:
        run(bounds(), log, chosen=Examples(x, ours.y, ours.indices, "test", "made"))
    assert "data_dir=" in caught.value.fix
    assert (log.read_bytes(), (tmp_path / "a.json").read_bytes()) == before
    part = examples(step=2)
    run(bounds(), tmp_path / "b.tsv", chosen=part)  # positions that leave the changed one out
    run(bounds(), tmp_path / "b.tsv", chosen=Examples(x, ours.y, part.indices, "test", "made"))


def test_a_card_without_a_hash_of_its_inputs_is_not_added_to(tmp_path):
    """Nobody knows what its rows are about."""
    log, path = tmp_path / "a.tsv", tmp_path / "a.json"
    run(bounds(), log)
    card = json.loads(path.read_text())
    del card["inputs_sha256"]
    path.write_text(json.dumps(card))
    with pytest.raises(UserError, match="inputs_sha256: None"):
        run(bounds(), log)


def test_a_complete_log_that_was_changed_is_refused(tmp_path):
    log = tmp_path / "log.tsv"
    run(bounds(), log)
    card, rows = log.with_suffix(".json").read_text(), log.read_text()
    log.write_text(rows.replace("unknown", "verified").replace("falsified", "verified"))
    with pytest.raises(UserError, match="was changed since it was complete"):
        run(bounds(), log)
    assert log.with_suffix(".json").read_text() == card
    log.write_text(rows[: rows[:-1].rfind("\n") + 5])  # what is lost is computed again
    run(bounds(), log)
    assert len(CertificateLog(log).read()) == 30


def test_other_data_under_the_same_name_is_refused(tmp_path):
    run(bounds(), tmp_path / "log.tsv")
    whole = examples()
    changed = Examples(whole.x, (whole.y + 1) % 3, whole.indices, whole.split, whole.dataset)
    with pytest.raises(UserError, match="other inputs or classes than made test holds now"):
        run(bounds(), tmp_path / "log.tsv", chosen=changed)
    card = json.loads((tmp_path / "log.json").read_text())
    card["inputs_sha256"] = changed.inputs_sha256  # of what the rows are not about
    (tmp_path / "log.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match="has other labels than made test now, such as those of the examples 0, 1, 2"):
        run(bounds(), tmp_path / "log.tsv", changed)


def test_the_pgd_bound_is_above_what_is_certified_and_counts_everything_not_beaten(tmp_path):
    entry, certificates = run(bounds(radii=("0.01", "0.1", "0.5")), tmp_path / "a.tsv")
    for radius, share in entry["pgd"].items():
        status = certificates.columns[f"status@{radius}"]
        assert share == np.mean([s in ("verified", "unknown", "invalid", "error") for s in status])
        assert entry["certified"][radius] <= share <= entry["clean"]
    assert "pgd" not in run(smoothing(), tmp_path / "b.tsv")[0]
    unattacked = BoundCertifier(["ibp"], ["0.01", "0.1", "0.5"], NativeEngine, attack_steps=0)
    assert "pgd" not in run(unattacked, tmp_path / "c.tsv")[0]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("all", list(range(45))),
        ("first_3", [0, 1, 2]),
        ("every_20th", [0, 20, 40]),
        ("every_2nd", list(range(0, 45, 2))),
    ],
)
def test_index_rules(rule, expected):
    assert choose_indices(rule, 45).tolist() == expected


def test_index_files(tmp_path):
    (tmp_path / "list").write_bytes(b"7\r\n03\n")
    (tmp_path / "bom").write_bytes(b"\xef\xbb\xbf7\n3")
    for name in ("list", "bom"):
        assert choose_indices(str(tmp_path / name), 10).tolist() == [3, 7]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"10\n", "names 10, outside 0..9"),
        (b"-1\n", "names -1, outside 0..9"),
        (b"3\n" + b"9" * 5000, "outside 0..9"),
        (b"one\n", "'one', which is no position"),
        (b"1_0\n", "'1_0', which is no position"),
        ("\u0663\n".encode(), "which is no position"),
        (b"\xff\xfe7\x00\n", "cannot be read as text"),
        (b"", "names no position"),
        (b"\xef\xbb\xbf \n", "names no position"),
        (b"7\n3\n3\n7\n5\n", "names 2 position(s) more than once, such as 3, 7"),
    ],
)
def test_index_files_that_name_no_list_of_examples(tmp_path, content, message):
    (tmp_path / "list").write_bytes(content)
    with pytest.raises(UserError, match=re.escape(message)):
        choose_indices(str(tmp_path / "list"), 10)


@pytest.mark.parametrize(
    "rule", ["first_50", "first_0", "every_0th", "some", "first_x", "", "first_\u00b2", "every_th"]
)
def test_rules_that_are_none_are_refused(rule):
    with pytest.raises(UserError):
        choose_indices(rule, 10)
