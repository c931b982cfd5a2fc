"""`certtrain reproduce`: the budget first, then training, certificates and the comparison, each resumable."""

import json
import re
import shutil
from pathlib import Path

import pytest
from paper_files import make_paper

from certtrain.cli import reproduce
from certtrain.cli.main import main
from certtrain.config.overrides import options
from certtrain.methods.compiled import Compiled
from certtrain.sessions import budget

TINY = ["epochs=2", "model.width=1", "model.linear=8", "schedule.warmup=0", "schedule.ramp=1", "trainer=cpu"]
TINY += ["validation.examples=10", "certify_test=false", "indices=first_5", "certifier.ibp.attack_steps=2"]
TINY += ["certifier.crown_ibp.attack_steps=2", "certifier.crown.attack_steps=2"]
NOISY = ["epochs=1", "model.width=1", "model.linear=8", "trainer=cpu", "validation.examples=4", "validation.n=20"]
NOISY += ["certify_test=false", "indices=first_5", "n=30", "n0=5"]


def result_of(folder):
    [path] = folder.glob("runs/*/result.json")
    return json.loads(path.read_text())


def test_dry_run_states_the_budget_and_does_nothing(in_tmp, capsys, monkeypatch):
    monkeypatch.setattr(budget, "TIMED_STEPS", 2)
    assert main(["reproduce", "quickstart", "--dry-run", *TINY]) == 0
    text = capsys.readouterr().out
    assert "2 epochs of 21 steps at batch 64" in text
    for phase, count in (("ramp", 21), ("after the ramp", 21), ("certify by ibp", 5), ("certify by crown", 5)):
        assert re.search(rf"{phase} +{count} ", text), phase
    assert "warm-up" not in text.replace("no warm-up", "")
    assert "total" in text
    assert max(map(len, text.splitlines())) <= 100
    assert not (in_tmp / "runs").exists()


@pytest.mark.slow
def test_the_time_of_a_step_is_not_that_of_compiling_it(in_tmp, capsys, monkeypatch):
    made, compiled = [], []

    class Eager(Compiled):
        def __init__(self, method, examples, mode):
            super().__init__(method, examples, mode, backend="eager")
            made.append(self)

    def timed(work, device):
        compiled.append(len(made[0]._made))
        return 1.0, 1

    monkeypatch.setattr(budget, "Compiled", Eager)
    monkeypatch.setattr(budget, "_timed", timed)
    assert main(["reproduce", "quickstart", "--dry-run", *TINY, "trainer.compile=true"]) == 0
    assert compiled[:2] == [1, 2]  # the ramp's before it is timed, and then what follows


def test_trains_certifies_and_compares_and_does_nothing_twice(in_tmp, capsys):
    command = ["reproduce", "quickstart", "--no-timing", *TINY]
    assert main(command) == 0
    text = capsys.readouterr().out
    result = result_of(in_tmp)
    assert set(result["test"]) == {"ibp_first_5", "crown_ibp_first_5", "crown_first_5"}
    assert "certtrain, l-inf: deterministic certificates" in text
    assert "quickstart (a)" in text
    assert "model.width=1" in text
    [run] = in_tmp.glob("runs/*")
    assert f"then: certtrain report runs/{run.name}" in text  # after training
    assert f"next: certtrain report runs/{run.name}" in text  # after certifying
    [checkpoint] = in_tmp.glob("runs/*/checkpoints/last.ckpt")
    log = checkpoint.parents[1] / "certificates" / "ibp_first_5.tsv"
    before = checkpoint.stat().st_mtime_ns, log.read_bytes()
    assert main(command) == 0
    assert "certified@0.1" in capsys.readouterr().out
    assert (
        checkpoint.stat().st_mtime_ns,
        (checkpoint.parents[1] / "certificates/ibp_first_5.tsv").read_bytes(),
    ) == before


def test_other_draws_certify_the_same_run_again(in_tmp, capsys):
    assert main(["reproduce", "quickstart_smoothing", "--no-timing", *NOISY]) == 0
    assert main(["reproduce", "quickstart_smoothing", "--no-timing", *NOISY, "n=40"]) == 0
    assert set(result_of(in_tmp)["test"]) == {"smoothing_n30_first_5", "smoothing_n40_first_5"}
    text = capsys.readouterr().out
    assert "n=30" in text
    assert "n=40" in text
    assert "probability 1 - alpha" in text


def test_smoothings_budget_counts_the_draws(in_tmp, capsys, monkeypatch):
    monkeypatch.setattr(budget, "TIMED_STEPS", 2)
    assert main(["reproduce", "quickstart_smoothing", "--dry-run", *NOISY, "n=100000"]) == 0
    text = capsys.readouterr().out
    assert "certify by smoothing, n = 100,000" in text
    assert re.search(r"training +21 ", text)


