"""Whether the defaults learn: each method with defaults alone against the setting that a study chooses on validation.

    uv run python experiments/certtrain/defaults/compare.py --runs runs/defaults

The study sees the training part alone (a fifth of it validates); both settings are then trained with the same seeds and
certified on the same test images. What is there already is not done again: with more seeds the setting that was chosen
stays. Writes results.json beside this file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from certtrain.runs.environment import describe
from certtrain.system.files import write_json_atomic

RESULTS = Path(__file__).with_name("results.json")
CASES = {  # by name: what is written on the command line; everything else is a default
    "digits mlp, IBP": ["model=mlp", "method=ibp"],
    "digits mlp, CROWN-IBP": ["model=mlp", "method=crown_ibp"],
    "digits mlp, Gaussian noise": ["model=mlp", "method=gaussian", "radii=[0,0.25,0.5]"],
    "breast_cancer, IBP": ["data=breast_cancer", "method=ibp"],
    "breast_cancer, CROWN-IBP": ["data=breast_cancer", "method=crown_ibp"],
    "digits, Gaussian noise": ["method=gaussian", "radii=[0,0.25,0.5]"],
    "digits, IBP": ["method=ibp"],
    "digits, CROWN-IBP": ["method=crown_ibp"],
    "digits, CROWN-IBP with loss fusion": ["method=crown_ibp", "method.loss_fusion=true"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/defaults"), help="where the runs go")
    parser.add_argument("--trials", type=int, default=24, help="of each study")
    parser.add_argument("--seeds", type=int, default=3, help="of both settings: 0 to K-1")
    parser.add_argument("--only", action="append", metavar="CASE", help="of the cases (default: all)")
    options = parser.parse_args()
    for case in options.only or CASES:
        written = CASES[case]
        folder = options.runs / "".join(c if c.isalnum() else "_" for c in case)
        others = json.loads(RESULTS.read_text(encoding="utf-8"))["cases"] if RESULTS.exists() else {}
        tuned = others[case]["tuned"] if case in others else None
        if tuned is None:
            search = ["sweep=optuna", f"sweep.n_trials={options.trials}", "val_size=0.2"]
            _train([*written, *search, "validation.every_n_epochs=10", "name=study"], folder)
            tuned = _best(folder / "study")
        seeds = range(options.seeds)
        default = [_test(folder, f"default_{seed}", [*written, f"seed={seed}"]) for seed in seeds]
        chosen = [_test(folder, f"tuned_{seed}", [*written, *tuned, f"seed={seed}"]) for seed in seeds]
        found = {
            "overrides": written,
            "tuned": tuned,
            "quantity": default[0][0],
            "n": default[0][2],
            "default": [value for _, value, _ in default],
            "chosen": [value for _, value, _ in chosen],
        }
        means = [statistics.fmean(found[key]) for key in ("default", "chosen")]
        print(f"{case}: {default[0][0]}: defaults {means[0]:.4f}, tuned {means[1]:.4f}", flush=True)
        settings = {"trials": options.trials, "hardware": describe()["hardware"]}
        write_json_atomic(RESULTS, {**settings, "cases": {**others, case: found}})


def _train(overrides: list[str], folder: Path) -> None:
    command = [sys.executable, "-m", "certtrain", "train", *overrides, f"runs_dir={folder}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr}")


def _best(study: Path) -> list[str]:
    """The overrides of the complete trial with the largest validation metric."""
    trials = json.loads((study / "trials.json").read_text(encoding="utf-8"))["trials"]
    best = max((trial for trial in trials if trial["state"] == "complete"), key=lambda trial: trial["values"][0])
    return [f"{key}={value}" for key, value in best["settings"].items()]


def _test(folder: Path, name: str, overrides: list[str]) -> tuple[str, float, int]:
    """What is compared: the ACR, or the best certified accuracy at eps of the run's certifiers; its value, and n."""
    result = folder / name / "result.json"
    if not result.exists() or not json.loads(result.read_text(encoding="utf-8")).get("test"):
        quick = ["certify_test=true", "falsify.examples=0", "validation.every_n_epochs=60"]
        _train([*overrides, *quick, f"name={name}"], folder)
    entries = json.loads(result.read_text(encoding="utf-8"))["test"].values()
    acr = [(entry["acr"], entry["n"]) for entry in entries if entry.get("acr") is not None]
    if acr:
        return "ACR", *max(acr)
    return "certified@0.1", *max((entry["certified"]["0.1"], entry["n"]) for entry in entries)


if __name__ == "__main__":
    main()
