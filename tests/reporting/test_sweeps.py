"""The tables of many runs name their metric, fit 100 columns, and show what failed."""

from claims import LINF
from printing import printed as shown

from certtrain.reporting.sweeps import multirun_tables, number, seeds_tables, setting_cells
from certtrain.sweeps.summary import Job


def job(overrides: dict, certified: float = 0.5, state: str = "complete", test: dict | None = None, **more) -> Job:
    entry = {"claim": LINF.to_dict(), "clean": 0.875, "certified": {"2/255": certified}, "n": 40, "indices_sha256": "a"}
    result = {"validation": entry, "seconds": 12.3, "test": test or {}}
    return Job(overrides, None, state, result=result, monitor="val/certified@2_255", **more)


def test_a_multirun_names_its_metric_and_sorts_by_it():
    jobs = [
        job({"method": m, "eps": "2/255", "seed": s}, v) for m, s, v in [("ibp", "0", 0.3), ("crown_ibp", "0", 0.6)]
    ]
    text = shown(multirun_tables(jobs))
    assert "best first by the validation metric val/certified@2_255 (n = 40)" in text
    assert text.index("crown_ibp") < text.index(" ibp ")
    assert "test" not in text
    assert "eps" not in text  # the same in all


def test_means_over_seeds_and_failures_are_shown():
    jobs = [job({"eps": eps, "seed": str(s)}, v) for eps, s, v in [("1", 0, 0.4), ("1", 1, 0.6), ("2", 0, 0.2)]]
    jobs.append(job({"eps": "2", "seed": "1"}, state="failed", error="loss is NaN\n  where: step 7"))
    text = shown(multirun_tables(jobs))
    assert "50.00 ± 14.14" in text
    assert "failed: eps=2 seed=1  (loss is NaN)" in text


def test_many_long_settings_fit():
    keys = [f"method.some_long_key_{i}" for i in range(9)]
    jobs = [job(dict.fromkeys(keys, f"a_rather_long_value_{i}") | {"seed": str(i)}) for i in range(3)]
    shown(multirun_tables(jobs))


def test_seeds_show_validation_and_every_test_certificate_that_all_have():
    ibp = {"certifier": "ibp", "claim": LINF.to_dict(), "clean": 0.5, "certified": {"2/255": 0.25}, "n": 360}
    crown = {**ibp, "certifier": "crown"}
    jobs = [job({"seed": "0"}, 0.5, test={"ibp": ibp, "crown": crown}), job({"seed": "1"}, 0.7, test={"ibp": ibp})]
    text = shown(seeds_tables(jobs))
    assert "validation, n = 40; mean ± sd over 2 seeds" in text
    assert "60.00 ± 14.14" in text
    assert "test, certified by IBP, n = 360" in text
    assert "CROWN" not in text
    failed = job({"seed": "2"}, state="failed", error="NaN")
    text = shown(seeds_tables([*jobs, failed]))
    assert "2 of 3 seeds: the others have no result" in text
    assert "failed: seed=2  (NaN)" in text
    assert "failed: seed=2" in shown(seeds_tables([failed]))


def test_seeds_with_falsified_certificates_have_no_mean():
    ibp = {"certifier": "ibp", "claim": LINF.to_dict(), "clean": 0.5, "certified": {"2/255": 0.25}, "n": 360}
    jobs = [job({"seed": "0"}, test={"ibp": ibp}), job({"seed": "1"}, test={"ibp": {**ibp, "falsified": True}})]
    text = shown(seeds_tables(jobs))
    assert "no mean, an attack broke certificates of seed=1" in text
    assert "25.00" not in text


GUESS = "it answers class 3 for every example"


def guesses(found: Job) -> Job:
    found.result["validation"]["guessing"] = GUESS
    return found


def test_what_is_no_better_than_a_guess_is_marked_and_comes_last():
    jobs = [guesses(job({"lr": "1", "seed": "0"}, 0.9)), job({"lr": "2", "seed": "0"}, 0.5)]
    text = shown(multirun_tables(jobs))
    assert text.index("50.00") < text.index("87.50 !") < text.index("! no better than a guess")
    assert "!" not in shown(multirun_tables(jobs[1:]))
    text = shown(multirun_tables([*jobs, job({"lr": "2", "seed": "1"}, 0.3)]))
    means = text[text.index("mean ± sd over seeds") :]
    assert means.index("40.00 ±") < means.index("90.00")


def test_seeds_that_are_no_better_than_a_guess_are_named():
    jobs = [job({"seed": "0"}, 0.5), guesses(job({"seed": "1"}, 0.1))]
    text = " ".join(shown(seeds_tables(jobs)).split())
    assert f"seed=1 is no better than a guess: {GUESS}" in text
    assert "seed=0 is" not in text


def test_no_heading_is_broken_within_a_word():
    keys = ["method.kappa.start", "schedule.ramp", "optimizer.weight_decay", "train_eps"]
    headings, cells = setting_cells(keys, [dict.fromkeys(keys, "0.1"), {"train_eps": "0.2"}], 55)
    assert headings == ["method.\nkappa.start", "schedule.\nramp", "optimizer.\nweight_decay", "train_eps"]
    assert cells == [["0.1"] * 4, ["", "", "", "0.2"]]
    text = shown(multirun_tables([job(dict.fromkeys(keys, f"0.{seed}") | {"seed": str(seed)}) for seed in range(3)]))
    for word in ("kappa.start", "schedule.", "optimizer.", "weight_decay", "train_eps"):
        assert word in text


def test_settings_that_do_not_fit_as_columns_are_named_in_one():
    keys = [f"method.some_long_key_{i}" for i in range(9)]
    headings, cells = setting_cells(keys, [dict.fromkeys(keys, "0.1"), {keys[3]: "2"}], 55)
    assert headings == ["settings"]
    assert cells[0] == [" ".join(f"{key}=0.1" for key in keys)]
    assert cells[1] == [f"{keys[3]}=2"]
    jobs = [job(dict.fromkeys(keys, str(seed)) | {"seed": str(seed)}) for seed in range(3)]
    assert all(f"{key}=1" in shown(multirun_tables(jobs)).split() for key in keys)  # none is left out


def test_a_radius_is_never_rounded_up():
    assert number(0.69099, is_share=False) == "0.6909"
