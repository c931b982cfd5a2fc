"""Logs and results without their times, to compare those of two runs."""

from pathlib import Path


def rows(log: Path) -> list[list[str]]:
    """The text of the log without the columns of times, its header first."""
    header, *lines = [line.split("\t") for line in log.read_text(encoding="utf-8").splitlines()]
    kept = [place for place, name in enumerate(header) if name != "time" and not name.startswith("seconds_")]
    return [[line[place] for place in kept] for line in [header, *lines]]


def untimed(entry: dict) -> dict:
    """An entry of result.json without seconds; of its stages what they decided: who saw what is told by seconds."""
    stages = {name: stage["decided"] for name, stage in entry.get("stages", {}).items()}
    return {key: value for key, value in entry.items() if key not in ("seconds", "stages")} | {"decided": stages}
