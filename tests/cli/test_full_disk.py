"""No room at any file that a command writes: one message, nothing torn, and the same command ends as if nothing was."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from full_disk import FullDisk

from certtrain.certificates import CertificateLog
from certtrain.cli.main import main
from certtrain.system import files
from certtrain.training.callbacks import checkpoint
from certtrain.training.checkpoints import network_state, read_checkpoint

pytestmark = [
    pytest.mark.ops,
    pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="names open files by /proc"),
]
ROOT = Path(__file__).resolve().parents[2]
LATER = pytest.mark.slow


@pytest.fixture
def full(monkeypatch):
    """Makes the disk full from a write on; as a context manager, until its end."""

    def at(name=None, number=1):
        context, disk = monkeypatch.context(), FullDisk(files.put, name, number)

        class Until:
            def __enter__(self):
                patch = context.__enter__()
                patch.setattr(files, "put", disk)
                patch.setattr(checkpoint, "put", disk)
                return disk

            def __exit__(self, *error):
                context.__exit__(*error)

        return Until()

    return at


def refused(capsys, *arguments) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 2
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err + shown.out
    assert shown.err.count("certtrain: ") == 1
    for words in ("there is no room for ", "No space left on device", " MB free of ", "give the same command again"):
        assert words in shown.err
    return shown.err


def whole(folder: Path) -> None:
    """Every file below the folder can be read, and nothing half-written lies about."""
    for path in folder.rglob("*"):
        assert path.suffix not in (".tmp", ".part"), path
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".ckpt":
            read_checkpoint(path)
        elif path.suffix == ".tsv":
            assert not CertificateLog(path, read_only=True).torn()
        elif path.suffix == ".csv":
            assert path.read_text().endswith("\n")


def outcome(run: Path):
    """Weights, rows without their times, and the numbers of the result."""
    weights = network_state(read_checkpoint(run / "checkpoints" / "last.ckpt"))
    rows = {}
    for log in (run / "certificates").glob("*.tsv"):
        lines = [line.split("\t") for line in log.read_text().splitlines()]
        rows[log.name] = [line[:5] + line[6:] for line in lines]
    result = json.loads((run / "result.json").read_text())
    numbers = {name: (e["certified"], e["clean"], e["n"]) for name, e in result["test"].items()}
    steps = [line.split(",")[0] for line in (run / "metrics.csv").read_text().splitlines()]
    return {name: value.tolist() for name, value in weights.items()}, rows, numbers, result["status"], steps


@pytest.fixture(scope="module")
def training(tiny, tmp_path_factory):
    """A command, and what it ends with where there is room."""
    runs = tmp_path_factory.mktemp("undisturbed") / "runs"
    arguments = ["train", *tiny, "method=gaussian", "sigma=0.1", "certify_test=true", "checkpoint.every_n_seconds=0"]
    arguments += ["falsify.examples=3", "falsify.steps=2", "name=run"]
    assert main([*arguments, f"runs_dir={runs}"]) == 0
    return arguments, outcome(runs / "run")


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("environment.json", 1),
        pytest.param("overrides.yaml", 1, marks=LATER),
        pytest.param("config.yaml", 1, marks=LATER),
        pytest.param("result.json", 1, marks=LATER),
        pytest.param("result.json", 2, marks=LATER),
        pytest.param("metrics.csv", 1, marks=LATER),
        pytest.param("metrics.csv", 2, marks=LATER),
        pytest.param("last.part", 1, marks=LATER),
        ("last.part", 7),
        pytest.param("best.part", 1, marks=LATER),
        pytest.param("smoothing_n100.json", 1, marks=LATER),
        pytest.param("smoothing_n100.tsv", 1, marks=LATER),
        ("smoothing_n100.tsv", 5),
        pytest.param("smoothing_n100.json", 2, marks=LATER),
        pytest.param("smoothing_n100.json", 3, marks=LATER),
        pytest.param("result.json", 4, marks=LATER),
        pytest.param("certified_accuracy.png", 1, marks=LATER),
        pytest.param("result.json", 5, marks=LATER),
    ],
)
def test_training_and_certifying(in_tmp, training, full, capsys, name, number):
    arguments, expected = training
    with full(name, number) as disk:
        refused(capsys, *arguments)
        assert disk.full
    run = in_tmp / "runs" / "run"
    if run.exists():
        whole(run)
    assert main(arguments) == 0
    whole(run)
    assert outcome(run) == expected


@pytest.mark.parametrize(
    ("name", "number", "rows"),
    [
        ("first_100.tsv", 3, 32),
        pytest.param("result.json", 1, 100, marks=LATER),
        pytest.param("new_smoothing", 1, 0, marks=LATER),
    ],
)
def test_certifying_leaves_what_was_there(runs, snapshot, full, capsys, name, number, rows):
    """The earlier certificates, the checkpoint and the result are as they were; rows that were written count."""
    command = ["certify", "run=noise", "n=50", "radii=[0.02]", "name=new", "indices=first_100"]
    before = snapshot(runs / "noise")
    with full(name, number):
        assert "noise" in refused(capsys, *command)
    whole(runs / "noise")
    after = snapshot(runs / "noise")
    assert {path: after[path] for path in before} == before
    done = runs / "noise" / "certificates" / "new_smoothing_n50_first_100.tsv"
    assert len(CertificateLog(done, read_only=True).read()) == rows
    assert main(command) == 0
    assert len(CertificateLog(done).read()) == 100
    assert main(["audit", str(runs / "noise")]) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", "noise"],
        ["plot", "runs/noise", "--output", "curve.pdf"],
        ["export", "run=noise", "vnnlib=false"],
    ],
)
def test_what_only_shows_a_run(runs, snapshot, full, capsys, arguments):
    before = snapshot(runs.parent)
    with full():
        refused(capsys, *arguments)
    after = snapshot(runs.parent)
    assert {path: after.get(path) for path in before} == before
    assert {path for path in after if path not in before} <= {"runs/noise/.lock"}
    assert main(arguments) == 0
    whole(runs)


@pytest.mark.slow
def test_a_study_goes_on_with_the_trial_that_found_no_room(in_tmp, tiny, full, capsys):
    pytest.importorskip("optuna")
    rest = [word for word in tiny if not word.startswith("epochs")]
    study = ["train", *rest, "method=standard", "epochs=1", "val_size=0.2", "sweep=optuna", "sweep.n_trials=3"]
    study += ["+sweep.space.optimizer.lr={low: 0.001, high: 0.1, log: true}"]

    def trials(name: str) -> list[tuple]:
        found = json.loads((in_tmp / "runs" / name / "trials.json").read_text())["trials"]
        return [(trial["number"], trial["state"], trial["values"], trial["settings"]) for trial in found]

    assert main([*study, "name=undisturbed"]) == 0
    with full("last.part", 2):
        refused(capsys, *study, "name=it")
    assert main([*study, "name=it"]) == 0
    assert trials("it") == trials("undisturbed")
    assert [state for _, state, _, _ in trials("it")] == ["complete"] * 3


@pytest.mark.slow
def test_a_multirun_runs_what_is_missing(in_tmp, tiny, full, capsys):
    arguments = ["train", "-m", *tiny, "epochs=1", "method=standard", "seed=0,1"]
    with full("last.part", 2):
        assert main(arguments) == 2
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err + shown.out
    assert "how this job ended is not recorded: there is no room for" in shown.err
    assert "1 of 2 jobs failed, the first because: there is no room for " in shown.err
    assert "checkpoints/last.ckpt: No space left on device" in shown.err.split("the first because")[1]
    assert main(arguments) == 0
    results = [json.loads(path.read_text()) for path in (in_tmp / "runs").glob("*/result.json")]
    assert [result["status"] for result in results] == ["complete"] * 2


@pytest.mark.parametrize(("eps", "cause"), [("-1", "the radius -1 is negative"), ("0.05", "there is no room for ")])
def test_a_job_that_cannot_record_its_end_tells_why_all_the_same(in_tmp, tiny, full, capsys, eps, cause):
    with full("0000.json", 1):
        assert main(["train", "-m", *tiny, "method=standard", f"eps={eps}", "seed=0,1"]) == 2
    shown = capsys.readouterr().err
    assert f"at least 1 jobs failed, the first because: {cause}" in shown
    assert "without a word" not in shown
    assert "Traceback" not in shown


def test_how_a_job_ended_travels_from_its_process():
    from certtrain.cli.multirun import Unrecorded

    record = {"number": 3, "status": 1, "error": "no room"}
    assert pickle.loads(pickle.dumps(Unrecorded(record))).record == record


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
from certtrain.cli.main import main
sys.exit(main(sys.argv[2:]))
"""


