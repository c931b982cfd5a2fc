"""Results are found wherever they lie, counted once, and averaged only when they are seeds of one setting."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from claims import LINF
from paper_files import ENTRY, SMOOTHED, make_paper, make_run

from certtrain.reporting.collected import Run, collect, groups_of
from certtrain.reporting.published import read_paper


@pytest.fixture
def row(tmp_path):
    return read_paper(make_paper(tmp_path / "p")).rows["small"]


def groups(row, *roots):
    return groups_of(row, collect(roots).runs.get(row.experiment, ()))


def test_seeds_of_one_setting_are_one_group(tmp_path, row):
    for seed in (2, 0, 1):
        make_run(tmp_path / "runs", "p/small", seed)
    [group] = groups(row, tmp_path / "runs")
    assert [run.seed for run in group.runs] == [0, 1, 2]


def test_a_run_in_two_places_counts_once(tmp_path, row):
    make_run(tmp_path / "runs", "p/small")
    make_run(tmp_path / "results", "p/small")
    [group] = groups(row, tmp_path / "runs", tmp_path / "results", tmp_path / "runs")
    assert len(group.runs) == 1


def test_other_results_of_the_same_seed_are_shown_and_never_averaged(tmp_path, row):
    make_run(tmp_path / "runs", "p/small")
    make_run(tmp_path / "results", "p/small", test={"ibp": {**ENTRY, "clean": 0.5}})
    first, second = groups(row, tmp_path / "results", tmp_path / "runs")
    assert [len(group.runs) for group in (first, second)] == [1, 1]
    assert second.marks == (f"run {tmp_path / 'runs' / 'p_small-seed0'}",)


@pytest.mark.parametrize("override", ["epochs=3", "optimizer.lr=0.2", "+model.x=1"])
def test_other_overrides_are_another_group(tmp_path, row, override):
    make_run(tmp_path, "p/small", 0)
    make_run(tmp_path, "p/small", 1, overrides=[override])
    plain, other = groups(row, tmp_path)
    assert (plain.overrides, other.overrides) == ((), (override,))


@pytest.mark.parametrize("override", ["data_dir=/somewhere", "n=5", "logger=wandb", "trainer=cpu", "name=x"])
def test_what_is_no_setting_does_not_divide(tmp_path, row, override):
    make_run(tmp_path, "p/small", 0)
    make_run(tmp_path, "p/small", 1, overrides=[override], name="second")
    [group] = groups(row, tmp_path)
    assert len(group.runs) == 2


def test_a_preset_edited_in_between_divides_and_says_in_what(tmp_path, row):
    make_run(tmp_path, "p/small", 0)
    make_run(tmp_path, "p/small", 1, config={"optimizer": {"lr": 0.5}, "new": 1})
    _, second = groups(row, tmp_path)
    assert second.marks == ("optimizer.lr: 0.1 / 0.5",)


def test_a_key_that_only_one_version_knows_does_not_divide(tmp_path, row):
    make_run(tmp_path, "p/small", 0)
    make_run(tmp_path, "p/small", 1, config={"schedule": {"mid": 0.25}})
    assert len(groups(row, tmp_path)) == 1


def test_other_settings_of_the_certificate_divide(tmp_path):
    rows = {"s": {"data": "d", "network": "n", "norm": "l2", "sigma": 0.5, "verifier": "smoothing"}}
    row = read_paper(make_paper(tmp_path / "p", rows, family="smoothing")).rows["s"]
    more = {**SMOOTHED, "settings": {**SMOOTHED["settings"], "n": 10000}}
    bold = {**SMOOTHED, "settings": {**SMOOTHED["settings"], "alpha": 0.01}}
    subset = {**SMOOTHED, "indices_sha256": "another four"}
    tests = {"smoothing_n1000": SMOOTHED, "smoothing_n10000": more, "bold": bold, "subset": subset}
    make_run(tmp_path / "runs", "p/s", 0, tests)
    found = groups(row, tmp_path / "runs")
    assert [group.marks for group in found] == [(), (), ("alpha=0.01",), ("certificate subset",)]


def test_a_smoothing_certifiers_seed_and_batch_size_are_no_settings(tmp_path):
    rows = {"s": {"data": "d", "network": "n", "norm": "l2", "sigma": 0.5, "verifier": "smoothing"}}
    row = read_paper(make_paper(tmp_path / "p", rows, family="smoothing")).rows["s"]
    for seed in (0, 1):
        entry = {**SMOOTHED, "settings": {**SMOOTHED["settings"], "seed": seed, "batch_size": 100 + seed}}
        make_run(tmp_path / "runs", "p/s", seed, {"smoothing": entry})
    [group] = groups(row, tmp_path / "runs")
    assert len(group.runs) == 2


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"loss": 1}',
        '{"schema": 99, "status": "complete", "seed": 0, "test": {}}',
        '{"schema": 1, "status": "complete", "experiment": "p/small", "seed": 0}',
        '{"schema": 1, "status": "complete", "experiment": "p/small", "seed": 0, "test": {"ibp": {"clean": 1}}}',
    ],
)
def test_a_damaged_or_foreign_result_is_skipped_and_named(tmp_path, text):
    make_run(tmp_path, "p/small", 0)
    bad = make_run(tmp_path, "p/small", 1)
    (bad / "result.json").write_text(text)
    found = collect([tmp_path])
    assert [len(runs) for runs in found.runs.values()] == [1]
    [skipped] = found.skipped
    assert skipped.path == bad / "result.json"
    assert skipped.damaged
    assert skipped.reason


@pytest.mark.parametrize("name", ["config.yaml", "overrides.yaml", "environment.json"])
def test_a_result_without_its_evidence_is_damaged(tmp_path, name):
    (make_run(tmp_path, "p/small", 0) / name).unlink()
    [skipped] = collect([tmp_path]).skipped
    assert skipped.damaged
    assert name in skipped.reason


def test_an_interrupted_run_is_named_and_is_no_damage(tmp_path):
    make_run(tmp_path, "p/small", 0, status="interrupted", test={})
    found = collect([tmp_path])
    assert found.runs == {}
    assert [(item.reason, item.damaged) for item in found.skipped] == [("interrupted, not complete", False)]


def test_accelerators_stand_for_the_hardware(tmp_path):
    path = make_run(tmp_path, "p/small", 0)
    (path / "environment.json").write_text(json.dumps({"hardware": {"accelerators": [{"name": "NVIDIA H200"}]}}))
    assert collect([tmp_path]).runs["p/small"][0].hardware == "1 x NVIDIA H200"


def test_results_over_sizes_of_features_stand_in_rows_that_name_them_and_in_no_other(tmp_path, row):
    """Their radii are multiples of those sizes: another quantity under the same name."""

    def over(sha):
        scales = {"name": "measured", "sha256": sha * 32, "features": {"x": "1"}, "whole": {}}
        claim = replace(LINF, threat=f"linf scaled by measured ({sha * 4})").to_dict()
        return {"ibp": {**ENTRY, "claim": claim, "settings": {**ENTRY["settings"], "scales": scales}}}

    make_run(tmp_path, "p/small", 0)
    make_run(tmp_path, "p/small", 1, test=over("ab"), name="first")
    make_run(tmp_path, "p/small", 2, test=over("ab"), name="second")
    make_run(tmp_path, "p/small", 3, test=over("cd"), name="third")
    [plain] = groups(row, tmp_path)
    assert [run.seed for run in plain.runs] == [0]
    same, other = groups(replace(row, norm="linf scaled by measured"), tmp_path)
    assert [run.seed for run in same.runs] == [1, 2]
    assert [run.seed for run in other.runs] == [3]
    assert "scales=measured (cdcdcdcd)" in other.marks
    assert groups(replace(row, norm="linf scaled by others"), tmp_path) == []


def calls_of(work) -> int:
    """How many functions, of Python or of C, are called: what a loaded machine does not change."""
    count = 0

    def tell(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(tell)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("varied", ["overrides", "seed"])
def test_the_work_of_a_table_grows_with_its_settings_and_not_with_their_pairs(row, varied):
    """2,000 settings took 53 s of which nearly all went into comparing each with each."""

    def made(number: int) -> list[Run]:
        runs = []
        for i in range(number):
            result = {"seed": i if varied == "seed" else 0, "seconds": 1.0, "test": {"ibp": {**ENTRY, "seconds": i}}}
            overrides = (f"lr={i}",) if varied == "overrides" else ()
            runs.append(Run(Path(f"r{i}"), result, overrides, {"epochs": 5}, "CPU"))
        return runs

    few, many = made(50), made(200)
    groups_of(row, few)
    assert calls_of(lambda: groups_of(row, many)) < 6 * calls_of(lambda: groups_of(row, few))
