"""What is wrong with a log of the field is found, and a sound one passes."""

import numpy as np
import pytest
from field_logs import simulate

from certtrain.audit.field import Stated, audit_field_log
from certtrain.audit.fieldlog import read_field_log


def audited(made, tmp_path, form="{:.3}", **stated):
    return audit_field_log(read_field_log(made.write(tmp_path / "log", form=form)), Stated(**stated))


def test_a_sound_log_passes(tmp_path):
    audit, examples = audited(simulate(rows=500), tmp_path, sigma=0.5, total=10_000)
    assert not audit.failed
    assert "`correct` is predict = label" in audit.of("same")
    assert "index spacing: 20, from 0 to 9980, 500 examples" in audit.of("same")
    assert len(examples) == 500


def test_known_answers(tmp_path):
    made = simulate(rows=500, seed=3)
    _, examples = audited(made, tmp_path, form="{!r}", sigma=0.5)
    right = np.array(made.correct, dtype=bool)
    assert examples.correct.tolist() == right.tolist()
    assert examples.acr == pytest.approx(float((made.radius * right).mean()), abs=1e-11)
    assert examples.abstained == int((made.predict == -1).sum())


def test_the_setting_is_named_and_the_rounding(tmp_path):
    audit, _ = audited(simulate(10_000, 0.001, 0.25, seed=1), tmp_path)
    assert any("sigma = 0.25 is a guess" in text for text in audit.of("warning"))
    assert any("fit n = 10,000, alpha = 0.001 one-sided (cap 0.7996)" in text for text in audit.of("same"))
    assert any("rounded up" in text for text in audit.of("warning"))
    exact, _ = audited(simulate(10_000, 0.001, 0.25, seed=1), tmp_path, form="{!r}")
    assert not any("rounded up" in text for text in exact.of("warning"))


def test_without_a_cap_sigma_is_asked_for(tmp_path):
    audit, _ = audited(simulate(rows=40, shape=(50, 30)), tmp_path)
    assert any("give --sigma" in text for text in audit.of("not checked"))
    assert not audit.failed


def test_stated_settings_are_checked(tmp_path):
    made = simulate(100_000, 0.001, 0.5, 500)
    right, _ = audited(made, tmp_path, sigma=0.5, n=100_000, alpha=0.001)
    assert any("every radius up to the cap is one of n = 100,000" in text for text in right.of("same"))
    small, _ = audited(made, tmp_path, sigma=0.5, n=10_000, alpha=0.001)
    assert any("radii above the cap 1.5993 of n = 10,000" in text for text in small.of("DIFFERENT"))
    other, _ = audited(made, tmp_path, sigma=0.5, n=100_000, alpha=0.05)
    assert any("radii are none of n = 100,000, alpha = 0.05" in text for text in other.of("DIFFERENT"))
    sides, _ = audited(made, tmp_path, sigma=0.5, n=100_000, alpha=0.002, two_sided=True)
    assert not sides.failed


def test_truncation_as_in_the_427_of_500_rows(tmp_path):
    made = simulate(rows=427, skip=100)
    hinted, _ = audited(made, tmp_path, sigma=0.5)
    assert any("truncated? the list ends at index 42600" in text for text in hinted.of("warning"))
    assert not hinted.failed
    known, _ = audited(made, tmp_path, sigma=0.5, total=50_000)
    [text] = known.of("DIFFERENT")
    assert text.startswith("truncated: the list ends at index 42600: at a spacing of 100, 50,000 would give 500 rows")
    beyond, _ = audited(made, tmp_path, sigma=0.5, total=10_000)
    assert "index 42600 in a split of 10,000 examples" in beyond.of("DIFFERENT")


def spoil_index(made):
    made.index[7] = made.index[6]


def spoil_counter(made):
    made.correct = np.cumsum(made.correct).tolist()


def spoil_flag(made):
    made.correct[5] = 1 - made.correct[5]


def spoil_value(made):
    made.correct[5] = 7


def spoil_nan(made):
    made.radius[3] = float("nan")


def spoil_negative(made):
    made.radius[3] = -0.2


def spoil_abstention(made):
    made.predict[3], made.radius[3], made.correct[3] = -1, 0.4, 0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_index, "1 indices stand there more than once: idx 120"),
        (spoil_counter, "`correct` is a cumulative counter"),
        (spoil_flag, "`correct` contradicts predict = label in 1 rows: idx 100"),
        (spoil_value, "`correct` is neither 0 nor 1 in 1 rows: idx 100"),
        (spoil_nan, "the radius is NaN or infinite in 1 rows: idx 60"),
        (spoil_negative, "the radius is negative in 1 rows: idx 60"),
        (spoil_abstention, "an abstention has a radius in 1 rows: idx 60"),
    ],
)
def test_contradictions_fail(tmp_path, spoil, message):
    made = simulate(rows=200)
    spoil(made)
    audit, examples = audited(made, tmp_path, sigma=0.5)
    assert audit.failed
    assert any(message in text for text in audit.of("DIFFERENT"))
    assert len(examples) == len(set(made.index.tolist()))
    if spoil in (spoil_nan, spoil_negative, spoil_abstention):
        assert examples.held[3] == -1


def test_unequal_spacing_and_a_late_start_are_said(tmp_path):
    made = simulate(rows=200)
    made.index[50:] += 7
    audit, _ = audited(made, tmp_path, sigma=0.5)
    assert any("unequal index spacing: mostly 20, another before idx 1007" in text for text in audit.of("warning"))
    late = simulate(rows=500, skip=1)
    late.index += 500
    audit, _ = audited(late, tmp_path, sigma=0.5)
    assert any("starts at index 500" in text for text in audit.of("warning"))
    late.index = late.index[::-1].copy()
    audit, _ = audited(late, tmp_path, sigma=0.5)
    assert "the indices do not ascend" in audit.of("warning")


@pytest.mark.parametrize(("column", "said"), [("stage", "drawn in stages"), ("status@0.1", "bounds have neither")])
def test_our_logs_without_a_card_are_on_no_ladder(tmp_path, column, said):
    path = simulate(rows=60).write(tmp_path / "log", further=[(column, ["1"] * 60)])
    audit, _ = audit_field_log(read_field_log(path), Stated(sigma=0.5))
    assert any(said in text for text in audit.of("not checked"))
    assert not any("fit" in text for text in audit.of("same"))
