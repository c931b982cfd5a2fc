"""Audits a card: hashes, rows, summary and result, each recomputed from the files that are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from certtrain.audit.statements import audit_counterexamples, audit_rule
from certtrain.certificates import CertificateLog, Certificates, read_card
from certtrain.certificates.card_check import OTHER, about_other_data, indices_sha256, result_entry
from certtrain.certificates.findings import Audit, equal
from certtrain.certificates.summary import GUESSING, attacked_summary, cascade_summary, summarise
from certtrain.certifiers.named import certifier_class
from certtrain.claim import claim_of
from certtrain.errors import UserError, command_line
from certtrain.radii import parse_radii
from certtrain.runs.directory import RunDirectory, config_differences, config_hash, sha256_file
from certtrain.runs.session_keys import SAME_WEIGHTS

# Relative, of what is summed in floating point: the order of addition may differ. All else is exact.
TOLERANCE, SUMMED = 1e-9, ("stages", "largest_eps", "mean_draws")
IDENTITY = ("certifier", "claim", "radii", "settings", "indices_sha256", "checkpoint_sha256", "n", "summary")
COPIED = ("certifier", "settings", "indices_sha256")  # of the card, which its summary repeats


def audit_card(path: str | Path) -> Audit:
    """Recompute all that a card states and its surroundings can show; the files stay as they are.

    Hashes: the log's, the checkpoint's and the configuration's where the run has them, the index list's from the log's
    rows. Rows: `smoothing_rows`, `bound_rows`. Words: `statements`. Summary:
    from the rows, as it was made. Result: `result.json` of the run, when it has an entry of the card's name.

    Raises:
        UserError: there is no card at path, or it is not one.
    """
    path = Path(path)
    card = read_card(path)
    missing = [key for key in ("certifier", "claim", "radii", "settings") if key not in card]
    if missing:
        raise UserError(f"{path} is not a card: it has no {', '.join(missing)}", where="certificate card")
    audit = Audit(str(path))
    audit.expect(
        card.get("status") == "complete",
        "status: complete",
        f"status {card.get('status')!r}: the certificate was never completed",
    )
    for key in (key for key in IDENTITY if key not in card):
        audit.differs(f"the card has no {key}")
    _audit_checkpoint(audit, path, card)
    _audit_config(audit, path, card)
    rows = _read_rows(audit, path, card)
    if rows is not None:
        _audit_rows(audit, path, rows, card)
    _audit_result(audit, path, card)
    _audit_falsification(audit, card)
    audit_counterexamples(audit, path, card)
    return audit


def cards_of(folder: str | Path) -> list[Path]:
    """The cards of a run directory, by name.

    Raises:
        UserError: the folder is no run, or has no card.
    """
    folder = Path(folder)
    found = [card for card in folder.glob("certificates/*.json") if ".counterexamples" not in card.name]
    if not found:
        raise UserError(
            f"{folder} has no certificates/*.json",
            where="run directory",
            fix="certify it first: " + command_line("certtrain", "certify", f"run={folder}"),
        )
    return sorted(found)


def log_of(card: Path) -> Path | None:
    """The log beside a card, packed or not."""
    logs = (card.with_suffix(".tsv"), card.with_suffix(".tsv.gz"))
    return next((log for log in logs if log.exists()), None)


def card_of(log: Path) -> Path:
    """Where the card of a log would lie."""
    return log.with_name(log.name.removesuffix(".gz").removesuffix(".tsv") + ".json")


def _run_of(path: Path) -> RunDirectory | None:
    """The run that a card lies in, `RUN/certificates/NAME.json`."""
    run = RunDirectory(path.resolve().parent.parent)
    return run if path.resolve().parent.name == "certificates" and run.config.exists() else None


def _audit_checkpoint(audit: Audit, path: Path, card: dict[str, Any]) -> None:
    name = str(card.get("checkpoint", "last.ckpt"))
    file = path.resolve().parent.parent / "checkpoints" / Path(name).name
    if not file.exists():
        audit.unchecked(f"checkpoint_sha256: there is no checkpoints/{file.name} in the run")
        return
    found = sha256_file(file)
    audit.compare(f"checkpoint_sha256 of {file.name}", card.get("checkpoint_sha256"), found)
    run = _run_of(path)
    try:
        stated = run.stated_hash(file.name) if run else None
    except UserError:  # which the audit of the result says
        return
    if stated is not None:
        audit.compare(f"result.json: checkpoints_sha256 of {file.name}", stated, found)
    elif run is not None:
        audit.unchecked(f"result.json: it keeps no hash of {file.name} (an unfinished run)")


def _audit_config(audit: Audit, path: Path, card: dict[str, Any]) -> None:
    run = _run_of(path)
    if run is None:
        audit.unchecked("config_sha256: there is no config.yaml of the run")
        return
    stated = card.get("config_sha256")
    try:
        config = run.read_config()
        found, earlier = config_hash(config), {}
        if found != stated:
            earlier = {path.name: run.read_config(path) for path in run.earlier_configs}
    except UserError as error:
        audit.differs(f"config_sha256: {error.what}")
        return
    name = next((name for name, old in earlier.items() if config_hash(old) == stated), None)
    changed = [key for key, *_ in config_differences(earlier[name], config, SAME_WEIGHTS)] if name else []
    if changed:  # going on with a run does not change such a key, or sets its certificates aside
        audit.differs(f"config_sha256: it is of {name}, and config.yaml has another {', '.join(changed)}")
    elif name:
        audit.same(f"config_sha256 of {name}, which config.yaml was before the run was gone on with")
    else:
        audit.compare("config_sha256 of config.yaml", stated, found)
    if "original_config_sha256" in card:
        audit.unchecked("original_config_sha256: when the run was collected, a path in config.yaml was replaced")


def _read_rows(audit: Audit, path: Path, card: dict[str, Any]) -> Certificates | None:
    log = log_of(path)
    if log is None:
        audit.differs(f"there is no log {path.with_suffix('.tsv').name} beside the card")
        return None
    try:
        reader = CertificateLog(log, read_only=True)
        audit.compare(f"log_sha256 of {log.name}", card.get("log_sha256"), reader.sha256())
        if reader.torn():
            audit.differs(f"the last line of {log.name} is broken")
        return reader.read().sorted()
    except UserError as error:
        audit.differs(error.what)
        return None


def _audit_rows(audit: Audit, path: Path, rows: Certificates, card: dict[str, Any]) -> None:
    if not len(rows):
        audit.differs("the log has no row")
        return
    audit.compare("indices_sha256 of the log's rows", card.get("indices_sha256"), indices_sha256(rows.index.tolist()))
    audit.compare("n", card.get("n"), len(rows))
    if "indices" in card:
        audit_rule(audit, rows.index.tolist(), str(card["indices"]))
    made_by = card.get("made_by")
    if (certifier := certifier_class(made_by, ours=True)) is None:
        # What a certifier of somebody else puts into its further columns and settings only that one knows.
        audit.unchecked(f"radii and settings: {made_by} is not a certifier of certtrain; its rows are only added up")
    else:
        try:
            certifier.verify_rows(audit, rows, card)
        except (AttributeError, KeyError, TypeError, ValueError, UserError) as error:
            audit.differs(f"the rows cannot be checked by the card: {type(error).__name__}: {error}")
    stated = card.get("summary")
    if not isinstance(stated, dict):
        return
    try:
        found = summarise(rows, parse_radii(card["radii"]), claim_of(card, path))
        found |= attacked_summary(rows, parse_radii(card["radii"])) if "pgd" in stated else {}
        found |= cascade_summary(rows, parse_radii(card["radii"]))
    except (KeyError, TypeError, ValueError, UserError) as error:
        audit.differs(f"no summary follows from the rows: {type(error).__name__}: {error}")
        return
    found |= {key: card.get(key) for key in COPIED}
    found.setdefault(GUESSING, None)  # that it is no better than a guess may be neither left out nor made up
    for key, value in found.items():
        audit.compare(f"summary: {key}", stated.get(key), value, tolerance=TOLERANCE if key in SUMMED else 0.0)
    seconds = float(rows.seconds.sum())
    for where, value in (("summary", stated.get("seconds")), ("card", card.get("seconds"))):
        audit.compare(f"{where}: seconds", value, seconds, tolerance=TOLERANCE)
    further = [key for key in stated if key not in (*found, "seconds", "falsification", "falsified")]
    if further:
        audit.unchecked(f"summary: {', '.join(further)}: not recomputed from rows")


def _audit_result(audit: Audit, path: Path, card: dict[str, Any]) -> None:
    run = _run_of(path)
    try:
        result = run.read_result() if run else None
    except UserError as error:
        audit.differs(error.what)
        return
    entry = result_entry(result, card, path.stem)
    if not isinstance(entry, dict):
        of = f", which knows the split {card['split']}" if card.get("split") not in (None, "test") else ""
        audit.unchecked(f"result.json: there is none beside, or no entry {path.stem!r}{of}")
        return
    stated = card.get("summary") or {}
    for key in dict.fromkeys([*stated, *entry]):
        if not equal(entry.get(key), stated.get(key)):
            audit.differs(f"result.json: {key}: {entry.get(key)!r} there, {stated.get(key)!r} in the card")
            return
    section = f"{OTHER}.{card['dataset']}" if about_other_data(card) else "test"
    audit.same(f"result.json: {section}.{path.stem} is the card's summary")


def _audit_falsification(audit: Audit, card: dict[str, Any]) -> None:
    record = card.get("falsification")
    if not isinstance(record, dict):
        return
    if record.get("failed"):
        audit.differs(f"an attack broke {record.get('hits')} of {record.get('attacked')} certificates")
    else:
        audit.same(f"the standing attack on {record.get('attacked')} certificates did not refute them")
