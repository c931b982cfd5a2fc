"""A run directory is created whole, resumed only by its own configuration, and held by one process."""

import json
import os
import re
import socket
import subprocess
import sys
import threading

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from certtrain.errors import UserError
from certtrain.runs import directory as runs
from certtrain.runs.directory import (
    RunDirectory,
    config_differences,
    config_hash,
    difference_lines,
    find_run,
    sha256_file,
)
from certtrain.system.files import plain

CONFIG = {"seed": 0, "epochs": 20, "eps": "2/255", "radii": [0.1, "2/255"], "method": {"_target_": "x", "l1": 1e-5}}


def opened(path, config=CONFIG, overrides=("seed=0",), **more):
    run, state = RunDirectory.open(path, config, list(overrides), **more)
    run.close()
    return run, state


def test_new_run_holds_its_evidence(tmp_path):
    run, state = opened(tmp_path / "runs" / "first")
    assert state == "new"
    assert run.read_config() == CONFIG
    assert run.read_overrides() == ["seed=0"]
    described = json.loads(run.environment.read_text())
    assert described["config_sha256"] == config_hash(CONFIG)
    assert described["packages"]["torch"]
    assert described["resumed"] == []
    assert socket.gethostname() not in json.dumps(described["hardware"])
    assert run.checkpoints.is_dir()
    assert run.certificates.is_dir()
    assert run.last.name == "last.ckpt"
    assert run.metrics.name == "metrics.csv"
    assert run.name == "first"


def test_same_configuration_resumes_until_complete(tmp_path):
    opened(tmp_path / "r")
    run, state = opened(tmp_path / "r")
    assert state == "resume"
    assert len(json.loads(run.environment.read_text())["resumed"]) == 1
    run.write_result({"status": "interrupted", "test": {}})
    assert opened(tmp_path / "r")[1] == "resume"
    run.write_result({"status": "complete", "test": {}})
    before = {path: path.read_bytes() for path in run.path.iterdir() if path.is_file() and path.name != ".lock"}
    assert opened(tmp_path / "r")[1] == "complete"
    assert {path: path.read_bytes() for path in before} == before


def test_other_configuration_is_refused_and_changes_nothing(tmp_path):
    run, _ = opened(tmp_path / "r", overrides=["epochs=20"])
    before = run.config.read_bytes(), run.environment.read_bytes()
    other = {**CONFIG, "epochs": 30, "method": {"_target_": "x", "l1": 0.0}, "sigma": 0.5}
    with pytest.raises(UserError) as caught:
        RunDirectory.open(tmp_path / "r", other, ["epochs=30"])
    text = str(caught.value)
    for part in ("epochs: 20 there, 30 now", "method.l1: 1e-05 there, 0.0 now", "sigma: absent there", "name="):
        assert part in text
    assert "epochs=20" in caught.value.fix
    assert (run.config.read_bytes(), run.environment.read_bytes()) == before
    assert opened(tmp_path / "r")[1] == "resume"  # the refusal gave the lock back


def test_a_key_that_the_configuration_got_since_is_named_with_its_value(tmp_path):
    opened(tmp_path / "r")
    with pytest.raises(UserError) as caught:
        opened(tmp_path / "r", {**CONFIG, "trainer": {"precision": "tf32"}})
    assert str(caught.value).count(" there, ") == 1
    assert "trainer.precision: absent there, 'tf32' now" in str(caught.value)
    assert "the version in the run's environment.json resumes it" in caught.value.fix


def test_keys_that_may_differ(tmp_path):
    run, _ = opened(tmp_path / "r", {**CONFIG, "trainer": {"devices": 1}, "data_dir": "a"})
    run.write_result({"status": "complete"})
    moved = {**CONFIG, "trainer": {"devices": 2}, "data_dir": "b"}
    assert opened(tmp_path / "r", moved, may_differ=("trainer", "data_dir"))[1] == "complete"
    longer = {**moved, "epochs": 40}
    with pytest.raises(UserError, match="epochs"):
        opened(tmp_path / "r", longer, may_differ=("trainer", "data_dir"))
    assert opened(tmp_path / "r", longer, may_differ=("trainer", "data_dir"), extends=("epochs",))[1] == "resume"
    assert run.read_config()["epochs"] == 40
    assert [path.name for path in run.earlier_configs] == ["config.0.yaml"]
    assert run.read_config(run.earlier_configs[0]) == {**CONFIG, "trainer": {"devices": 1}, "data_dir": "a"}
    again = {**longer, "data_dir": "c"}
    run.write_result({"status": "interrupted"})
    assert opened(tmp_path / "r", again, may_differ=("data_dir",))[1] == "resume"
    assert [run.read_config(path)["epochs"] for path in run.earlier_configs] == [20, 40]
    before = run.config.read_bytes()
    assert opened(tmp_path / "r", {**again, "trainer": {"devices": 2.0}})[1] == "resume"  # nothing differs
    assert (run.config.read_bytes(), len(run.earlier_configs)) == (before, 2)


