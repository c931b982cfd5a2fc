"""Certifies a list of examples of a split: row by row into a log that a killed run continues, and a card beside it."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from certtrain.certificates import CertificateLog, Certificates, read_card, write_card
from certtrain.certificates.card_check import indices_sha256
from certtrain.certificates.parts import Place, collect, cut, done_anywhere, part_log, refuse_other, remove_parts
from certtrain.certificates.summary import attacked_summary, cascade_summary, summarise
from certtrain.certifiers.base import Certifier
from certtrain.data.batch import Batch
from certtrain.data.hashing import inputs_sha256
from certtrain.data.split import Inputs
from certtrain.errors import UserError, command_line
from certtrain.radii import radius_text
from certtrain.system.work import watched


@dataclass(frozen=True)
class Examples:
    """The examples to certify: a split's inputs and classes, and the positions chosen from it."""

    x: Inputs
    y: Tensor
    indices: Tensor
    split: str
    dataset: str

    @property
    def sha256(self) -> str:
        """Hash of the chosen positions, one decimal number per line."""
        return indices_sha256(self.indices.tolist())

    @cached_property
    def inputs_sha256(self) -> str:
        """Hash of the chosen inputs and classes themselves."""
        return inputs_sha256(self.x, self.y, self.indices)


def choose_indices(rule: str, n: int) -> Tensor:
    """Positions that a rule names in a split of n examples.

    Args:
        rule: `all`, `first_500`, `every_20th`, or a file with one position per line.
        n: the size of the split.

    Raises:
        UserError: an unknown rule, more examples than there are, a position outside the split.
    """
    if rule == "all":
        return torch.arange(n)
    if (match := re.fullmatch(r"first_([1-9][0-9]{0,17})", str(rule))) is not None:
        if int(match[1]) > n:
            raise UserError(f"the split has {n} examples, not {match[1]}", where=f"indices={rule}", fix="indices=all")
        return torch.arange(int(match[1]))
    if (match := re.fullmatch(r"every_([1-9][0-9]{0,17})(?:st|nd|rd|th)?", str(rule))) is not None:
        return torch.arange(0, n, int(match[1]))
    path = Path(str(rule))
    if path.is_file():
        return torch.tensor(sorted(read_positions(path, n)))
    raise UserError(
        f"indices={rule!r} is not a rule",
        where="configuration key indices",
        fix="all, first_500, every_20th, or a file",
    )


def read_positions(path: Path, n: int) -> list[int]:
    """The positions in a file, one a line, in its order; a byte order mark before the first is passed over.

    Raises:
        UserError: it holds none, something else, one outside a split of n examples, or one twice.
    """
    where = f"indices={path}"
    try:
        words = path.read_text(encoding="utf-8-sig").split()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as text: {error}", where=where, fix="one position a line") from error
    if not words:
        raise UserError(f"{path} names no position", where=where, fix="one position a line, or indices=all")
    for word in words:
        if re.fullmatch(r"-?[0-9]+", word) is None:
            fix = "one position a line, counted from 0"
            raise UserError(f"{path} holds {word[:40]!r}, which is no position", where=where, fix=fix)
        if word.startswith("-") or len(word.lstrip("0")) > 18 or int(word) >= n:
            raise UserError(f"{path} names {word[:40]}, outside 0..{n - 1}", where=where, fix="check the split")
    chosen = [int(word) for word in words]
    if twice := sorted(position for position, count in Counter(chosen).items() if count > 1):
        shown = ", ".join(map(str, twice[:5]))
        raise UserError(
            f"{path} names {len(twice)} position(s) more than once, such as {shown}: each example counts once",
            where=where,
            fix=command_line("sort", "-un", path, "-o", path),
        )
    return chosen


