"""Evidence of code and machine: cheap, private, and true of the code that ran."""

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from certtrain.runs import environment


def git(folder, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A small git checkout that `environment` believes to be its own."""
    package = tmp_path / "certtrain"
    package.mkdir()
    (package / "__init__.py").write_text("a = 1\n")
    shutil.copy(environment.__file__, package / "environment.py")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    monkeypatch.setattr(environment, "__file__", str(package / "environment.py"))
    return tmp_path


def test_clean_checkout(checkout):
    commit, patch = environment.git_state()
    assert len(commit) == 40
    assert patch == ""


def test_the_patch_holds_changes_of_tracked_files_and_the_names_of_untracked_ones(checkout, tmp_path_factory):
    """What is not under version control may be anybody's key: its content stays where it is."""
    (checkout / "certtrain" / "__init__.py").write_text("a = 2\n")
    (checkout / "certtrain" / "mine.py").write_text("TOKEN = 'secret'\n")
    for name in ("settings.toml", "deploy.yaml", "a\nb.yml", ".env", "notes.txt"):
        (checkout / name).write_text("key: secret\n")
    _, patch = environment.git_state()
    assert "secret" not in patch
    listed = [line for line in patch.splitlines() if line.startswith("# untracked")]
    assert [line.split(": ")[1] for line in listed] == [
        *('"a\\nb.yml"', '"certtrain/mine.py"', '"deploy.yaml"', '"settings.toml"')
    ]
    clone = tmp_path_factory.mktemp("clone")
    git(clone.parent, "clone", "-q", str(checkout), str(clone))
    (clone / "diff.patch").write_text(patch)
    git(clone, "apply", "diff.patch")
    assert (clone / "certtrain" / "__init__.py").read_text() == "a = 2\n"
    assert sorted(path.name for path in (clone / "certtrain").iterdir()) == ["__init__.py", "environment.py"]


def test_untracked_code_alone_makes_a_checkout_dirty(checkout):
    (checkout / "notes.txt").write_text("")
    assert environment.git_state()[1] == ""
    (checkout / "mine.py").write_text("")
    assert "mine.py" in environment.git_state()[1]


def test_installed_inside_a_foreign_repository_has_no_commit(checkout, monkeypatch):
    site = checkout / "venv" / "certtrain"
    site.mkdir(parents=True)
    (site / "__init__.py").write_text("")
    monkeypatch.setattr(environment, "__file__", str(site / "environment.py"))
    assert environment.git_state() is None


def test_description_is_json_without_the_machine_name_or_folders(monkeypatch):
    monkeypatch.setattr(environment, "_typed", [])
    monkeypatch.setattr(sys, "argv", ["/home/someone/bin/certtrain", "train", "radii=[0.1, 0.2]"])
    described = environment.describe()
    text = json.dumps(described)
    assert described["command"] == "certtrain train 'radii=[0.1, 0.2]'"
    monkeypatch.setattr(sys, "argv", ["certtrain train", "seed=1"])
    assert environment.command_line() == "certtrain train seed=1"
    assert "/home/someone" not in text
    assert socket.gethostname() not in {described["platform"], *map(str, described["hardware"].values())}
    assert described["hardware"]["usable_cores"] >= 1
    assert described["hardware"]["memory_gib"] > 0


def test_imports_nothing_heavy():
    code = "import sys, certtrain.runs.directory as r; r.environment.describe(); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert not {"torch", "lightning", "hydra", "wandb", "matplotlib"} & set(out.stdout.split())


def test_what_was_typed_is_remembered_over_what_a_command_makes_of_it(monkeypatch):
    monkeypatch.setattr("sys.argv", ["certtrain certify", "run='runs/a'", "seed=0"])
    monkeypatch.setattr(environment, "_typed", [])
    environment.remember_command(["certtrain", "certify", "run=a", "radii=[0.1, 0.2]"])
    assert environment.command_line() == "certtrain certify run=a 'radii=[0.1, 0.2]'"


def test_a_password_is_no_evidence(monkeypatch):
    words = ["certtrain", "train", "sweep.storage=postgresql://me:hunter2@host:5432/db", "data=digits"]
    monkeypatch.setattr(environment, "_typed", words)
    assert environment.command_line() == "certtrain train 'sweep.storage=postgresql://me:***@host:5432/db' data=digits"
    assert environment.without_password("sqlite:////tmp/a:b@c.db") == "sqlite:////tmp/a:b@c.db"
