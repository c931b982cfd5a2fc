"""Whether what a card says about its rows agrees with itself: certifier, norm, budget, claim, rule of the examples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from certtrain.audit.findings import Audit, rows_text
from certtrain.certificates import Certificates
from certtrain.claims import abstention_rule, bounds_claim, scaled_claim, shared_budget, smoothing_claim
from certtrain.errors import UserError
from certtrain.features import features_from_list
from certtrain.scale_request import resolve_scales
from certtrain.scales import Scales
from certtrain.summary import is_smoothing
from certtrain.threat import parse_radii, radius_text


def audit_statements(audit: Audit, rows: Certificates, card: dict[str, Any]) -> None:
    """Check the card's words against its settings and rows; what an old card does not state is passed over."""
    settings = card["settings"]
    if "indices" in card:
        _audit_rule(audit, rows.index.tolist(), str(card["indices"]))
    if is_smoothing(rows):
        _audit_smoothing(audit, card, settings)
        return
    name = "cascade" if "stages" in settings else "+".join(settings.get("methods", ()))
    audit.compare("certifier of the settings", card["certifier"], name)
    if "input_range" in settings:
        audit.compare("norm of the input range", card["norm"], "l2" if settings["input_range"] is None else "linf")
    if "scales" in settings:
        _audit_scales(audit, card, settings["scales"])
    if "claim" in card:
        scaled = scaled_claim(settings)
        audit.compare("claim", card["claim"], bounds_claim(settings.get("precision", "float64"), **scaled))


def _audit_scales(audit: Audit, card: dict[str, Any], stated: Mapping[str, Any]) -> None:
    """The sizes are those that their hash is of, of the network's features, and follow from what was asked for."""
    try:
        scales = Scales.from_dict(stated)
    except (KeyError, TypeError, ValueError, UserError) as error:
        audit.differs(f"scales: no sizes of features: {type(error).__name__}: {error}")
        return
    audit.compare("sha256 of the scales", stated.get("sha256"), scales.sha256)
    audit.compare("norm of scales", card["norm"], "linf")
    listed = card.get("input_contract", {}).get("features")
    if listed is None or "scales_asked" not in card:
        audit.unchecked("scales: the card does not say the features' ranges, or what was asked for")
        return
    try:
        features = features_from_list(listed)
        audit.compare("features of the scales", list(scales.names), [feature.name for feature in features])
        found = resolve_scales(card["scales_asked"], features)
    except (TypeError, UserError) as error:
        audit.differs(f"scales: they do not follow from scales_asked: {error}")
        return
    audit.expect(found == scales, "scales follow from scales_asked", "scales are not those of scales_asked")


def _audit_smoothing(audit: Audit, card: dict[str, Any], settings: dict[str, Any]) -> None:
    schedule = settings.get("schedule")
    audit.compare("certifier of the settings", card["certifier"], "smoothing" if schedule is None else "anytime")
    audit.compare("norm of Gaussian noise", card["norm"], "l2")
    if "claim" in card:
        audit.compare("claim", card["claim"], smoothing_claim(shared="alpha_each" in settings))
    if "abstain" in settings:
        rule = abstention_rule(staged=schedule is not None, two_sided=bool(settings.get("two_sided")))
        audit.compare("abstention rule", settings["abstain"], rule)
    purposes = settings.get("purposes", ())
    audit.expect(
        len(set(purposes)) == len(purposes),
        "selection and estimation are two streams of noise",
        f"selection and estimation from one stream of noise: {purposes}",
    )
    if "noise_split" in settings and "split" in card:
        audit.compare("split of the noise", settings["noise_split"], card["split"])
    if isinstance(schedule, dict):
        targets = [radius_text(radius) for radius in parse_radii([0, *card["radii"]])]
        audit.compare("targets of the schedule", schedule.get("targets"), targets)


def audit_counterexamples(audit: Audit, path: Path, card: dict[str, Any]) -> None:
    """Check that the card owns up to the counterexamples that lie beside it."""
    record = card.get("falsification") or {}
    if {"failed", "hits", "allowed"} <= record.keys() and record["failed"] != (record["hits"] > record["allowed"]):
        audit.differs(f"falsification: failed {record['failed']}, {record['hits']} hits, {record['allowed']} allowed")
    for file in sorted(path.parent.glob(f"{path.stem}.counterexamples*.json")):
        try:
            refuted = json.loads(file.read_text(encoding="utf-8")).get("failed") is not False
        except (OSError, ValueError, AttributeError):
            refuted = True
        if refuted and not record.get("failed"):
            audit.differs(f"{file.name} refutes the certificates, and the card does not say so")


def _audit_rule(audit: Audit, index: Sequence[int], rule: str) -> None:
    """Rows that were left out because they did not suit somebody leave gaps; what is cut off at the end does not."""
    expected = positions(rule, max(index))
    if expected is None:
        audit.unchecked(f"indices: the list {Path(rule).name}, which the card does not hold")
        return
    missing, added = sorted(expected - set(index)), sorted(set(index) - expected)
    wrong = [f"without {rows_text(missing)}"] * bool(missing) + [f"with {rows_text(added)}"] * bool(added)
    audit.expect(not wrong, f"the rows are those of indices={rule}", f"indices={rule}: {', '.join(wrong)}")


def positions(rule: str, last: int) -> set[int] | None:
    """The positions up to the last row's that `all`, `first_500` or `every_20th` name (the first 500 in any case)."""
    word, _, number = rule.partition("_")
    number = number.rstrip("stndrh")
    if rule == "all":
        return set(range(last + 1))
    if number.isdigit() and int(number) > 0 and word in ("first", "every"):
        return set(range(int(number))) if word == "first" else set(range(0, last + 1, int(number)))
    return None


def budget_examples(budget: str) -> int | None:
    """How many examples share alpha by the card's words; None: none do."""
    numbers = [int(word) for word in budget.split() if word.isdigit()]
    return numbers[0] if len(numbers) == 1 and budget == shared_budget(numbers[0]) else None
