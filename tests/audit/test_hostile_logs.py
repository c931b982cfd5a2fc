"""Whatever a file holds, reading and auditing it as a log ends in findings or in one message, never in a traceback."""

import contextlib
import gzip

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from printing import printed

from certtrain.audit.field import Stated, audit_field_log
from certtrain.audit.fieldlog import is_ours, read_field_log
from certtrain.errors import UserError
from certtrain.reporting.curve_tables import curve_table
from certtrain.reporting.curves import sensible_radii

HEADER = "idx\tlabel\tpredict\tradius\tcorrect\ttime"
quiet = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
WORDS = "0 1 -1 0.5 1.91 1.25e1 5000 5000.25 1e18 -1e18 1e300 1e-320 inf nan -0.0 1_0 True False 0x10 ½ ٣ --1 1e"
LONG = ["9223372036854775807", "9223372036854775808", "9007199254740993", "9" * 400, "9" * 5000]
LONG += ["", " ", "1 day, 9:00:00", f"{'9' * 5000}:00:00", f"{'9' * 400}:00:00", "\x00"]
numbers = st.sampled_from([*WORDS.split(), *LONG])
cells = numbers | st.integers(-5, 40).map(str) | st.floats(0, 4).map(repr) | st.text(max_size=4)
good = st.tuples(
    st.integers(0, 60), st.integers(0, 9), st.integers(-1, 9), st.floats(0, 6000), st.integers(0, 1), st.just("0:00:01")
)
rows = st.lists(good.map(lambda row: "\t".join(map(str, row))) | st.lists(cells, min_size=4, max_size=7).map("\t".join))
asked = st.builds(
    Stated,
    sigma=st.sampled_from([None, 0.25, 0.5, 1e-9, 1e9]),
    n=st.sampled_from([None, 1, 100, 100_000]),
    alpha=st.sampled_from([None, 0.001, 0.5]),
    two_sided=st.booleans(),
    total=st.sampled_from([None, 1, 10_000]),
)


def audit(path, stated) -> None:
    is_ours(path)
    log = read_field_log(path)
    found, examples = audit_field_log(log, stated)
    assert found.findings
    assert 0 <= examples.acr < float("inf")
    printed(curve_table(examples, sensible_radii(float(examples.held.max())), selective=True))


@quiet
@example([f"{'9' * 20}\t1\t1\t0.3\t1\t0", "0\t1\t1\t0.3\t1\t0"], HEADER, "\n", Stated())
@example(["0\t1\t1\t5000\t1\t0"], HEADER, "\n", Stated(sigma=0.5))
@example(["0\t1\t1\t0.5\t9e99\t0", "0\t1\t1\t0.3\t1\t0"], HEADER, "\n", Stated())
@given(
    rows, st.sampled_from([HEADER, HEADER[:-5], HEADER + "\tradius", "idx\tlabel"]), st.sampled_from(["\n", ""]), asked
)
def test_rows_of_any_cells(tmp_path, body, header, end, stated):
    path = tmp_path / "log"
    path.write_text("\n".join([header, *body]) + end, encoding="utf-8", errors="replace", newline="")
    with contextlib.suppress(UserError):
        audit(path, stated)


@quiet
@given(st.binary(max_size=200), st.sampled_from(["log.tsv", "log.tsv.gz"]), st.booleans())
def test_any_bytes(tmp_path, content, name, packed):
    (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(UserError):
        audit(tmp_path / name, Stated())


@pytest.mark.parametrize("text", ["9007199254740993", "9007199254740993.0", "-7", "7e2"])
def test_whole_numbers_are_read_in_full(tmp_path, text):
    path = tmp_path / "log"
    path.write_text(f"{HEADER}\n{text}\t1\t1\t0.3\t1\t0\n")
    assert read_field_log(path).index.tolist() == [int(text) if text.lstrip("-").isdigit() else int(float(text))]


@pytest.mark.parametrize("largest", [5e-7, 0.0049, 0.3, 0.9999, 1.0, 3.2, 9.99, 4999.9, 5000.0, 7e8, 1e300])
def test_radii_of_a_table_are_few_round_and_reach_the_largest(largest):
    radii = sensible_radii(largest)
    assert 4 <= len(radii) <= 11
    assert radii[0] == 0
    assert radii[-2] <= largest < radii[-1]


def test_the_acr_of_radii_in_pixels_does_not_overflow(tmp_path):
    path = tmp_path / "log"
    path.write_text(HEADER + "\n" + "".join(f"{i}\t1\t1\t{6e6}\t1\t0\n" for i in range(10)))
    assert audit_field_log(read_field_log(path), Stated())[1].acr == 6e6
