"""The table of a study fits 100 columns and names its metric; its front keeps floors and stands beside the test."""

from dataclasses import replace

from printing import printed as shown

from certtrain.reporting import studies
from certtrain.sweeps.metric import CLEAN, Metric
from certtrain.sweeps.study import Row

CERTIFIED = Metric("val/certified@2_255", "l-inf")
KEYS = ["method.kappa.start", "method.kappa.end", "method.beta.end", "schedule.warmup", "schedule.ramp"]
KEYS += ["train_eps", "optimizer.lr", "method.l1"]


def row(number: int, *values: float, state: str = "complete", message: str | None = None) -> Row:
    return Row(number, state, values, dict.fromkeys(KEYS, f"{0.00001234 * (number + 1):.4g}"), message)


def test_the_best_first_and_the_rest_counted():
    rows = [row(i, i / 40) for i in range(30)]
    rows += [
        row(30, state="pruned"),
        row(31, state="failed", message="NaN since step 3\nmore"),
        row(32, state="running"),
    ]
    text = shown(studies.study_table(rows, [CERTIFIED], 200))
    assert "30 trials, best first by the validation metric val/certified@2_255 (n = 200)" in text
    assert text.index("72.50") < text.index("70.00")
    assert "besides: 1 pruned, 1 failed, 1 running" in text
    assert "failed: trial 31  (NaN since step 3)" in text


def test_a_front_shows_only_its_points():
    rows = [row(0, 0.9, 0.1), row(1, 0.5, 0.5), row(2, 0.4, 0.4)]
    text = shown(studies.study_table(rows, [Metric(CLEAN), CERTIFIED], 20))
    assert "Pareto front: 2 of 3 trials" in text
    assert "90.00" in text
    assert "40.00" not in text


def test_a_trial_that_is_no_better_than_a_guess_is_marked_and_comes_last():
    rows = [replace(row(0, 0.9), guessing="it answers class 3 for every example"), row(1, 0.2), row(2, 0.3)]
    text = shown(studies.study_table(rows, [CERTIFIED], 200))
    assert text.index("30.00") < text.index("20.00") < text.index("90.00") < text.index("! no better than a guess")
    assert "0 ! " in text
    assert sorted(rows, key=lambda found: found.order)[0].number == 2


def test_a_guess_is_on_no_front_unless_all_guess():
    rows = [replace(row(0, 0.1, 0.9), guessing="x"), row(1, 0.5, 0.5), row(2, 0.9, 0.1), row(3, 0.4, 0.4)]
    assert studies.front_of(rows) == [2, 1]
    assert studies.front_of(rows[:1]) == [0]


def test_a_trial_that_misses_a_floor_is_on_no_front_and_not_chosen():
    low, best = replace(row(0, 0.95, 0.9), shortfalls=(0.02, -0.1)), replace(row(1, 0.5, 0.5), shortfalls=(-0.1, 0.0))
    assert studies.front_of([low, best]) == [1]
    assert studies.front_of([low]) == [0]
    assert min((low, best), key=lambda found: found.order) is best
    assert "1 of them miss a floor" in shown(studies.study_table([low, best], [Metric(CLEAN), CERTIFIED], 20))


def test_the_front_on_test_stands_beside_validation():
    tested = [
        studies.CertifiedTrial(7, (0.9, 0.5), (0.88, 0.47), "CROWN", 360),
        studies.CertifiedTrial(3, (0.8, 0.6), (0.8, 0.59), "IBP", 360),
    ]
    text = shown(studies.tested_table(tested, [Metric(CLEAN), CERTIFIED]))
    assert "the front of 2, chosen on validation and certified once on test (n = 360)" in text
    [line] = [line for line in text.splitlines() if line.strip().startswith("7 ")]
    assert line.split() == ["7", "90.00", "88.00", "-2.00", "50.00", "47.00", "-3.00", "CROWN"]
    assert "clean (%) -1.00, certified at l-inf 2/255 (%) -2.00" in text
