"""Certificates keep every bit through a log, and a log survives being cut anywhere."""

import gzip
import hashlib
import math
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from full_disk import FullDisk
from hypothesis import given, settings
from hypothesis import strategies as st

from certtrain.certificates import ABSTAIN, STATUSES, CertificateLog, Certificates, read_card, write_card
from certtrain.errors import DiskFull, UserError
from certtrain.system import files


def make(index, **columns):
    n = len(index)
    rng = np.random.default_rng(list(index))
    predict = rng.integers(-1, 3, n)
    label = rng.integers(0, 3, n)
    return Certificates(
        index=index,
        label=label,
        predict=predict,
        radius=np.where(predict == ABSTAIN, 0.0, rng.random(n)),
        correct=predict == label,
        seconds=rng.random(n),
        columns=columns,
    )


def same(a, b):
    assert list(a.columns) == list(b.columns)
    for (_, x), (_, y) in zip(a._all(), b._all()):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


FLOATS = st.floats(0, 1e300, allow_subnormal=True)
TEXT = st.text(st.characters(exclude_characters="\t\r\n", exclude_categories=("Cs", "Cc", "Zl", "Zp"))).map(
    lambda t: "x" + t
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(FLOATS, st.floats(), st.integers(-(2**60), 2**60), TEXT), min_size=1, max_size=12))
def test_every_bit_survives_the_log(tmp_path_factory, rows):
    radius, margin, count, text = zip(*rows)
    n = len(rows)
    written = Certificates(
        *([range(n)] * 3),
        radius=radius,
        correct=[True] * n,
        seconds=radius,
        columns={"margin": margin, "count_top": count, "status@2/255": text},
    )
    log = CertificateLog(tmp_path_factory.mktemp("log") / "crown.tsv")
    log.append(written)
    same(log.read(), written)


def test_the_first_six_columns_are_the_fields_own(tmp_path):
    row = Certificates([7], [3], [-1], [0.0], [False], [0.1 + 0.2], columns={"p_lower": [0.4], "status": ["abstained"]})
    CertificateLog(tmp_path / "a.tsv").append(row)
    assert (tmp_path / "a.tsv").read_text() == (
        "idx\tlabel\tpredict\tradius\tcorrect\ttime\tp_lower\tstatus\n"
        "7\t3\t-1\t0.0\t0\t0.30000000000000004\t0.4\tabstained\n"
    )


def test_cut_at_any_byte_the_log_reopens_and_goes_on(tmp_path):
    path = tmp_path / "a.tsv"
    parts = [make([2 * i, 2 * i + 1], note=["σ", f"n{i}"]) for i in range(3)]
    log = CertificateLog(path)
    for part in parts:
        log.append(part)
    whole, content = log.read(), path.read_bytes()
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        complete = max(0, content[:cut].count(b"\n") - 1)
        log = CertificateLog(path)
        assert log.done_indices() == list(range(complete))
        assert len(log.read()) == complete
        rest = whole.select(np.arange(complete, 6))
        if len(rest):
            log.append(rest)
        assert path.read_bytes() == content


WRITER = """
import sys, numpy as np
from certtrain.certificates import CertificateLog, Certificates
log = CertificateLog(sys.argv[1])
for i in range(100000):
    log.append(Certificates([i], [0], [0], [0.5], [True], [0.1], columns={"margin": [1 / (i + 1)]}))
    print(i, flush=True)
"""


def test_kill_9_loses_nothing_that_was_appended(tmp_path):
    path = tmp_path / "a.tsv"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    seen = [int(writer.stdout.readline()) for _ in range(20)]
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    done = CertificateLog(path).done_indices()
    assert done[: len(seen)] == seen
    assert done == list(range(len(done)))


def test_an_example_is_logged_once(tmp_path):
    log = CertificateLog(tmp_path / "a.tsv")
    log.append(make([1, 2]))
    for again in ([2, 3], [5, 5]):
        with pytest.raises(ValueError, match="twice"):
            log.append(make(again))
    assert log.done_indices() == [1, 2]
    assert CertificateLog(tmp_path / "a.tsv").done_indices() == [1, 2]


def test_a_text_column_may_appear_late_and_a_number_may_not(tmp_path):
    log = CertificateLog(tmp_path / "a.tsv")
    log.append(make([0], margin=[1.5]))
    log.append(make([1], margin=[2.5], reason=["crash"]))
    log.append(make([2], margin=[3.5]))
    found = CertificateLog(tmp_path / "a.tsv").read()
    assert found.columns["reason"].tolist() == ["", "crash", ""]
    assert found.columns["margin"].tolist() == [1.5, 2.5, 3.5]
    with pytest.raises(ValueError, match="margin"):
        log.append(make([3]))
    with pytest.raises(ValueError, match="p_lower"):
        log.append(make([3], margin=[0.5], p_lower=[0.5]))
    assert log.done_indices() == [0, 1, 2]


