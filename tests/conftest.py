"""Fixtures that many tests share."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

# Where Python is told to keep no compiled files, each of the hundred processes that tests start would compile torch and
# Lightning anew, for 20 seconds. They share those of this session, which the first process of it makes and removes.
if sys.dont_write_bytecode and os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    sys.dont_write_bytecode = False
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = tempfile.mkdtemp(prefix="certtrain-compiled-")
    atexit.register(shutil.rmtree, sys.pycache_prefix, ignore_errors=True)

sys.path.insert(0, str(Path(__file__).parent))  # for the modules that tests share
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # before torch is imported: they share the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))


@pytest.fixture(autouse=True)
def same_threads():
    """No test leaves another number of threads behind: sums round otherwise then, and later tests compare bits."""
    torch = sys.modules.get("torch")
    variables, threads = [os.environ.get(name) for name in THREADS], torch and torch.get_num_threads()
    yield
    assert [os.environ.get(name) for name in THREADS] == variables, "this test leaves another environment to later ones"
    assert (torch and torch.get_num_threads()) == threads, "this test leaves another number of threads to later ones"


@pytest.fixture(scope="session")
def certtrain_data() -> Path:
    """The folder with the real MNIST and CIFAR-10; the test is skipped where there is none."""
    folder = os.environ.get("CERTTRAIN_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("CERTTRAIN_DATA names no folder with the unpacked data sets")
    return Path(folder)


@pytest.fixture
def in_tmp(tmp_path, monkeypatch) -> Path:
    """A fresh working directory, so that runs/ lands there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """Overrides of `certtrain train` that make any method train in a second: digits, 16 hidden neurons, two epochs."""
    return [
        *("data=digits", "model=mlp", "model.hidden=[16]", "epochs=2", "trainer=cpu", "radii=[0.02,0.05]"),
        *("eps=0.05", "schedule.warmup=0", "schedule.ramp=1", "optimizer.lr=0.01", "validation.examples=20"),
        *("validation.n0=10", "validation.n=50", "n0=10", "n=100", "data.batch_size=128", "schedule.lr.kind=constant"),
    ]


@pytest.fixture(scope="session")
def few_attacks() -> list[str]:
    """Overrides for `certifier=bounds`."""
    return [f"certifier.{name}.attack_steps=2" for name in ("ibp", "crown_ibp", "crown")]


@pytest.fixture(scope="session")
def trained_runs(tmp_path_factory, tiny, few_attacks) -> Path:
    """A folder with two runs, trained and certified by the command: `bounds` (CROWN-IBP) and `noise` (Gaussian)."""
    from certtrain.cli.main import main

    runs = tmp_path_factory.mktemp("trained") / "runs"
    common = ["train", *tiny, "certify_test=true", f"runs_dir={runs}"]
    assert main([*common, *few_attacks, "method=crown_ibp", "name=bounds"]) == 0
    assert main([*common, "method=gaussian", "sigma=0.1", "name=noise"]) == 0
    return runs


@pytest.fixture
def runs(trained_runs, in_tmp) -> Path:
    """A copy of the two trained runs, `runs/` in a fresh working directory, to be changed at will."""
    shutil.copytree(trained_runs, in_tmp / "runs")
    return in_tmp / "runs"


@pytest.fixture
def study(tiny) -> list[str]:
    """A study of the learning rate, whose trials take a fraction of a second."""
    own = ["method=standard", "epochs=1", "val_size=0.2", "sweep=optuna", "sweep.n_trials=2", "name=it"]
    rest = [word for word in tiny if not word.startswith("epochs")]
    return ["train", *rest, *own, "+sweep.space.optimizer.lr={low: 0.001, high: 0.1, log: true}"]


@pytest.fixture
def snapshot():
    """What maps every file below a folder to its content, to see that nothing was overwritten."""

    def of(folder: Path) -> dict[str, bytes]:
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

    return of
