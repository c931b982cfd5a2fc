"""Certificates and runs for the tests of the page, made by hand."""

import json

import numpy as np
from claims import LINF, SMOOTHED

from certtrain.certificates import CertificateLog, Certificates, write_card
from certtrain.certificates.card_check import indices_sha256
from certtrain.certificates.falsification import Counterexample, Falsification, write_counterexamples
from certtrain.certificates.summary import summarise
from certtrain.radii import parse_radii
from certtrain.reporting.page.evidence import Certified
from certtrain.reporting.page.rendering import environment

RADII = ("0.1", "2/255")


def html(macro, shown):
    """What a macro of the templates makes of a value."""
    text = f'{{% from "macros.html" import {macro} %}}{{{{ {macro}(shown) }}}}'
    return environment().from_string(text).render(shown=shown)


def bound_rows(n=12, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    label = np.arange(n) % classes
    predict = np.where(rng.random(n) < 0.2, (label + 1) % classes, label)
    grid = sorted(float(r) for r in parse_radii(RADII))
    radius = np.where(predict == label, rng.choice([0.0, *grid], n), 0.0)
    columns = {"margin": np.where(radius > 0, rng.random(n), np.nan), "decided_by": ["ibp"] * n}
    for name, at in zip(("2/255", "0.1"), grid):
        status = np.where(radius >= at, "verified", np.where(rng.random(n) < 0.5, "falsified", "unknown"))
        columns[f"status@{name}"] = np.where(predict == label, status, "misclassified")
    return Certificates(np.arange(n), label, predict, radius, predict == label, np.full(n, 0.5), columns)


def vote_rows(n=12, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    label = np.arange(n) % classes
    predict = np.where(rng.random(n) < 0.3, (label + 1) % classes, label)
    predict[1] = -1
    radius = np.where(predict == -1, 0.0, rng.random(n))
    return Certificates(np.arange(n), label, predict, radius, predict == label, np.full(n, 0.5), {"count_top": [9] * n})


def card_of(rows, name, **more):
    votes = "count_top" in rows.columns
    claim = SMOOTHED if votes else LINF
    radii = ["0.1", "0.5"] if votes else ["2/255", "0.1"]
    settings = {"sigma": 0.5, "n": 100, "alpha": 0.001} if votes else {"precision": "float64"}
    entry = summarise(rows, parse_radii(radii), claim) | {"certifier": name, "settings": settings, "seconds": 6.0}
    card = {
        "certifier": name,
        "claim": claim.to_dict(),
        "radii": radii,
        "settings": settings,
        "dataset": "toy",
        "split": "test",
    }
    card |= {"status": "complete", "n": len(rows), "warnings": [], "summary": entry}
    card["indices_sha256"] = indices_sha256(rows.index.tolist())
    return card | more


def certificate(rows, name="ibp", **more):
    card = card_of(rows, name, **more)
    return Certified(name, card, rows, card.get("summary"))


def write_run(folder, certificates, *, status="complete", config=None, metrics=None, name="run"):
    """A run directory with (rows, card) by name, as evidence of a training."""
    run = folder / name
    (run / "certificates").mkdir(parents=True)
    (run / "config.yaml").write_text(json.dumps(config or {"eps": 0.1, "method": {"kappa": 1}}))
    (run / "overrides.yaml").write_text('["eps=0.1"]')
    (run / "environment.json").write_text(json.dumps({"git": {"dirty": True}, "packages": {"torch": "1"}}))
    if metrics is not None:
        (run / "metrics.csv").write_text(metrics)
    test = {}
    for key, (rows, card) in certificates.items():
        log = CertificateLog(run / "certificates" / f"{key}.tsv")
        log.append(rows)
        write_card(run / "certificates" / f"{key}.json", {"log_sha256": log.sha256(), **card})
        if "summary" in card:
            test[key] = card["summary"]
    result = {"schema": 1, "status": status, "method": "m", "data": "toy", "model": "net", "seed": 0, "test": test}
    (run / "result.json").write_text(json.dumps(result))
    return run


def write_found(run, name, x, index, *, label=0, predict=1, radius=0.1):
    found = [Counterexample(i, label, predict, radius, radius, -1.0, x[k]) for k, i in enumerate(index)]
    write_counterexamples(run / "certificates" / f"{name}.counterexamples", Falsification(9, tuple(found), 0, {}))
