"""Logs as the field's code writes them, of certificates that are simulated: what an audit must find is known."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from certtrain.smoothing.confidence import radius_one_sided

HEADER = ("idx", "label", "predict", "radius", "correct", "time")


@dataclass
class Simulated:
    """Columns to be changed before they are written."""

    index: np.ndarray
    label: np.ndarray
    predict: np.ndarray
    radius: np.ndarray
    correct: list
    time: list

    def write(self, path: Path, *, form="{:.3}", glue="\t", header=HEADER, further=()) -> Path:
        lines = [glue.join([*header, *(name for name, _ in further)])]
        for i in range(len(self.index)):
            radius = form.format(float(self.radius[i]))
            cells = [self.index[i], self.label[i], self.predict[i], radius, self.correct[i], self.time[i]]
            lines.append(glue.join(map(str, [*cells, *(values[i] for _, values in further)])))
        path.write_text("\n".join(lines) + "\n")
        return path


def simulate(n=100_000, alpha=0.001, sigma=0.5, rows=500, skip=20, seed=0, shape=(6.0, 0.6)) -> Simulated:
    """CERTIFY with n draws of classes whose probabilities are Beta(shape): some reach the cap, some abstain."""
    rng = np.random.default_rng(seed)
    count = rng.binomial(n, rng.beta(*shape, size=rows))
    found = radius_one_sided(count, n, alpha, sigma)
    top, label = rng.integers(0, 10, rows), rng.integers(0, 10, rows)
    label = np.where(rng.random(rows) < 0.9, top, label)
    predict = np.where(found.abstain, -1, top)
    time = [f"0:00:{13 + i % 40:02d}.{i:06d}" for i in range(rows)]
    return Simulated(
        np.arange(rows) * skip, label, predict, found.radius, (predict == label).astype(int).tolist(), time
    )
