"""Claims come from deterministic l-inf logs about the same weights and split, and are never stretched."""

import gzip
import json
from fractions import Fraction

import numpy as np
from claims import L2_BOUNDS, LINF

from certtrain.certificates import CertificateLog, Certificates
from certtrain.certificates.card_check import indices_sha256
from certtrain.export import read_claims


def write(folder, name, statuses, **card):
    """A log of one example, index 7, with a status per radius."""
    columns = {"decided_by": np.array(["crown"], dtype=object)}
    columns |= {f"status@{radius}": np.array([status], dtype=object) for radius, status in statuses.items()}
    row = Certificates([7], [1], [1], [0.0], [True], [0.1], columns=columns)
    CertificateLog(folder / f"{name}.tsv").append(row)
    about = {"checkpoint_sha256": "a", "dataset": "d", "split": "test", "claim": LINF.to_dict(), "n": 1}
    about |= {"indices_sha256": indices_sha256([7]), "log_sha256": CertificateLog(folder / f"{name}.tsv").sha256()}
    (folder / f"{name}.json").write_text(json.dumps(about | card))


def claims(folder, index=7, radius="0.1"):
    found = read_claims(folder, checkpoint_sha256="a", dataset="d", split="test")
    return [(c["log"], c["status"], c["proved_at"]) for c in found.at(index, Fraction(radius))]


def test_the_status_at_the_radius_or_a_proof_at_a_larger_one(tmp_path):
    write(tmp_path, "log", {"0.1": "unknown", "0.2": "verified", "0.3": "falsified"})
    assert claims(tmp_path) == [("log", "unknown", "0.1")]
    assert claims(tmp_path, radius="0.15") == [("log", "verified", "0.2")]
    assert claims(tmp_path, radius="1/3") == []
    write(tmp_path, "other", {"0.3": "falsified"})
    assert claims(tmp_path, radius="0.25") == []  # what falls at 0.3 may stand at 0.25
    assert claims(tmp_path, index=8) == []


def test_logs_about_something_else_claim_nothing(tmp_path):
    for key, value in {"checkpoint_sha256": "b", "dataset": "e", "split": "val", "claim": L2_BOUNDS.to_dict()}.items():
        write(tmp_path, key, {"0.1": "verified"}, **{key: value})
    assert claims(tmp_path) == []
    (tmp_path / "bare.tsv").write_text("anything")  # without a card
    assert claims(tmp_path) == []


def test_logs_that_prove_nothing_claim_nothing(tmp_path):
    write(tmp_path, "fallen", {"0.1": "verified"}, falsification={"failed": True})
    write(tmp_path, "float32", {"0.1": "verified"}, settings={"precision": "float32"})
    assert claims(tmp_path) == []
    write(tmp_path, "stands", {"0.1": "verified"}, falsification={"failed": False}, settings={"precision": "float64"})
    assert claims(tmp_path) == [("stands", "verified", "0.1")]


def test_logs_about_other_inputs_claim_nothing(tmp_path):
    write(tmp_path, "log", {"0.1": "verified"}, inputs_sha256="ours", status="complete")
    write(tmp_path, "part", {"0.1": "unknown"}, status="running")  # of a part nobody knows the hash
    about = {"checkpoint_sha256": "a", "dataset": "d", "split": "test"}
    seen = []
    for sha, names in {"ours": ["log", "part"], "others": ["part"]}.items():
        found = read_claims(tmp_path, **about, hash_of=lambda rows, sha=sha: seen.append(rows.tolist()) or sha)
        assert [claim["log"] for claim in found.at(7, Fraction("0.1"))] == names
    assert seen == [[7], [7]]


def test_packed_logs_are_read(tmp_path):
    write(tmp_path, "log", {"0.1": "verified"})
    packed = gzip.compress((tmp_path / "log.tsv").read_bytes())
    (tmp_path / "log.tsv").unlink()
    (tmp_path / "log.tsv.gz").write_bytes(packed)
    assert claims(tmp_path) == [("log", "verified", "0.1")]