def test_a_key_below_does_not_free_its_namesakes():
    assert config_differences({"data": 1, "data_dir": 2}, {"data": 1, "data_dir": 3}, ["data"]) == [("data_dir", 2, 3)]


def test_killed_before_config_is_new_again(tmp_path):
    run, _ = opened(tmp_path / "r")
    run.config.unlink()
    assert opened(tmp_path / "r")[1] == "new"


def test_foreign_directory_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt"):
        RunDirectory.open(tmp_path, CONFIG, [])
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_second_process_is_refused_until_the_first_ends(tmp_path):
    run, _ = RunDirectory.open(tmp_path / "r", CONFIG, [])
    code = "import sys; from certtrain.runs.directory import RunDirectory; RunDirectory(sys.argv[1]).lock()"
    command = [sys.executable, "-c", code, str(run.path)]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode
    assert f"another process (pid {os.getpid()} on {socket.gethostname()} since 2" in refused.stderr
    with pytest.raises(UserError, match="another process"):
        RunDirectory.open(run.path, CONFIG, [])
    run.close()
    assert subprocess.run(command).returncode == 0


def test_shards_share_the_lock_with_each_other_only(tmp_path, monkeypatch):
    monkeypatch.setattr("certtrain.runs.locks.SHARD_PATIENCE", 0.1)
    path = RunDirectory.open(tmp_path / "r", CONFIG, [])[0].path
    first, second, third = (RunDirectory(path) for _ in range(3))
    first.lock()
    with pytest.raises(UserError, match="another process"):
        second.lock(shard="1-of-2")
    first.close()
    second.lock(shard="1-of-2")
    first.lock(shard="2-of-2")
    for taken in ("1-of-2", None):
        with pytest.raises(UserError, match="another process"):
            third.lock(shard=taken)
    first.close()
    second.close()
    third.lock()
    threading.Timer(0.3, third.close).start()  # it only looked whether all shards are there
    monkeypatch.setattr("certtrain.runs.locks.SHARD_PATIENCE", 20.0)
    first.lock(shard="2-of-2")
    first.close()


@pytest.mark.parametrize("parent", ["file", "/proc"])
def test_unwritable_directory(tmp_path, parent):
    (tmp_path / "file").write_text("")
    if parent == "/proc" and not os.path.isdir(parent):
        pytest.skip("no /proc here")
    with pytest.raises(UserError, match="cannot write the run directory"):
        RunDirectory.open(tmp_path / parent / "r", CONFIG, [])


def test_result_round_trip_and_refusals(tmp_path):
    run, _ = opened(tmp_path / "r")
    assert run.read_result() is None
    run.write_result({"seed": 1, "status": "failed", "loss": float("nan")})
    assert run.read_result() == {"schema": 1, "status": "failed", "seed": 1, "loss": None}
    with pytest.raises(ValueError, match="status"):
        run.write_result({"status": "done"})
    assert run.read_result()["status"] == "failed"
    for text, message in (
        ("{", "cannot read"),
        ("[]", "not the result"),
        ('{"schema":9,"status":"failed"}', "schema 9"),
    ):
        run.result.write_text(text)
        with pytest.raises(UserError, match=message):
            run.read_result()