def certify_examples(
    network: nn.Module,
    certifier: Certifier,
    examples: Examples,
    log_path: Path,
    card: dict[str, Any],
    *,
    batch_size: int,
    device: torch.device,
    progress: Callable[[int, Certificates | None], None] = lambda done, new: None,
    told: Callable[[float, str], None] = lambda done, doing: None,
    stop: Callable[[], None] = lambda: None,
) -> tuple[dict[str, Any], Certificates]:
    """Certify what the log does not hold yet, then summarise all of it.

    Args:
        network: on the device.
        certifier: what proves.
        examples: what to prove.
        log_path: `NAME.tsv`; the card goes to `NAME.json`.
        card: what is known about the run: checkpoint hash, training recipe, versions.
        batch_size: examples between two writes to the log.
        device: where the network is.
        progress: told how many rows there are, and the new ones.
        told: within a batch, how far it is, in rows of all, and what is done.
        stop: called between batches; raises to end the work there. Within a batch `certtrain.system.work.watched` does.

    Returns:
        The entry of `result.json`: claim, clean, certified by radius, ACR, abstained, invalid, n, hash, seconds, where
        it attacked the PGD accuracy by radius, for a cascade its statuses and stages; and all certificates, by index.

    Raises:
        UserError: the log was made with other settings, examples, labels or weights, or changed when it was complete.
    """
    full_card, before, log = begin(certifier, examples, log_path, card)
    done = set(log.done_indices())
    todo = [index for index in examples.indices.tolist() if index not in done]
    if not todo and before and before.get("log_sha256", log.sha256()) != log.sha256():
        raise UserError(
            f"{log_path} was changed since it was complete: its hash is not that of its card",
            where="the certificate log",
            fix="put the log back, or certify again under another name with name=NAME",
        )
    progress(len(done), log.read() if done else None)
    begun = time.perf_counter()
    blocks = cut(examples.indices.tolist(), batch_size)
    _certify_rows(network, certifier, examples, log, blocks, done, device, progress, stop, told)
    seconds = time.perf_counter() - begun
    certificates = log.read().sorted()
    if todo and "parts" in full_card:  # several wrote it: ordered by index, as if one had
        log.replace(certificates)
    entry = summarise(certificates, certifier.radii, certifier.claim())
    if certifier.settings().get("attack", {}).get("steps"):  # what never attacked bounds nothing
        entry |= attacked_summary(certificates, certifier.radii)
    entry |= cascade_summary(certificates, certifier.radii)
    entry |= {
        "indices_sha256": examples.sha256,
        "certifier": certifier.name,
        "settings": certifier.settings(),
        "seconds": float(certificates.seconds.sum()),
    }
    if todo or before is None or before.get("status") != "complete":
        end = {"end": _now(), "seconds": entry["seconds"]}
        full_card |= {"status": "complete", **end, "last_run_seconds": seconds, "log_sha256": log.sha256()}
        write_card(log_path.with_suffix(".json"), {**full_card, "summary": entry})
    return entry, certificates


def certify_share(
    network: nn.Module,
    certifier: Certifier,
    examples: Examples,
    log_path: Path,
    card: dict[str, Any],
    place: Place,
    *,
    batch_size: int,
    device: torch.device,
    progress: Callable[[int, Certificates | None], None] = lambda done, new: None,
    told: Callable[[float, str], None] = lambda done, doing: None,
    stop: Callable[[], None] = lambda: None,
) -> None:
    """Certify one process's share of what neither the log nor a part holds, into a part log of its own.

    Args:
        network, certifier, examples, log_path, card: as for `certify_examples`.
        batch_size, device, progress, told, stop: as for `certify_examples`.
        place: which share; no other process may have the same.

    Raises:
        UserError: the log or this share's part was made with other settings, examples, labels or weights.
    """
    identity = _identity(certifier, examples, card)
    card_path = log_path.with_suffix(".json")
    refuse_other(read_card(card_path) if card_path.exists() else None, identity, log_path)
    path = part_log(log_path, place.label)
    path.parent.mkdir(parents=True, exist_ok=True)
    part_card = path.with_suffix(".json")
    if part_card.exists():
        refuse_other(read_card(part_card), identity, path)
    else:
        write_card(
            part_card, {**identity, **_maker(certifier), **card, "status": "part", "part": place.label, "start": _now()}
        )
    log = CertificateLog(path)
    if len(log.done_indices()):
        _refuse_other_labels(log.read(), examples, path)
    logged = set(CertificateLog(log_path, read_only=True).done_indices())
    blocks = place.blocks(examples.indices.tolist(), batch_size, logged)
    done = done_anywhere(log_path)
    _certify_rows(network, certifier, examples, log, blocks, done, device, progress, stop, told)


