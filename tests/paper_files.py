"""Makes folders of published numbers and of results, as small as they can be and still be read."""

import json

import claims
import yaml

from certtrain.certificates.card_check import indices_sha256

ENTRY = {
    "claim": claims.LINF.to_dict(),
    "clean": 0.98,
    "certified": {"0.1": 0.95, "0.3": 0.9},
    "acr_grid": 0.25,
    "n": 10000,
}
ENTRY |= {
    "abstained": 0,
    "invalid": 0,
    "indices_sha256": indices_sha256(range(10000)),
    "certifier": "ibp",
    "settings": {"precision": "float64"},
}
ENTRY |= {"pgd": {"0.1": 0.97, "0.3": 0.93}, "seconds": 36.0}
SMOOTHED = {
    "claim": claims.SMOOTHED.to_dict(),
    "clean": 0.9,
    "certified": {"0.5": 0.8, "1": 0.5},
    "acr": 0.9,
    "n": 4,
    "abstained": 0,
}
SMOOTHED |= {"invalid": 0, "indices_sha256": indices_sha256(range(4)), "certifier": "smoothing", "seconds": 72.0}
SMOOTHED |= {"settings": {"sigma": 0.5, "n0": 100, "n": 1000, "alpha": 0.001, "seed": 0}}

ROWS = {
    "small": {
        "data": "MNIST",
        "network": "two layers",
        "norm": "linf",
        "eps": "0.3",
        "verifier": "ibp",
        "published": {
            "clean": 0.98,
            "certified": {"0.3": 0.91},
            "n": 10000,
            "verifier": "IBP",
            "seeds": 1,
            "source": "a table",
            "provenance": "paper",
        },
        "tolerance": {"clean": 0.005, "certified": 0.02, "reason": "seeds"},
    },
    "large": {"data": "MNIST", "network": "seven layers", "norm": "linf", "eps": "0.3", "verifier": "ibp"},
}


def make_paper(folder, rows=None, **top):
    folder.mkdir(parents=True, exist_ok=True)
    content = {"paper": "A paper", "family": "bounds", "rows": rows or ROWS, **top}
    (folder / "published.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return folder


def make_run(root, experiment, seed=0, test=None, overrides=(), config=None, status="complete", name=None):
    path = root / (name or f"{experiment.replace('/', '_')}-seed{seed}{''.join(overrides)}")
    path.mkdir(parents=True)
    result = {"schema": 1, "status": status, "experiment": experiment, "seed": seed, "seconds": 3600.0}
    result["test"] = {"ibp": ENTRY} if test is None else test
    (path / "result.json").write_text(json.dumps(result), encoding="utf-8")
    given = [f"experiment={experiment}", f"seed={seed}", *overrides]
    (path / "overrides.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
    full = {"seed": seed, "epochs": 5, "optimizer": {"lr": 0.1}, "name": path.name, **(config or {})}
    (path / "config.yaml").write_text(yaml.safe_dump(full), encoding="utf-8")
    environment = {"hardware": {"cpu": "a CPU", "usable_cores": 2, "accelerators": []}}
    (path / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    return path
