"""Kills train, certify and a study with SIGKILL at random moments, and checks that the rerun ends where it would have.

    python tests/kill9.py [--kills 50] [--seed 0] [--devices 1]

Not part of the test suite: each kill costs a start. A killed command is started again until it ends by itself; what it
leaves must be what an undisturbed one leaves, but for times: weights bit for bit, `result.json`, certificate rows, a
study's trials. Nothing may be left half-written, and no start may be refused.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TINY = ["data=digits", "model=mlp", "model.hidden=[32]", "trainer=cpu", "radii=[0.02,0.05]", "eps=0.05", "seed=1"]
TRAIN = [*TINY, "method=crown_ibp", "epochs=30", "schedule.warmup=2", "schedule.ramp=10", "validation.examples=50"]
TRAIN += ["checkpoint.every_n_seconds=0.2", "name=run"]
CERTIFY = ["run=run", "certifier=bounds", "falsify.examples=20", "falsify.steps=5"]
STUDY = [*TINY, "method=ibp", "epochs=3", "schedule.scale=true", "sweep=optuna", "sweep.n_trials=4"]
STUDY += ["val_size=0.2", "validation.examples=40", "name=study"]
COMMANDS = {"train": ["train", *TRAIN], "certify": ["certify", *CERTIFY], "study": ["train", *STUDY]}
TIMES = ("seconds", "start", "end", "last_run_seconds", "started", "time", "command", "training_seconds")


def start(arguments: list[str], folder: Path) -> subprocess.Popen:
    """The command in the folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "certtrain", *arguments]
    log = (folder / "output.log").open("ab")
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)


def undisturbed(folder: Path) -> dict[str, float]:
    """Run every command once; the seconds that each took."""
    took = {}
    for name, arguments in COMMANDS.items():
        begun = time.monotonic()
        if start(arguments, folder).wait() != 0:
            raise SystemExit(f"{name} fails without being killed: {(folder / 'output.log').read_text()[-2000:]}")
        took[name] = time.monotonic() - begun
    return took


def disturbed(folder: Path, name: str, kills: int, longest: float, draw: random.Random) -> int:
    """Kill a command up to `kills` times, each time at another moment, then let it end; how often it was killed."""
    done = 0
    while True:
        process = start(COMMANDS[name], folder)
        try:
            status = process.wait(timeout=draw.uniform(0, longest) if done < kills else None)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            done += 1
            continue
        if status != 0:
            text = (folder / "output.log").read_text()[-2000:]
            raise SystemExit(f"{name}: exit status {status} after {done} kills in {folder}\n{text}")
        return done


def outcome(folder: Path) -> dict[str, Any]:
    """What the commands left, without times."""
    import torch

    from certtrain.certificates import CertificateLog

    run = folder / "runs" / "run"
    weights = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    rows = CertificateLog(run / "certificates" / "crown.tsv").read().sorted()
    columns = {key: values.tolist() for key, values in rows.columns.items() if not key.startswith("seconds")}
    trials = sorted((folder / "runs" / "study").glob("trial_*/result.json"))
    return {
        "weights": {key: value.tolist() for key, value in weights.items()},
        "result": timeless(json.loads((run / "result.json").read_text())),
        "rows": [rows.index.tolist(), rows.predict.tolist(), rows.radius.tolist(), columns],
        "metrics": [line.split(",")[0] for line in (run / "metrics.csv").read_text().splitlines()],
        "trials": [timeless(json.loads(path.read_text())) for path in trials],
    }


def timeless(value: Any) -> Any:
    """The value without the keys that hold times."""
    if isinstance(value, dict):
        return {key: timeless(inner) for key, inner in value.items() if key not in TIMES and key != "stages"}
    return [timeless(inner) for inner in value] if isinstance(value, list) else value


def main() -> int:
    """Kill, compare, say what differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="in all (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--devices", type=int, default=1, help="processes of the training (default: 1)")
    arguments = parser.parse_args()
    if arguments.devices > 1:
        COMMANDS["train"] += ["trainer=ddp", "trainer.accelerator=cpu", f"trainer.devices={arguments.devices}"]
    draw, killed, failed = random.Random(arguments.seed), 0, False
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "whole"
        whole.mkdir()
        took = undisturbed(whole)
        print("undisturbed:", ", ".join(f"{name} {seconds:.1f} s" for name, seconds in took.items()), flush=True)
        expected, number = outcome(whole), 0
        while killed < arguments.kills:
            number += 1
            folder = Path(place) / f"round_{number}"
            folder.mkdir()
            share = -(-(arguments.kills - killed) // len(COMMANDS))
            counts = {n: disturbed(folder, n, min(share, 8), 0.7 * seconds, draw) for n, seconds in took.items()}
            killed += sum(counts.values())
            found = outcome(folder)
            leftovers = [str(path.relative_to(folder)) for path in (folder / "runs").rglob("*.tmp")]
            different = [key for key in expected if repr(expected[key]) != repr(found[key])]  # NaN is NaN
            for key in different:
                print(f"DIFFERENT {key}: {str(expected[key])[:300]}\n  {str(found[key])[:300]}")
            kills = ", ".join(f"{name} {count}" for name, count in counts.items())
            print(f"round {number}: killed {kills}; half-written: {leftovers or 'nothing'}; ", end="")
            print(f"different: {different or 'nothing'}", flush=True)
            failed |= bool(different)
    print(f"{killed} kills; {'FAILED' if failed else 'the same results each time'}")
    return int(failed)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    raise SystemExit(main())
