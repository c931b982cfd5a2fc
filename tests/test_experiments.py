"""The committed results: the README shows what they give, and the logs give the results again."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from certtrain.certificates import CertificateLog
from certtrain.metrics import summarise
from certtrain.threat import parse_radii

ROOT = Path(__file__).resolve().parents[1]
RESULTS = sorted((ROOT / "experiments").glob("*/*/result.json"))


def test_the_readme_shows_what_the_results_give():
    done = subprocess.run(
        [sys.executable, str(ROOT / "experiments" / "summary.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.parent.name)
def test_every_committed_log_gives_its_result_again(path, tmp_path):
    result = json.loads(path.read_text(encoding="utf-8"))
    assert result["status"] == "complete"
    assert result["test"]
    for name, entry in result["test"].items():
        folder = path.parent / "certificates"
        log = folder / f"{name}.tsv"
        if not log.exists():
            unpacked = tmp_path / log.name
            unpacked.write_bytes(gzip.decompress((folder / f"{name}.tsv.gz").read_bytes()))
            log = unpacked
        again = summarise(CertificateLog(log).read(), parse_radii(entry["certified"]), entry["norm"])
        assert {key: entry[key] for key in again} == again
        card = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        assert card["status"] == "complete"
        assert card["summary"]["certified"] == entry["certified"]
