"""Several processes or machines certify one list of examples: shares without padding, part logs, and their collection.

The list is cut into blocks, the batches that a single process would make, and whole blocks are dealt out. Each row is
therefore computed in the same company, and comes out the same, whoever computes it.

A share writes its rows to a log of its own, `parts/NAME.part-I.tsv` beside `NAME.tsv`, with a card that says what they
are about. Whoever next has the run to itself moves them into `NAME.tsv`. A kill at any moment loses nothing: rows are
in the log before their part is deleted, and a row that is in both counts once.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from certtrain.certificates import CertificateLog, Certificates, read_card
from certtrain.errors import UserError
from certtrain.runs.directory import config_differences

ABOUT = ("device", "hardware", "start", "command")  # what a card keeps of a part's card


@dataclass(frozen=True)
class Share:
    """The `number`-th of `of` shares of a list of blocks, counted from 1: the blocks number, number + of, ...

    Raises:
        ValueError: number is not one of 1 ... of.
    """

    number: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise ValueError(f"there is no share {self.number} of {self.of}")

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @classmethod
    def parse(cls, text: object, where: str = "configuration key shard") -> Share:
        """The share `i/K`.

        Raises:
            UserError: not of that form, or i is not one of 1 ... K.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", str(text))
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise UserError(f"shard={text} is no share", where=where, fix="shard=1/4 to shard=4/4 on four machines")
        return cls(int(match[1]), int(match[2]))

    def of_blocks(self, blocks: Sequence[list[int]]) -> list[list[int]]:
        """Its blocks. All shares together hold each block once, and their lengths differ by one at most."""
        return list(blocks[self.number - 1 :: self.of])


@dataclass(frozen=True)
class Place:
    """Where a process stands: its machine's share of all blocks, and its own share of what is left of that."""

    shard: Share = Share()
    process: Share = Share()

    @property
    def label(self) -> str:
        """`2` for the second process of one machine, `1-of-4-2` for that of the first of four."""
        own = str(self.process.number)
        return own if self.shard.of == 1 else f"{self.shard.number}-of-{self.shard.of}-{own}"

    def blocks(self, indices: Sequence[int], rows: int, logged: Collection[int]) -> list[list[int]]:
        """The blocks to certify, given the examples that `NAME.tsv` holds, the same for all processes of a machine."""
        machine = self.shard.of_blocks(cut(indices, rows))
        return self.process.of_blocks([block for block in machine if not set(block) <= set(logged)])


def cut(indices: Sequence[int], rows: int) -> list[list[int]]:
    """The examples in blocks of `rows`, the last one shorter."""
    return [list(indices[at : at + rows]) for at in range(0, len(indices), rows)]


def part_log(log_path: Path, label: str) -> Path:
    """The log of a part of `log_path`; its card has the suffix .json."""
    return log_path.parent / "parts" / f"{log_path.stem}.part-{label}.tsv"


def part_logs(log_path: Path) -> list[Path]:
    """The logs of all parts there are; of one that died before its first row there is only the card."""
    pattern = re.compile(re.escape(log_path.stem) + r"\.part-\d+(-of-\d+-\d+)?\.json")
    folder = log_path.parent / "parts"
    cards = [path for path in folder.glob("*.json") if pattern.fullmatch(path.name)]
    return [path.with_suffix(".tsv") for path in sorted(cards)]


def done_anywhere(log_path: Path) -> set[int]:
    """The examples that the log or one of its parts holds; others may be writing to the parts meanwhile."""
    logs = [log_path, *part_logs(log_path)]
    return {index for log in logs for index in CertificateLog(log, read_only=True).done_indices()}


def collect(log_path: Path, identity: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Put the rows of the parts into the log, all in ascending order of index. The caller has the run to itself.

    Of an example that two parts hold, the row that the log has counts, else that of the first part.

    Returns:
        What is known about each part whose rows were new: `part, rows`, device, hardware, start.

    Raises:
        UserError: a part made with other settings, examples or weights, or one that is no log.
    """
    log, added, about = CertificateLog(log_path), [], []
    seen = set(log.done_indices())
    for path in part_logs(log_path):
        card = read_card(path.with_suffix(".json"))
        refuse_other(card, identity, path)
        rows = CertificateLog(path).read()
        new = rows.select(~np.isin(rows.index, list(seen)))
        if len(new):
            added.append(new)
            seen |= set(new.index.tolist())
            known = {key: card[key] for key in ABOUT if key in card}
            about.append({"part": path.stem.rpartition(".part-")[2], "rows": len(new), **known})
    if added:
        log.replace(Certificates.concat([log.read(), *added]).sorted())
    return about


def remove_parts(log_path: Path) -> None:
    """Delete the parts, once their rows are in the log and its card says where they come from."""
    for path in part_logs(log_path):
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)
    folder = log_path.parent / "parts"
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def refuse_other(before: Mapping[str, Any] | None, identity: Mapping[str, Any], log_path: Path) -> None:
    """Refuse a log whose card is about other settings, examples, inputs or weights, or that has none.

    Args:
        before: the card of the log; None for none.
        identity: what decides the rows.
        log_path: the log.

    Raises:
        UserError: with what differs.
    """
    if before is None:
        if log_path.exists():
            raise UserError(f"{log_path} has no card", where="the certificate log", fix="give another name=NAME")
        return
    wanted = {key: value for key, value in identity.items() if key != "inputs_sha256"}
    different = config_differences({key: before.get(key) for key in wanted}, wanted)
    if different:
        lines = "; ".join(f"{key}: {_short(then)} then, {_short(now)} now" for key, then, now in different)
        raise UserError(
            f"{log_path} was made with other settings ({lines})",
            where="the certificate log",
            fix="give this one another name with name=NAME",
        )
    then, inputs = str(before.get("inputs_sha256")), identity["inputs_sha256"]
    if then != inputs:
        raise UserError(
            f"{log_path} is about other inputs or classes than {identity['dataset']} {identity['split']} holds now at "
            f"the same positions (inputs_sha256: {then[:12]}... then, {inputs[:12]}... now)",
            where="the certificate log",
            fix="certify the data that the log is about (data_dir=), or give this one another name with name=NAME",
        )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
