"""Copies what is small of finished runs: `python experiments/collect.py experiments/PAPER RUN [RUN ...]`.

To `PAPER/results/<name of the run>`, where `certtrain table experiments/PAPER` finds it.

Result, configuration, environment, metrics, figures, `flips`, cards and certificate logs (gzip when over 200 kB); no
checkpoints. `data_dir`, which only says where somebody's data lay, is replaced by its default. That changes the
configuration's hash: cards and environment then hold that of the file beside them, and that of the run as
`original_config_sha256`.
"""

from __future__ import annotations

import gzip
import re
import shutil
import sys
from pathlib import Path

from certtrain.runs.directory import RunDirectory, config_hash

FILES = ("result.json", "config.yaml", "overrides.yaml", "environment.json", "metrics.csv")  # and earlier config.N.yaml
LARGE = 200_000


def collect(run: Path, folder: Path) -> Path:
    """Copy one run to `folder/results/<name of the run>`."""
    target = folder / "results" / run.name
    (target / "certificates").mkdir(parents=True, exist_ok=True)
    cards = [f"certificates/{card.name}" for card in (run / "certificates").glob("*.json")]
    for name in (*FILES, *(path.name for path in RunDirectory(run).earlier_configs), *cards):
        text = (run / name).read_text(encoding="utf-8")
        text = re.sub(r"data_dir: [\w./~-]+", "data_dir: data", text)
        text = re.sub(r"data_dir=[\w./~-]+", "data_dir=data", text)
        (target / name).write_text(text, encoding="utf-8")
    mend_hashes(RunDirectory(run), RunDirectory(target))
    for path in (*run.glob("*.png"), *run.glob("flips_*.json")):
        shutil.copy(path, target)
    for log in (run / "certificates").glob("*.tsv"):
        if log.stat().st_size > LARGE:
            with gzip.GzipFile(target / "certificates" / f"{log.name}.gz", "wb", mtime=0) as file:
                file.write(log.read_bytes())
        else:
            shutil.copy(log, target / "certificates")
    return target


def mend_hashes(run: RunDirectory, target: RunDirectory) -> None:
    """Where a copied configuration is another than the run's, state its hash, and the old one beside it."""
    for config in (target.config, *target.earlier_configs):
        old, new = config_hash(run.read_config(run.path / config.name)), config_hash(target.read_config(config))
        if old == new:
            continue
        for path in (target.environment, *target.certificates.glob("*.json")):
            line = f'"config_sha256": "{old}"'
            text = path.read_text(encoding="utf-8")
            mended = text.replace(line, f'"config_sha256": "{new}",\n  "original_config_sha256": "{old}"')
            path.write_text(mended, encoding="utf-8")


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    for run in map(Path, sys.argv[2:]):
        print(collect(run, Path(sys.argv[1])))


if __name__ == "__main__":
    main()
