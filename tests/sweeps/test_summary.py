"""Many runs in one summary: what may be compared, in which order, and the spread over seeds by hand."""

import json
import statistics

import pytest
from claims import L2_BOUNDS, LINF, SMOOTHED

from certtrain.sweeps.summary import Spread, by_setting, comparisons, differing, read_job, spreads

EYE = "val/certified@0.1"


def run(path, certified: float, *, status: str = "complete", clean: float = 0.9, **entry):
    path.mkdir()
    validation = {
        "claim": LINF.to_dict(),
        "clean": clean,
        "certified": {"0.1": certified},
        "n": 20,
        "indices_sha256": "a",
    }
    result = {"status": status, "seconds": 1.5, "validation": validation | entry}
    (path / "result.json").write_text(json.dumps(result))
    return path


def test_jobs_are_read_from_their_run_directories_and_sorted_best_first(tmp_path):
    jobs = [
        read_job(["eps=0.1", "seed=0"], run(tmp_path / "a", 0.5), None, EYE),
        read_job(["eps=0.2", "seed=0"], run(tmp_path / "b", 0.7), None, EYE),
        read_job(["eps=0.3", "seed=0"], None, "eps is wrong"),
        read_job(["eps=0.4", "seed=0"], run(tmp_path / "c", 0.9, status="interrupted"), None, EYE),
        read_job(["eps=0.5", "seed=0"], tmp_path / "never begun", None),
    ]
    [comparison] = comparisons(jobs)
    assert [job.overrides["eps"] for job in comparison.jobs] == ["0.2", "0.1"]
    assert comparison.metric.name == EYE
    assert [job.state for job in jobs] == ["complete", "complete", "failed", "interrupted", "interrupted"]
    assert differing(jobs) == ["eps"]


def test_a_torn_result_is_a_failure_with_its_reason(tmp_path):
    path = run(tmp_path / "a", 0.5)
    (path / "result.json").write_text('{"status": ')
    job = read_job([], path, None)
    assert job.state == "failed"
    assert "cannot read" in job.error


def test_smoothing_and_bounds_and_norms_and_examples_stand_apart(tmp_path):
    made = [
        run(tmp_path / "bounds", 0.5),
        run(tmp_path / "noise", 0.5, acr=0.1, claim=SMOOTHED.to_dict()),
        run(tmp_path / "l2", 0.5, claim=L2_BOUNDS.to_dict()),
        run(tmp_path / "other", 0.5, indices_sha256="b"),
    ]
    found = comparisons([read_job([], path, None, EYE) for path in made])
    assert [len(comparison.jobs) for comparison in found] == [1, 1, 1, 1]


def test_seeds_of_one_setting_belong_together(tmp_path):
    jobs = [read_job([f"eps={eps}", f"seed={seed}"], None, None) for seed in (0, 1) for eps in (0.1, 0.2)]
    assert [len(group) for group in by_setting(jobs).values()] == [2, 2]
    assert by_setting(jobs).keys() == {(("eps", "0.1"),), (("eps", "0.2"),)}


def test_mean_and_sample_sd():
    values = (0.5, 0.25, 0.9, 0.75)
    spread = Spread("x", values)
    assert spread.mean == pytest.approx(statistics.mean(values), abs=1e-15)
    assert spread.sd == pytest.approx(statistics.stdev(values), abs=1e-15)
    assert Spread("x", (0.5,)).sd is None


def test_only_what_all_seeds_hold_is_averaged():
    first = {"claim": SMOOTHED.to_dict(), "clean": 0.5, "certified": {"0.25": 0.5, "2/255": 0.6}, "acr": 0.1}
    second = {"claim": SMOOTHED.to_dict(), "clean": 0.7, "certified": {"2/255": 0.4}, "acr": 0.2}
    found = {spread.name: spread.values for spread in spreads([first, second])}
    assert found == {"clean (%)": (0.5, 0.7), "certified at l2 2/255 (%)": (0.6, 0.4), "ACR": (0.1, 0.2)}


def test_what_is_no_better_than_a_guess_comes_last_whatever_it_certifies(tmp_path):
    made = [
        run(tmp_path / "constant", 0.9, guessing="it answers class 3 for every example"),
        run(tmp_path / "poor", 0.1),
        run(tmp_path / "good", 0.5),
    ]
    [comparison] = comparisons([read_job([], path, None, EYE) for path in made])
    assert [job.run.name for job in comparison.jobs] == ["good", "poor", "constant"]
    assert comparison.jobs[2].guessing == "it answers class 3 for every example"
