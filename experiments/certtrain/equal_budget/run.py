"""Ten methods of bound training with one budget: the 0.17-million-parameter network on MNIST, 70 epochs, one seed.

    uv run python experiments/certtrain/equal_budget/run.py --runs runs/equal_budget

Trains what is not trained yet, the cheap ones first, each in a run directory of its own that is resumed where it was
stopped. Settings are CTBench's for MNIST, which it chose on the test set for CNN7, with one restart of the attack
instead of three.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

COMMON = [
    "data=mnist",
    "model=wong_small",
    "data.batch_size=256",
    "val_size=0",
    "validation.every_n_epochs=10",
    "seed=0",
    "schedule.epochs=70",
    "schedule.warmup=0",
    "schedule.ramp=20",
    "schedule.shape=smoothed",
    "schedule.lr.kind=milestones",
    "schedule.lr.milestones=[50,60]",
    "schedule.lr.gamma=0.2",
    "optimizer.lr=5e-4",
    "trainer.gradient_clip_val=10",
    "checkpoint.use=last",
    "checkpoint.every_n_seconds=300",
]
SHI = ["method.init=ibp", "method.regulariser=0.5"]
EPS = {
    "0.1": ["eps=0.1", "train_eps=0.2", "radii=[0.05,0.1]"],
    "0.3": ["eps=0.3", "train_eps=0.3", "radii=[0.1,0.2,0.3]"],
}


def robust(weight: float) -> list[str]:
    """The weight w of the robust loss, constant: kappa = 1 - w."""
    return [f"method.kappa.start={1 - weight:g}", f"method.kappa.end={1 - weight:g}"]


def attack(steps: int) -> list[str]:
    """CTBench's steps: max(0.25, 2/T) half-widths, no decay."""
    length = max(0.25, 2 / steps)
    return [f"method.attack.steps={steps}", f"method.attack.step_size={length:g}", "method.attack.milestones=[]"]


def latent(weight: float, steps: int) -> list[str]:
    """TAPS before the first linear layer: the second part is linear, ReLU, linear."""
    return [f"method.weight={weight:g}", f"method.latent_attack.steps={steps}", "method.split=0.5"]


def mixed(method: str, alpha: float, l1: str, steps: int, weight: float) -> list[str]:
    return [f"method={method}", f"method.alpha={alpha:g}", f"method.l1={l1}", *robust(weight), *attack(steps), *SHI]


# By radius and name, in the order of their cost.
RUNS: dict[str, dict[str, list[str]]] = {
    "0.1": {
        "ibp": ["method=ibp", "method.l1=2e-6", *robust(0.7), "method.regulariser=0"],
        "shi": ["method=ibp", "method.l1=2e-6", *robust(0.7), *SHI],
        "mtl_ibp": mixed("mtl_ibp", 0.02, "1e-5", 10, 0.7),
        "crown_ibp": ["method=crown_ibp", "method.loss_fusion=true", "method.l1=5e-6", *robust(0.7), *SHI],
        "sabr": ["method=sabr", "method.share=0.4", "method.l1=1e-6", *robust(0.7), *attack(10), *SHI],
        "pgd": ["method=pgd", "method.l1=1e-5", *robust(1.0), *attack(10)],
        "taps": ["method=taps", "method.l1=2e-6", *latent(4, 10), *robust(0.7), *SHI],
        "cc_ibp": mixed("cc_ibp", 0.02, "1e-5", 10, 0.7),
        "exp_ibp": mixed("exp_ibp", 0.02, "1e-5", 10, 0.7),
        "staps": ["method=staps", "method.share=0.4", "method.l1=5e-6", *latent(4, 10), *robust(0.7), *attack(8), *SHI],
    },
    "0.3": {
        "ibp": ["method=ibp", "method.l1=2e-6", *robust(0.7), "method.regulariser=0"],
        "shi": ["method=ibp", "method.l1=2e-6", *robust(0.7), *SHI],
        "mtl_ibp": mixed("mtl_ibp", 0.5, "1e-6", 1, 1.0),
        "cc_ibp": mixed("cc_ibp", 0.5, "1e-6", 1, 1.0),
        "exp_ibp": mixed("exp_ibp", 0.5, "1e-6", 1, 1.0),
        "crown_ibp": ["method=crown_ibp", "method.loss_fusion=true", "method.l1=1e-6", *robust(0.7), *SHI],
        "sabr": ["method=sabr", "method.share=0.9", "method.l1=2e-6", *robust(1.0), *attack(5), *SHI],
        "pgd": ["method=pgd", "method.l1=5e-6", *robust(1.0), *attack(5)],
        "taps": ["method=taps", "method.l1=0", *latent(4, 5), "train_eps=0.4", *robust(1.0), *SHI],
        "staps": ["method=staps", "method.share=0.6", "method.l1=1e-5", *latent(4, 10), *robust(1.0), *attack(8), *SHI],
    },
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/equal_budget"), help="where the runs go")
    parser.add_argument("--eps", choices=tuple(RUNS), action="append", help="default: both")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="where MNIST is")
    parser.add_argument("--only", action="append", metavar="METHOD", help="of the methods (default: all)")
    options = parser.parse_args()
    for eps in options.eps or RUNS:
        for name, overrides in RUNS[eps].items():
            if options.only and name not in options.only:
                continue
            run = f"mnist_{eps}_{name}"
            if (options.runs / run / "result.json").exists():
                continue
            words = [
                *COMMON,
                *EPS[eps],
                *overrides,
                f"name={run}",
                f"runs_dir={options.runs}",
                f"data_dir={options.data_dir}",
            ]
            print(f"{run}: certtrain train {' '.join(words)}", flush=True)
            subprocess.run([sys.executable, "-m", "certtrain", "train", *words], check=True)


if __name__ == "__main__":
    main()