def begin(
    certifier: Certifier, examples: Examples, log_path: Path, card: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any] | None, CertificateLog]:
    """The card and log of what is to be certified, with the rows of all parts collected.

    Returns:
        The card as of a log that is being written; the one that the log had, None when it had none or was added to;
        the log.

    Raises:
        UserError: the log, or a part of it, was made with other settings, examples, labels or weights.
    """
    identity = _identity(certifier, examples, card)
    card_path = log_path.with_suffix(".json")
    before = read_card(card_path) if card_path.exists() else None
    refuse_other(before, identity, log_path)
    parts = collect(log_path, identity)
    started = before["start"] if before else min((part["start"] for part in parts), default=_now())
    full_card = {
        **identity,
        **_maker(certifier),
        **card,
        "status": "running",
        "start": started,
        "n": len(examples.indices),
    }
    if earlier := [*(before or {}).get("parts", []), *parts]:
        full_card["parts"] = earlier
    if before and (before.get("falsification") or {}).get("failed"):  # certificates that fell stay fallen
        full_card["falsification"] = before["falsification"]
    if before is None or parts:
        write_card(card_path, full_card)
    remove_parts(log_path)
    log = CertificateLog(log_path)
    if len(log.done_indices()):
        _refuse_other_labels(log.read(), examples, log_path)
    return full_card, None if parts else before, log


def _certify_rows(
    network: nn.Module,
    certifier: Certifier,
    examples: Examples,
    log: CertificateLog,
    blocks: list[list[int]],
    done: set[int],
    device: torch.device,
    progress: Callable[[int, Certificates | None], None],
    stop: Callable[[], None],
    told: Callable[[float, str], None] = lambda done, doing: None,
) -> None:
    count = len(done)
    for block in blocks:
        todo = [index for index in block if index not in done]
        if not todo:
            continue
        stop()
        index = torch.tensor(todo)
        batch = Batch(examples.x[index].to(device), examples.y[index].to(device), index.to(device))

        def within(share: float, doing: str, before: int = count, todo: list[int] = todo) -> None:
            told(before + share * len(todo), doing)

        with watched(told=within):
            new = certifier.certify(network, batch)
        log.append(new)
        count += len(new)
        progress(count, new)


def _identity(certifier: Certifier, examples: Examples, card: dict[str, Any]) -> dict[str, Any]:
    """What decides the rows of a log: one whose card says something else is never added to."""
    return {
        "certifier": certifier.name,
        "radii": [radius_text(r) for r in certifier.radii],
        "settings": certifier.settings(),
        "claim": certifier.claim().to_dict(),
        "dataset": examples.dataset,
        "split": examples.split,
        "indices_sha256": examples.sha256,
        "inputs_sha256": examples.inputs_sha256,
        "checkpoint_sha256": card["checkpoint_sha256"],
    }


def _maker(certifier: Certifier) -> dict[str, str]:
    """The class, which an audit asks to check its rows."""
    return {"made_by": f"{type(certifier).__module__}.{type(certifier).__qualname__}"}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _refuse_other_labels(rows: Certificates, examples: Examples, log_path: Path) -> None:
    """A data set of the same name may have been changed: rows about other examples would add up with these."""
    inside = rows.index < len(examples.y)
    labels = examples.y[torch.from_numpy(rows.index[inside])].cpu().numpy()
    other = [*rows.index[inside][rows.label[inside] != labels].tolist(), *rows.index[~inside].tolist()]
    if other:
        raise UserError(
            f"{log_path} has other labels than {examples.dataset} {examples.split} now, such as those of the examples "
            f"{', '.join(map(str, sorted(other)[:5]))}",
            where="the certificate log",
            fix="certify the data that the log is about, or give this one another name with name=NAME",
        )


def accelerator(choice: str = "auto", number: int = 0) -> torch.device:
    """The device to certify on: an accelerator when there is one, for the number-th process (from 0) one of its own."""
    if choice == "cpu" or not torch.accelerator.is_available():
        return torch.device("cpu")
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    count = torch.accelerator.device_count()
    if count > 1 and number % count:
        torch.accelerator.set_device_index(number % count)
        return torch.device(device.type, number % count)
    return device