def test_a_limit_of_one_files_size(in_tmp, training):
    """The system's own refusal, at the first file that is too large: a checkpoint."""
    arguments, expected = training
    command = [sys.executable, "-c", LIMITED, "6000", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "there is no room for runs/run/" in done.stderr
    assert "File too large" in done.stderr
    assert "where: the limit of one file's size (ulimit -f) at " in done.stderr
    assert main(arguments) == 0
    assert outcome(in_tmp / "runs" / "run") == expected


@pytest.fixture
def small_disk(in_tmp):
    """A file system of its own below runs/, whose size can be set."""
    runs = in_tmp / "runs"
    runs.mkdir()

    def size(kibibytes: int, *options: str) -> bool:
        words = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={kibibytes}k", *options]), "tmpfs", str(runs)]
        return shutil.which("mount") is not None and subprocess.run(words, capture_output=True).returncode == 0

    if not size(4):
        pytest.skip("nobody may mount here")
    yield lambda kibibytes: size(kibibytes, "remount")
    subprocess.run(["umount", str(runs)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("kibibytes", [4, 16, 28, 40, 52, 64, 80, 100])
def test_a_real_file_system_of_a_few_kibibytes(in_tmp, training, small_disk, capsys, kibibytes):
    arguments, expected = training
    small_disk(kibibytes)
    refused(capsys, *arguments)
    if (in_tmp / "runs" / "run").exists():
        whole(in_tmp / "runs" / "run")
    small_disk(10_000)
    assert main(arguments) == 0
    assert outcome(in_tmp / "runs" / "run") == expected


@pytest.fixture
def workers():
    """Ended with the test: idle ones would live as long as the tests, in the directory of this one."""
    yield
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("hydra_plugins") is None, reason="the launchers are not installed")
def test_jobs_of_a_launcher_on_a_real_file_system(in_tmp, tiny, small_disk, workers, capfd):
    """A job that fills the disk, and its log, tells why in its own words, and not that it ended without a word.

    One pool of processes for all sizes: to start them is most of the time.
    """
    command = ["train", "-m", *tiny, "method=standard", "epochs=1", "seed=0,1", "hydra/launcher=joblib"]
    for kibibytes in (0, 16, 60):
        small_disk(10_000)
        for path in (in_tmp / "runs").iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        (in_tmp / "runs" / "in_the_way").write_bytes(bytes(1_000_000))
        small_disk(1_004 + kibibytes)
        assert main(command) == 2
        shown = capfd.readouterr().err
        assert "Traceback" not in shown
        assert "there is no room for " in shown
        assert "No space left on device" in shown
        assert "without a word" not in shown
        assert " MB free of " in shown
        small_disk(10_000)
        assert main(command) == 0
        results = [json.loads(path.read_text()) for path in (in_tmp / "runs").glob("*/result.json")]
        assert [result["status"] for result in results] == ["complete"] * 2


@pytest.mark.slow
@pytest.mark.parametrize("kibibytes", [12])
def test_processes_of_their_own_on_a_real_file_system(in_tmp, trained_runs, small_disk, capfd, kibibytes):
    """What a process finds no room for is told by the command."""
    small_disk(10_000)
    shutil.copytree(trained_runs / "noise", in_tmp / "runs" / "noise")
    used = subprocess.run(["du", "-sk", str(in_tmp / "runs")], capture_output=True, text=True, check=True).stdout
    small_disk(int(used.split()[0]) + kibibytes)
    command = ["certify", "run=noise", "n=50", "radii=[0.02]", "name=new", "processes=2"]
    assert main(command) == 2
    shown = capfd.readouterr().err
    assert "Traceback" not in shown
    assert "there is no room for " in shown
    small_disk(10_000)
    assert main(command) == 0
    assert len(CertificateLog(in_tmp / "runs" / "noise" / "certificates" / "new_smoothing_n50.tsv").read()) == 360
