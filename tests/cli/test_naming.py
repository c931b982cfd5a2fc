"""The name of a run says what was chosen: the same choices the same name, others another one."""

import re

from hypothesis import given
from hypothesis import strategies as st

from certtrain.cli.naming import LONGEST, run_name

CHOICES = {"data": "digits", "model": "mlp", "method": "ibp", "experiment": None}
KEYS = st.sampled_from(["eps", "epochs", "optimizer.lr", "radii", "model.hidden", "+data.extra", "schedule.ramp"])
VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30)
OVERRIDES = st.lists(st.builds("{}={}".format, KEYS, VALUES), max_size=6, unique_by=lambda o: o.split("=")[0])


def test_examples():
    assert run_name(CHOICES, 0, []) == "digits_mlp_ibp-seed0"
    assert run_name(CHOICES, 1, ["eps=2/255", "data=digits", "seed=1"]) == "digits_mlp_ibp-seed1-eps=2_255"
    assert run_name({**CHOICES, "experiment": "quickstart"}, 0, ["experiment=quickstart"]) == "quickstart-seed0"
    assert run_name({**CHOICES, "experiment": "zhang2020/row"}, 2, ["data=mnist"]) == "zhang2020_row-seed2-data=mnist"


def test_of_a_key_given_twice_the_last_counts():
    assert run_name(CHOICES, 0, ["eps=0.1", "epochs=2", "eps=0.2"]) == run_name(CHOICES, 0, ["epochs=2", "eps=0.2"])


def test_where_and_how_it_runs_makes_no_other_run():
    same = ["runs_dir=x", "data_dir=/d", "certify_test=true", "logger=wandb", "trainer=cpu", "trainer.devices=2"]
    same += ["checkpoint.every_n_seconds=5", "falsify.examples=3", "hydra/launcher=joblib", "logger.wandb.offline=true"]
    assert run_name(CHOICES, 0, same) == run_name(CHOICES, 0, [])


@given(OVERRIDES, st.randoms())
def test_a_name_is_one_short_folder_and_does_not_depend_on_the_order(overrides, rng):
    name = run_name(CHOICES, 0, overrides)
    assert re.fullmatch(r"[\w.=,-]+", name)
    assert len(name) <= len("digits_mlp_ibp-seed0-") + LONGEST
    shuffled = rng.sample(overrides, len(overrides))
    assert run_name(CHOICES, 0, shuffled) == name


@given(st.lists(st.floats(0.001, 1), min_size=12, max_size=12, unique=True))
def test_long_names_that_differ_at_their_end_stay_apart(values):
    overrides = [f"model.hidden_{i}={value}" for i, value in enumerate(values)]
    other = [*overrides[:-1], overrides[-1] + "1"]
    assert run_name(CHOICES, 0, overrides) != run_name(CHOICES, 0, other)


def test_a_long_name_keeps_what_a_sweep_changes_and_whole_overrides_only():
    fixed = ["epochs=5", "model.hidden=[64,64,64]", "schedule.warmup=1", "validation.examples=100"]
    jobs = [[*fixed, f"optimizer.lr={lr}", f"schedule.kappa={kappa}"] for lr in (0.1, 0.01) for kappa in (0, 0.5)]
    names = [run_name(CHOICES, 0, job, ("optimizer.lr", "schedule.kappa")) for job in jobs]
    assert len(set(names)) == 4
    for name, job in zip(names, jobs):
        assert name.startswith(f"digits_mlp_ibp-seed0-{job[-2]}-{job[-1]}-epochs=5-")
        assert re.fullmatch(r".*-[0-9a-f]{8}", name)
    alone = run_name(CHOICES, 0, jobs[0])
    assert alone.startswith("digits_mlp_ibp-seed0-epochs=5-model.hidden=_64,64,64_-")
    assert len(alone) <= len("digits_mlp_ibp-seed0-") + LONGEST
    other = [*jobs[0][:-1], "schedule.kappa=0.5"]
    assert run_name(CHOICES, 0, other) != alone


def test_quotes_that_are_for_hydra_make_no_other_name():
    for quoted, plain in (("eps='2/255'", "eps=2/255"), ('eps="2/255"', "eps=2/255"), (r"a='it\'s'", "a=it_s")):
        assert run_name(CHOICES, 0, [quoted]) == run_name(CHOICES, 0, [plain])


def test_lists_stay_apart():
    names = [run_name(CHOICES, 0, [f"model.hidden={value}"]) for value in ("[1,2]", "[12]", "[1,2,3]", "[]")]
    assert len(set(names)) == len(names)
