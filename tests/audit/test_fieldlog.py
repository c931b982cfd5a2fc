"""Every dialect of the field's logs is read; what is none is refused with one message."""

import gzip
import re

import numpy as np
import pytest
from field_logs import HEADER, simulate

from certtrain.audit.fieldlog import is_ours, parse_seconds, read_field_log
from certtrain.errors import UserError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("15.4", 15.4),
        ("0:00:13.736080", 13.73608),
        ("0:00:13", 13.0),
        ("12:34:56", 45296.0),
        ("1 day, 2:00:03.5", 93603.5),
        ("2 days, 0:00:00", 172800.0),
        (" 0:01:00 ", 60.0),
    ],
)
def test_times(text, seconds):
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "1:2:3", "0:00"])
def test_what_is_no_time(text):
    assert np.isnan(parse_seconds(text))


def test_plain(tmp_path):
    made = simulate(rows=40)
    log = read_field_log(made.write(tmp_path / "sigma_0.50"))
    assert log.index.tolist() == made.index.tolist()
    assert log.predict.tolist() == made.predict.tolist()
    assert log.correct.tolist() == made.correct
    assert log.radius == pytest.approx(made.radius, abs=0.005)
    assert log.seconds[3] == pytest.approx(16.000003)
    assert log.notes == ()


def test_dialects(tmp_path):
    made = simulate(rows=30)
    whole = read_field_log(made.write(tmp_path / "plain"))
    made.correct = [bool(value) for value in made.correct]
    made.time = [15.4] * 30
    further = [("correct_num", range(30)), ("unperturbed predict", made.label), ("prob_lb", [0.99] * 30)]
    log = read_field_log(made.write(tmp_path / "spaces", glue=" \t ", further=further))
    assert log.correct.tolist() == whole.correct.tolist()
    assert log.seconds.tolist() == [15.4] * 30
    assert list(log.columns) == ["correct_num", "unperturbed predict", "prob_lb"]
    packed = tmp_path / "log.tsv.gz"
    packed.write_bytes(gzip.compress((tmp_path / "plain").read_bytes().replace(b"\n", b"\r\n")))
    assert read_field_log(packed).radius.tolist() == whole.radius.tolist()
    text = (tmp_path / "plain").read_text().replace("\ttime", "\ttime_forward")
    (tmp_path / "other").write_text(text)
    assert read_field_log(tmp_path / "other").notes == ("there is no column `time`",)


def test_a_broken_last_line_is_left_out_and_said(tmp_path):
    path = simulate(rows=30).write(tmp_path / "log")
    whole = path.read_text()
    for cut in (8, 14, 20):
        path.write_text(whole[:-cut])
        log = read_field_log(path)
        if len(log) == 29:
            assert "the last line is broken" in log.notes[0]
            assert "29 whole rows" in log.notes[0]
        else:  # only the time lost digits, and its row says all that counts
            assert log.notes == () or "times" in log.notes[0]
    path.write_text(whole + "600\t3\t")
    assert read_field_log(path).notes == (
        "the last line is broken (3 columns, the header 6) and left out: 30 whole rows",
    )


def test_a_last_cell_that_counts_needs_its_line_end(tmp_path):
    path = simulate(rows=20).write(tmp_path / "log")
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    path.write_text("\n".join("\t".join([*cells[:3], cells[4], cells[3]]) for cells in lines))
    assert "no line end" in read_field_log(path).notes[0]


def test_joined_logs_are_noticed(tmp_path):
    path = simulate(rows=20).write(tmp_path / "log")
    path.write_text(path.read_text() * 2)
    assert read_field_log(path).notes == ("line 22 repeats the header: two logs joined?",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file"),
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"\t".join(name.encode() for name in HEADER) + b"\n", "holds no row"),
        (b"accuracy: 3\nloss: 5\n", "not a certificate log: its first line names no column idx, label"),
        (b"\xff\xfe\x00", "not a certificate log: it is not text"),
        (b"idx\tlabel\tpredict\tradius\tcorrect\tidx\n", "names a column twice"),
        (b"idx\tlabel\tpredict\tradius\tcorrect\n0\t1\t1\n1\t1\t1\t0.2\t1\n", "line 2 has 3 columns, the header 5"),
        (b"idx\tlabel\tpredict\tradius\tcorrect\n0\tx\t1\t.1\t1\n1\t1\t1\t0.2\t1\n", "line 2 has label 'x', no whole"),
        (
            b"idx\tlabel\tpredict\tradius\tcorrect\n0\t1\t1\tbig\t1\n1\t1\t1\t0.2\t1\n",
            "line 2 has radius 'big', no",
        ),
        (b"idx\tlabel\tpredict\tradius\tcorrect\n0\t1\t1\t1\tyes\n1\t1\t1\t0.2\t1\n", "line 2 has correct 'yes', no"),
    ],
)
def test_what_is_no_log(tmp_path, content, message):
    path = tmp_path / "log"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=re.compile("log|file|empty|row")) as caught:
        read_field_log(path)
    assert message in str(caught.value)


def test_a_folder_is_no_log(tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        read_field_log(tmp_path)


def test_ours(tmp_path):
    path = simulate(rows=5).write(tmp_path / "a")
    assert not is_ours(path)
    assert is_ours(simulate(rows=5).write(tmp_path / "b", further=[("count_top", range(5))]))
    assert is_ours(simulate(rows=5).write(tmp_path / "c", further=[("status@0.1", ["verified"] * 5)]))
