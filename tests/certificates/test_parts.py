"""Shares without padding or overlap, and parts that become one log whatever happens on the way."""

import json
import random

import numpy as np
import pytest
import torch
from timeless import rows, untimed
from torch import nn

from certtrain.bounds import NativeEngine
from certtrain.certificates import CertificateLog, write_card
from certtrain.certificates.parts import Place, Share, cut, done_anywhere, part_log, part_logs
from certtrain.certification.examples import Examples, certify_examples, certify_share
from certtrain.certifiers import AnytimeCertifier, BoundCertifier, SmoothingCertifier
from certtrain.errors import UserError

CPU = torch.device("cpu")
OPTIONS = {"batch_size": 7, "device": CPU}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def examples(n: int = 40) -> Examples:
    x = torch.rand(n, 4, generator=torch.Generator().manual_seed(0))
    y = network()(x).argmax(1)
    y[::9] = (y[::9] + 1) % 3  # some are misclassified
    return Examples(x, y, torch.arange(0, n), "test", "made")


def bounds() -> BoundCertifier:
    return BoundCertifier(["ibp", "crown"], ["0.01", "0.05", "0.2"], NativeEngine, attack_steps=3)


def smoothing(seed: int = 1) -> SmoothingCertifier:
    return SmoothingCertifier(0.25, ["0.1"], n0=20, n=200, seed=seed)


def anytime() -> AnytimeCertifier:
    return AnytimeCertifier(0.25, ["0.1", "0.2"], n0=20, n=2000)


def card(sha: str = "a" * 64) -> dict:
    return {"checkpoint_sha256": sha, "device": "cpu"}


def whole(make, log):
    return certify_examples(network(), make(), examples(), log, card(), **OPTIONS)


def share(make, log, place, sha="a" * 64, **options):
    certify_share(network(), make(), examples(), log, card(sha), place, **OPTIONS, **options)


def places(count: int, shards: int = 1) -> list[Place]:
    pairs = [(s, p) for s in range(1, shards + 1) for p in range(1, count + 1)]
    return [Place(Share(s, shards), Share(p, count)) for s, p in pairs]


def assert_same_rows(found: list[list[str]], expected: list[list[str]]) -> None:
    """Equal texts but for the last digits of margins: how libraries add up depends on where a matrix lies in memory."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        for a, b in zip(one, other, strict=True):
            assert a == b or float(a) == pytest.approx(float(b), rel=1e-12)


class Stop:
    """Raises at the call number `at`, as a signal does between two batches."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise InterruptedError


@pytest.mark.parametrize("seed", range(20))
def test_shares_hold_each_example_once_and_none_twice(seed):
    draw = random.Random(seed)
    indices = sorted(draw.sample(range(500), draw.randint(1, 200)))
    logged = set(draw.sample(indices, draw.randint(0, len(indices))))
    size, shards, processes = draw.randint(1, 40), draw.randint(1, 5), draw.randint(1, 5)
    dealt = [place.blocks(indices, size, logged) for place in places(processes, shards)]
    flat = [index for blocks in dealt for block in blocks for index in block]
    assert len(flat) == len(set(flat))
    assert set(indices) - logged <= set(flat) <= set(indices)
    for machine in range(shards):
        lengths = [len(blocks) for blocks in dealt[machine * processes : (machine + 1) * processes]]
        assert max(lengths) - min(lengths) <= 1
    assert [block for block in cut(indices, size) if not set(block) <= logged] == sorted(b for d in dealt for b in d)


@pytest.mark.parametrize("make", [bounds, smoothing, anytime])
@pytest.mark.parametrize(("shards", "count"), [(1, 2), (1, 3), (2, 1), (3, 2)])
def test_the_log_is_that_of_one_process_but_for_the_times(make, shards, count, tmp_path):
    entry, _ = whole(make, tmp_path / "one.tsv")
    log = tmp_path / "many.tsv"
    for place in reversed(places(count, shards)):
        share(make, log, place)
    assert not log.exists()
    assert done_anywhere(log) == set(range(40))
    merged, certificates = whole(make, log)
    assert_same_rows(rows(log), rows(tmp_path / "one.tsv"))
    assert untimed(merged) == untimed(entry)
    assert merged["seconds"] == certificates.seconds.sum()
    assert not (tmp_path / "parts").exists()
    found = json.loads((tmp_path / "many.json").read_text())
    assert found["status"] == "complete"
    assert sum(part["rows"] for part in found["parts"]) == 40
    assert {part["part"] for part in found["parts"]} <= {place.label for place in places(count, shards)}
    before = log.read_bytes(), (tmp_path / "many.json").read_bytes()
    whole(make, log)
    assert (log.read_bytes(), (tmp_path / "many.json").read_bytes()) == before