@pytest.mark.slow
def test_seeds_are_runs_of_their_own_and_one_table(in_tmp, capsys):
    assert main(["reproduce", "quickstart", "--no-timing", "seeds=2", *TINY]) == 0
    text = capsys.readouterr().out
    assert len(list(in_tmp.glob("runs/*/result.json"))) == 2
    line = next(line for line in text.splitlines()[::-1] if "certified@0.1 IBP" in line)
    assert "±" in line
    assert line.split()[-2] == "2"


def test_an_interrupted_stage_ends_the_command_with_its_status(in_tmp, monkeypatch):
    monkeypatch.setattr(reproduce.train, "run", lambda config: 143)
    assert main(["reproduce", "quickstart", "--no-timing", *TINY]) == 143


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["zhang2020/mnist_smal_eps0.3"], "did you mean zhang2020/mnist_small_eps0.3"),
        (["quickstart", "seed"], "no override"),
        (["quickstart", "sed=1"], "unknown configuration key 'sed'"),
        (["quickstart", "seeds=many"], "seeds=many"),
        (["quickstart", "seeds=2", "seed=1"], "at once"),
        (["quickstart", "--fast"], "--fast"),
    ],
)
def test_mistakes_get_one_message(in_tmp, capsys, arguments, message):
    assert main(["reproduce", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (in_tmp / "runs").exists()


def test_an_experiment_with_nothing_published_says_what_to_do(in_tmp, capsys):
    (in_tmp / "experiments" / "other").mkdir(parents=True)
    (in_tmp / "experiments" / "other" / "published.yaml").write_text("rows: {}\n")
    assert main(["reproduce", "quickstart"]) == 2
    assert "certtrain train experiment=quickstart" in capsys.readouterr().err


def test_every_experiment_has_a_row():
    for name in options("experiment"):
        assert reproduce.find_row(name)[1].experiment == name


OWN_RECIPE = """\
# @package _global_
defaults:
  - override /data: digits
  - override /method: smoothed_labels
  - override /model: two_branches
  - override /certifier: smoothing
  - _self_
epochs: 1
sigma: 0.25
radii: [0.25]
"""
OWN_ROW = {"data": "digits", "network": "two branches", "norm": "l2", "sigma": 0.25, "verifier": "smoothing"}
OWN_ROW |= {"published": {"acr": 0.0, "n": 5, "indices": "first_5", "source": "made up", "provenance": "paper"}}
OWN_ROW |= {"tolerance": {"acr": 0.5, "reason": "made up"}}


def test_a_paper_outside_the_repository(in_tmp, capsys, monkeypatch):
    """A recipe in a folder of configuration of one's own, with one's own method, and a published row beside it."""
    own = Path(__file__).parents[2] / "examples" / "own_parts"
    monkeypatch.syspath_prepend(str(own))
    conf = shutil.copytree(own / "conf", in_tmp / "conf")
    (conf / "experiment" / "doe2026").mkdir(parents=True)
    (conf / "experiment" / "doe2026" / "wide.yaml").write_text(OWN_RECIPE, encoding="utf-8")
    make_paper(in_tmp / "papers" / "doe2026", {"wide": OWN_ROW}, family="smoothing")
    places = ["--config-dir", "conf", "--papers", "papers"]
    assert main(["reproduce", *places]) == 0
    listed = capsys.readouterr().out.split()
    assert {"doe2026/wide", "quickstart"} <= set(listed)
    few = ["validation.examples=4", "validation.n=20", "n=600", "n0=5", "indices=first_5"]
    few += ["trust=[own_network,own_method]"]
    command = ["reproduce", "doe2026/wide", *places, "--no-timing", "trainer=cpu", "certify_test=false", *few]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "doe2026, l2: randomized smoothing" in text
    assert "same 5 images, indices=first_5" in text
    assert " within " in text
    assert main(["table", "--papers", "papers", "--ran"]) == 0
    assert "within" in capsys.readouterr().out
    assert main(["reproduce", "doe2026/wide", "--papers", "papers"]) == 2  # no recipe without its folder
    assert "there is no experiment 'doe2026/wide'" in capsys.readouterr().err
    assert main(["reproduce", "--papers", "nowhere"]) == 2
    assert "--papers DIR" in capsys.readouterr().err


def test_alone_it_lists_every_row(in_tmp, capsys):
    assert main(["reproduce"]) == 0
    text = capsys.readouterr().out
    assert set(options("experiment")) <= set(text.split())
    assert "sigma 0.5" in text
    assert "eps 0.3" in text
    assert max(map(len, text.splitlines())) <= 100
    assert not (in_tmp / "runs").exists()