def test_accelerators_are_filled_in_once_torch_is_there(tmp_path, monkeypatch):
    def accelerators(run):
        described = json.loads(run.environment.read_text())
        return [session["hardware"]["accelerators"] for session in (described, *described["resumed"])]

    monkeypatch.setattr(runs.environment, "accelerators", lambda: None)
    opened(tmp_path / "r")
    run, _ = RunDirectory.open(tmp_path / "r", CONFIG, [])
    monkeypatch.setattr(runs.environment, "accelerators", lambda: ["a device"])
    run.write_result({"status": "interrupted"})
    assert accelerators(run) == [None, ["a device"]]
    run.close()
    monkeypatch.setattr(runs.environment, "accelerators", lambda: ["another machine"])
    RunDirectory(run.path).write_result({"status": "complete"})
    assert accelerators(run) == [None, ["a device"]]


def test_find_run(tmp_path, monkeypatch):
    opened(tmp_path / "runs" / "digits-seed0")
    monkeypatch.chdir(tmp_path)
    for name in ("digits-seed0", "runs/digits-seed0", tmp_path / "runs" / "digits-seed0"):
        assert find_run(name).name == "digits-seed0"
    with pytest.raises(UserError, match="did you mean digits-seed0"):
        find_run("runs/digit-seed0")
    with pytest.raises(UserError, match="train one first"):
        find_run("x", tmp_path / "nowhere")


def test_a_folder_of_many_runs_is_not_listed_whole(tmp_path, monkeypatch):
    for number in range(300):
        (tmp_path / "runs" / f"digits-seed{number}").mkdir(parents=True)
        (tmp_path / "runs" / f"digits-seed{number}" / "config.yaml").write_text("{}")
    (tmp_path / "runs" / "digits-seed0" / "wandb" / "files").mkdir(parents=True)
    (tmp_path / "runs" / "digits-seed0" / "wandb" / "files" / "config.yaml").write_text("{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        find_run("quickstart")
    assert len(str(caught.value)) < 500
    assert re.search(r"available: digits-seed0, digits-seed1, .* and \d\d\d more$", caught.value.fix)
    with pytest.raises(UserError) as caught:
        find_run("files")
    assert "wandb" not in str(caught.value)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
configs = st.dictionaries(st.text(st.characters(categories=["L"]), min_size=1, max_size=5), values, max_size=5)


@settings(deadline=None)
@given(configs)
def test_the_file_gives_back_the_configuration(config):
    read = yaml.safe_load(runs._yaml(plain(config)))
    assert config_differences(config, read) == []
    assert config_hash(read) == config_hash(config)


@settings(deadline=None)
@given(configs, configs)
def test_hash_and_differences_agree(one, other):
    assert (config_hash(one) == config_hash(other)) == (config_differences(one, other) == [])


def test_hash_ignores_order_and_integral_floats_but_not_booleans():
    assert config_hash({"a": 1, "b": 2}) == config_hash({"b": 2.0, "a": 1.0})
    assert config_hash({"a": 1}) != config_hash({"a": True})
    assert re.fullmatch("[0-9a-f]{64}", config_hash({}))


def test_sha256_of_a_file(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256_file(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(UserError, match="cannot read"):
        sha256_file(tmp_path / "g")


def test_a_long_list_of_differences_says_how_many_more_there_are():
    differing = [(f"key{n}", n, n + 1) for n in range(9)]
    assert difference_lines(differing, 9)[-1] == "    key8: 8 there, 9 now"
    assert difference_lines(differing, 7)[-2:] == ["    key6: 6 there, 7 now", "    and 2 more"]


@pytest.mark.parametrize(
    "text", ["[" * 200_000, "{a: " * 200_000, "- " * 200_000, "? " * 200_000, "[" * 1_200 + "]" * 1_200]
)
def test_a_file_nested_without_end_is_refused(tmp_path, text):
    """libyaml recurses in C and would end the process."""
    run = RunDirectory(tmp_path)
    for path, read in ((run.config, run.read_config), (run.overrides, run.read_overrides)):
        path.write_text(text)
        with pytest.raises(UserError, match="cannot read"):
            read()
    run.result.write_text("[" * 200_000)
    with pytest.raises(UserError, match="cannot read"):
        run.read_result()


def test_indentation_nests_as_brackets_do(tmp_path):
    run = RunDirectory(tmp_path)
    run.config.write_text("".join(f"{' ' * depth}a:\n" for depth in range(1_100)))
    with pytest.raises(UserError, match="cannot read"):
        run.read_config()