@pytest.mark.parametrize("seed", range(8))
def test_killed_at_any_moment_and_continued_by_another_number_of_processes(seed, tmp_path):
    draw = random.Random(seed)
    whole(bounds, tmp_path / "one.tsv")
    log = tmp_path / "many.tsv"
    for count in (3, 2, 4):
        for place in places(count):
            try:
                share(bounds, log, place, stop=Stop(draw.randint(0, 1)))
            except InterruptedError:
                part = part_log(log, place.label)
                if part.exists() and draw.random() < 0.5:
                    part.write_bytes(part.read_bytes()[: -draw.randint(1, 30)])  # what a kill -9 leaves of a row
        if draw.random() < 0.7:  # the next command collects, then is stopped as well
            with pytest.raises(InterruptedError):
                certify_examples(network(), bounds(), examples(), log, card(), **OPTIONS, stop=Stop(0))
            assert part_logs(log) == []
    certified = done_anywhere(log)
    assert certified
    seen = []
    certify_examples(
        network(), bounds(), examples(), log, card(), **OPTIONS, progress=lambda d, new: seen.append((d, new))
    )
    assert seen[0][0] == len(certified)  # nothing that was done is done again
    kept, one = CertificateLog(log).read().sorted(), CertificateLog(tmp_path / "one.tsv").read()
    for name in ("index", "label", "predict", "radius", "correct"):
        assert np.array_equal(getattr(kept, name), getattr(one, name))
    assert kept.columns["status@0.05"].tolist() == one.columns["status@0.05"].tolist()


def test_a_kill_between_collecting_and_deleting_counts_no_row_twice(tmp_path, monkeypatch):
    log = tmp_path / "many.tsv"
    for place in places(2):
        share(smoothing, log, place)
    with monkeypatch.context() as patch:
        patch.setattr("certtrain.certification.examples.remove_parts", lambda path: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            whole(smoothing, log)
    assert len(part_logs(log)) == 2
    kept = log.read_bytes()
    whole(smoothing, log)
    assert log.read_bytes() == kept
    assert part_logs(log) == []
    assert sum(part["rows"] for part in json.loads((tmp_path / "many.json").read_text())["parts"]) == 40


def test_parts_about_other_weights_or_settings_are_never_collected(tmp_path):
    log = tmp_path / "many.tsv"
    share(smoothing, log, places(2)[0], sha="b" * 64)
    with pytest.raises(UserError, match=r"part-1.tsv was made with other settings.*checkpoint_sha256"):
        whole(smoothing, log)
    assert not log.exists()
    with pytest.raises(UserError, match=r"part-1.tsv was made with other settings.*settings.seed"):
        share(lambda: smoothing(seed=2), log, places(2)[0], sha="b" * 64)
    write_card(log.with_suffix(".json"), {"checkpoint_sha256": "c" * 64})
    with pytest.raises(UserError, match=r"many.tsv was made with other settings"):
        share(smoothing, log, places(2)[1], sha="b" * 64)


def test_logs_whose_names_begin_alike_keep_their_own_parts(tmp_path):
    share(smoothing, tmp_path / "crown.tsv", places(2)[0])
    share(smoothing, tmp_path / "crown.part-1.tsv", places(2)[1])
    share(smoothing, tmp_path / "crown_2.tsv", places(2, 2)[3])
    assert [path.name for path in part_logs(tmp_path / "crown.tsv")] == ["crown.part-1.tsv"]
    assert [path.name for path in part_logs(tmp_path / "crown.part-1.tsv")] == ["crown.part-1.part-2.tsv"]
    assert [path.name for path in part_logs(tmp_path / "crown_2.tsv")] == ["crown_2.part-2-of-2-2.tsv"]


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "1/2/3", "-1/2", ""])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(UserError, match=r"is no share"):
        Share.parse(text)


def test_a_share_outside_its_number_is_a_programming_error():
    with pytest.raises(ValueError, match="there is no share 3 of 2"):
        Share(3, 2)
    assert str(Share.parse("2/4")) == "2/4"
