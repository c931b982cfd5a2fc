"""Whether each row of a smoothing log follows from its own votes, under the settings that the card states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certtrain.certificates import ABSTAIN, INVALID, Certificates
from certtrain.certificates.findings import Audit, rows_text
from certtrain.certificates.rederive import UNNAMED
from certtrain.certifiers.claims import EACH, abstention_rule, shared_budget, smoothing_claim
from certtrain.claim import Radii, claim_of
from certtrain.errors import UserError
from certtrain.radii import parse_radii, radius_text
from certtrain.smoothing.anytime import StageSchedule
from certtrain.smoothing.distribution import Noise

# Between versions of SciPy quantiles differ by some 1e-14: relative, and absolute for radii next to 0.
TOLERANCE, NEAR_ZERO = 1e-9, 1e-12
COMPUTED = 1e-6  # of a sum of many such
NEEDED = ("n0", "n", "count_top", "count_runner_up", "classes", "p_lower", "status")


def audit_smoothing_rows(
    audit: Audit, rows: Certificates, card: Mapping[str, Any], radii_are: Radii, kind: type[Noise]
) -> None:
    """Check the claim, and every row: its counts, its radius, bound and abstention from them, its class and status.

    Args:
        audit: takes the findings.
        rows: of the log.
        card: its settings hold sigma, n0, n, alpha, two_sided, budget, and for stages the schedule.
        radii_are: of the certifier that made it.
        kind: its noise.
    """
    settings = card["settings"]
    _audit_claim(audit, card, settings, radii_are, kind)
    missing = [name for name in NEEDED if name not in rows.columns]
    if missing:
        audit.differs(f"the log has no column {', '.join(missing)}")
        return
    try:
        alpha = alpha_of_each(audit, settings, len(rows))
        _common(audit, rows, settings)
        if radii_are == "targets":
            schedule = StageSchedule.from_dict(settings["schedule"])
            audit.compare("alpha of the schedule", schedule.alpha, alpha, tolerance=TOLERANCE)
            audit.compare("sigma of the schedule", schedule.sigma, settings["sigma"])
            audit.compare("draws of the schedule", schedule.draws[-1], settings["n"])
            stated = settings["schedule"].get("crossing_probability")
            audit.compare("crossing probabilities", stated, schedule.crossing, tolerance=COMPUTED)
            worst = max(schedule.crossing)
            audit.same(f"the schedule's chance of a false claim, {worst:.3g}, is at most its alpha, {schedule.alpha:g}")
            audit_staged_rows(audit, rows, schedule)
        else:
            _fixed(audit, rows, settings, alpha, kind.from_settings(settings))
    except (KeyError, TypeError, ValueError) as error:
        audit.differs(f"the rows cannot be derived from the card's settings: {type(error).__name__}: {error}")


def _audit_claim(
    audit: Audit, card: Mapping[str, Any], settings: Mapping[str, Any], radii_are: Radii, kind: type[Noise]
) -> None:
    """The claim is that of the settings, and what they say of the draws agrees with itself."""
    staged = radii_are == "targets"
    audit.compare("certifier of the settings", card["certifier"], "anytime" if staged else kind.name)
    if (staged or "schedule" in settings) and staged != isinstance(settings.get("schedule"), dict):
        audit.differs(f"settings: a schedule is for targets, and the radii are {radii_are}")
    budget = "dataset" if "alpha_each" in settings else "example"
    try:
        noise = kind.from_settings(dict(settings))
        expected = smoothing_claim(noise, settings["alpha"], budget, radii_are).to_dict()
    except (KeyError, TypeError, ValueError, UserError) as error:
        audit.differs(f"no claim follows from the settings: {type(error).__name__}: {error}")
        return
    audit.compare("claim", claim_of(card).to_dict(), expected)
    rule = abstention_rule(staged=staged, two_sided=bool(settings["two_sided"]))
    audit.compare("abstention rule", settings["abstain"], rule)
    purposes = settings["purposes"]
    audit.expect(
        len(set(purposes)) == len(purposes),
        "selection and estimation are two streams of noise",
        f"selection and estimation from one stream of noise: {purposes}",
    )
    audit.compare("split of the noise", settings["noise_split"], card["split"])
    if staged and isinstance(settings.get("schedule"), dict):
        targets = [radius_text(radius) for radius in parse_radii([0, *card["radii"]])]
        audit.compare("targets of the schedule", settings["schedule"].get("targets"), targets)


def budget_examples(budget: str) -> int | None:
    """How many examples share alpha by the card's words; None: none do."""
    numbers = [int(word) for word in budget.split() if word.isdigit()]
    return numbers[0] if len(numbers) == 1 and budget == shared_budget(numbers[0]) else None


