"""The built wheel works away from the repository: it carries conf/ and the templates, and its commands run."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def call(*command, cwd, **environment):
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**clean, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder of programs of an environment with the wheel (--no-deps) that sees this one's packages."""
    home = tmp_path_factory.mktemp("home")
    venv.create(home / "venv", with_pip=True, symlinks=True)
    scripts = home / "venv" / ("Scripts" if os.name == "nt" else "bin")
    call(scripts / "python", "-m", "pip", "install", "--no-deps", "--no-index", wheel, cwd=home)
    purelib = call(scripts / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home)
    # A path file adds the folder but does not read the path files in it: an editable certtrain stays out of sight.
    (Path(purelib.strip()) / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return scripts


def test_wheel_holds_the_configuration_the_templates_and_the_licence(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    committed = {f"certtrain/conf/{path.relative_to(ROOT / 'conf')}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert committed
    assert committed <= names
    assert "certtrain/py.typed" in names  # type checkers read the annotations of an installed package
    templates = {str(path.relative_to(ROOT)) for path in (ROOT / "certtrain").rglob("templates/*")}
    assert templates
    assert templates <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not {name.split("/")[0] for name in names} - {"certtrain", f"{wheel.name.split('-py3')[0]}.dist-info"}


def test_commands_run_away_from_the_repository(installed, tmp_path):
    where = call(installed / "python", "-c", "import certtrain; print(certtrain.__file__)", cwd=tmp_path)
    assert str(ROOT) not in where
    config = call(installed / "certtrain", "train", "--cfg", "job", cwd=tmp_path)
    assert "epochs:" in config
    assert config == call(installed / "python", "-m", "certtrain", "train", "--cfg", "job", cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_quickstart_from_the_wheel(installed, tmp_path):
    out = call(
        installed / "certtrain", "train", "experiment=quickstart", "epochs=2", "schedule.scale=true", cwd=tmp_path
    )
    assert "certified by" in out
    [result] = (tmp_path / "runs").rglob("result.json")
    assert (result.parent / "certified_accuracy.png").is_file()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_clean_install_with_all_dependencies(wheel, tmp_path):
    """As `pip install certtrain` does it: what the wheel declares is enough for the quickstart."""
    venv.create(tmp_path / "venv", with_pip=True, symlinks=True)
    scripts = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    call(scripts / "python", "-m", "pip", "install", "--quiet", wheel, cwd=tmp_path)
    call(scripts / "certtrain", "train", "experiment=quickstart", "epochs=2", "schedule.scale=true", cwd=tmp_path)
    assert list((tmp_path / "runs").rglob("result.json"))