@pytest.mark.parametrize(
    "content",
    [
        "something else\n1\n",
        "idx\tlabel\tpredict\tradius\tcorrect\n",
        "idx\tlabel\tpredict\tradius\tcorrect\ttime\n1\t2\n",
        "idx\tlabel\tpredict\tradius\tcorrect\ttime\n1\t2\t2\tnan\t1\t0.1\n",
        "idx\tlabel\tpredict\tradius\tcorrect\ttime\n1\t2\t2\t-0.1\t1\t0.1\n",
        "idx\tlabel\tpredict\tradius\tcorrect\ttime\n1\t2\t2\t0.1\t17\t0.1\n",
        "idx\tlabel\tpredict\tradius\tcorrect\ttime\n1\t2\t3\t0.1\t1\t0.1\n",
        "idx\tlabel\tpredict\tradius\tcorrect\ttime\n1\t2\t2\t0.1\t1\t0.1\n1\t2\t2\t0.1\t1\t0.1\n",
        b"\xff\xfe\n",
    ],
)
def test_another_file_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "a.tsv"
    content = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(content + b"torn")
    with pytest.raises(UserError, match="not a certificate log"):
        CertificateLog(path)
    assert path.read_bytes() == content + b"torn"


def test_rows_that_contradict_themselves():
    good = {"index": [0], "label": [1], "predict": [1], "radius": [0.5], "correct": [True], "seconds": [0.0]}
    Certificates(**good)
    for bad in (
        {"radius": [math.nan]},
        {"radius": [math.inf]},
        {"radius": [-0.1]},
        {"predict": [2]},
        {"predict": [ABSTAIN], "correct": [False]},
        {"label": [1, 2]},
        {"columns": {"radius": [1]}},
        {"columns": {"margin": [1, 2]}},
        {"columns": {"note": ["a\tb"]}},
    ):
        with pytest.raises(ValueError, match=r"\w"):
            Certificates(**{**good, **bad})


@given(st.permutations(range(10)), st.integers(1, 9))
def test_concat_and_sorted(order, split):
    order = np.array(order)
    whole = make(order, margin=order / 7)
    parts = [whole.select(order >= 0).select(np.arange(split)), whole.select(np.arange(split, 10))]
    same(Certificates.concat(parts), whole)
    ascending = Certificates.concat(parts).sorted()
    assert ascending.index.tolist() == list(range(10))
    assert ascending.columns["margin"].tolist() == [i / 7 for i in range(10)]
    same(Certificates.concat([whole.select(whole.index < 0), whole]), whole)


def test_precedence_of_statuses():
    assert STATUSES == ("misclassified", "verified", "falsified", "unknown", "timeout", "invalid", "error")


def test_card(tmp_path):
    write_card(tmp_path / "a.json", {"sigma": 0.25, "radii": ["2/255"]})
    assert read_card(tmp_path / "a.json") == {"sigma": 0.25, "radii": ["2/255"]}
    (tmp_path / "b.json").write_text("{")
    (tmp_path / "c.json").write_text("[]")
    for name in ("b.json", "c.json", "missing.json"):
        with pytest.raises(UserError, match="cannot read the card"):
            read_card(tmp_path / name)


def test_a_log_that_is_only_read_stays_as_it_is(tmp_path):
    log = CertificateLog(tmp_path / "log.tsv")
    log.append(make([0, 1]))
    packed = tmp_path / "packed.tsv.gz"
    packed.write_bytes(gzip.compress(log.path.read_bytes()))
    assert log.sha256() == hashlib.sha256(log.path.read_bytes()).hexdigest() == CertificateLog(packed).sha256()
    assert not log.torn()
    with log.path.open("a") as file:
        file.write("7\t1")
    content = log.path.read_bytes()
    reader = CertificateLog(log.path, read_only=True)
    assert reader.torn()
    assert reader.read().index.tolist() == [0, 1]
    assert log.path.read_bytes() == content
    for only_read in (reader, CertificateLog(packed)):
        with pytest.raises(ValueError, match="can only be read"):
            only_read.append(make([5]))


def test_a_full_disk_leaves_the_rows_before(tmp_path, monkeypatch):
    log = CertificateLog(tmp_path / "log.tsv")
    log.append(make([0, 1]))
    before = log.path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(files, "put", FullDisk(files.put))
        for rows in (make([2, 3]), make([2, 3], reason=["x", "y"])):  # added, and rewritten with a column
            with pytest.raises(DiskFull, match=r"there is no room for .*log\.tsv"):
                log.append(rows)
            assert log.path.read_bytes() == before
            assert os.listdir(tmp_path) == ["log.tsv"]
    log.append(make([2, 3]))
    assert CertificateLog(log.path).done_indices() == [0, 1, 2, 3]


@pytest.mark.parametrize("content", ["no line at all", "idx label predict"])
def test_a_file_without_a_whole_line_is_no_log_and_stays(tmp_path, content):
    path = tmp_path / "notes.tsv"
    path.write_text(content)
    with pytest.raises(UserError, match="holds no whole line"):
        CertificateLog(path)
    assert path.read_text() == content