def alpha_of_each(audit: Audit, settings: dict[str, Any], examples: int) -> float:
    """The alpha of one certificate; a data-set budget is shared equally (Bonferroni)."""
    budget = str(settings["budget"])
    stated = budget_examples(budget)
    if stated is None:
        audit.expect(budget == EACH and "alpha_each" not in settings, f"budget: {EACH}", f"budget {budget!r}?")
        return float(settings["alpha"])
    # A log that was derived says how many share it, which may be more than it holds.
    audit.compare("examples that share alpha", stated, settings.get("budget_examples", examples))
    audit.expect(examples <= stated, "no more rows than share alpha", f"{examples:,} rows share alpha by {stated:,}")
    each = settings["alpha"] / stated
    audit.compare(f"alpha for each of {stated:,} examples", settings["alpha_each"], each, tolerance=TOLERANCE)
    return float(settings["alpha_each"])


def audit_staged_rows(audit: Audit, rows: Certificates, schedule: StageSchedule) -> None:
    """Replay each row's votes, look by look, under the schedule, and compare what they decide with what it claims."""
    names = [name for name in ("stage", "stage_counts") if name not in rows.columns]
    if names:
        audit.differs(f"the log has no column {', '.join(names)}")
        return
    targets, levels = [float(target) for target in schedule.targets], schedule.levels
    wrong: dict[str, list[int]] = {}

    def expect(holds: bool, what: str, index: int) -> None:
        if not holds:
            wrong.setdefault(what, []).append(index)

    for i, index in enumerate(rows.index.tolist()):
        broken = rows.columns["status"][i] == INVALID
        try:
            counts = schedule.read_counts(str(rows.columns["stage_counts"][i]))
            replay = schedule.replay(counts)
        except ValueError as error:
            wrong.setdefault(f"votes that the schedule does not give ({error})", []).append(index)
            continue
        claimed = -1 if broken else replay.claimed
        abstains = rows.predict[i] == ABSTAIN
        expect(abstains == (claimed < 0), "abstention", index)
        expect(rows.radius[i] == (targets[claimed] if claimed >= 0 else 0.0), "radius", index)
        expect(int(rows.columns["stage"][i]) == (replay.stage if claimed >= 0 else 0), "stage", index)
        expect(replay.finished or broken, "end of the looks", index)
        expect(int(rows.columns["n"][i]) == (schedule.draws[len(counts) - 1] if counts else 0), "n", index)
        expect(int(rows.columns["count_top"][i]) == (counts[-1] if counts else 0), "count_top", index)
        level = levels[claimed] if claimed >= 0 else 0.0
        expect(bool(np.isclose(rows.columns["p_lower"][i], level, rtol=TOLERANCE, atol=0.0)), "p_lower", index)
    for what, indices in wrong.items():
        audit.differs(f"{what} is not what the votes give under the schedule: {rows_text(indices)}")
    if not wrong:
        audit.same(f"radius, stage and abstention of {len(rows):,} rows, replayed look by look")


def _common(audit: Audit, rows: Certificates, settings: dict[str, Any]) -> None:
    """What holds for any number of looks."""
    columns = rows.columns
    abstains, status = rows.predict == ABSTAIN, columns["status"]
    said = np.where(abstains, np.where(np.isin(status, (INVALID, UNNAMED)), status, "abstained"), "certified")
    outside = ~abstains & ((rows.predict < 0) | (rows.predict >= columns["classes"]))
    votes = columns["count_top"] + columns["count_runner_up"]
    counts = (columns["count_top"] < 0) | (columns["count_runner_up"] < 0) | (votes > columns["n"])
    checks = {
        "correct is predict = label": rows.correct != (rows.predict == rows.label),
        "status fits predict": status != said,
        "predict is a class": outside,
        "the counts fit n": counts,
        "n0 is the card's": columns["n0"] != settings["n0"],
    }
    if "top" in columns:
        checks["predict is the selected class"] = ~abstains & (rows.predict != columns["top"])
    _record(audit, rows, checks)


def _fixed(audit: Audit, rows: Certificates, settings: dict[str, Any], alpha: float, noise: Noise) -> None:
    columns = rows.columns
    if settings["two_sided"]:
        classes = int(columns["classes"].max())
        found = noise.two_sided(columns["count_top"], columns["count_runner_up"], classes, columns["n"], alpha)
    else:
        found = noise.one_sided(columns["count_top"], columns["n"], alpha)
    unnamed = columns["status"] == UNNAMED
    abstain = found.abstain | unnamed | (columns["status"] == INVALID)
    if unnamed.any():
        audit.warn(f"{int(unnamed.sum()):,} rows abstain only because the log does not name their class")
    radius = np.where(abstain, 0.0, found.radius)
    checks = {
        "n is the card's": columns["n"] != settings["n"],
        "the abstention follows from the counts": (rows.predict == ABSTAIN) != abstain,
        "the radius follows from the counts": ~np.isclose(rows.radius, radius, rtol=TOLERANCE, atol=NEAR_ZERO),
        "p_lower follows from the counts": ~np.isclose(columns["p_lower"], found.p_lower, rtol=TOLERANCE, atol=0.0),
    }
    _record(audit, rows, checks)


def _record(audit: Audit, rows: Certificates, checks: dict[str, NDArray[np.bool_]]) -> None:
    for what, wrong in checks.items():
        here = f"{int(wrong.sum()):,} of {len(rows):,} rows where not: {rows_text(rows.index[wrong])}"
        audit.expect(not wrong.any(), f"{what}, in {len(rows):,} rows", f"{what}? {here}")
