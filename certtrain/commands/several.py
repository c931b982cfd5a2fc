"""Certifies with several processes on one machine, or with several machines, each with a shard; the last one merges."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from certtrain import environment
from certtrain.errors import UserError
from certtrain.parts import Place, Share, done_anywhere

if TYPE_CHECKING:
    from rich.console import Console

    from certtrain.certificates import Certificates
    from certtrain.commands.stage import Job, Stage


def check_several(config: dict[str, Any]) -> tuple[Share, int]:
    """The configured shard and number of processes.

    Raises:
        UserError: neither i/K nor null; processes is not a whole number >= 1.
    """
    count = config["processes"]
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise UserError(
            f"processes = {count!r} is not a whole number >= 1",
            where="configuration key processes",
            fix="processes=2, or as many as there are accelerators",
        )
    return Share() if config["shard"] is None else Share.parse(config["shard"]), count


def certify_run(job: Job, shard: Share, processes: int) -> dict[str, Any]:
    """Certify what a configuration asks for, or this machine's shard of it. The caller closes `job.loaded.run`.

    Args:
        job: of the certify command, with its run in the configuration.
        shard: of the machines.
        processes: of this machine.

    Returns:
        The entries of `result.json`; none while shards are missing.

    Raises:
        UserError, Interrupted: as `certify_stage`; another process works in the run.
        ProcessDied: a process was killed or crashed.
    """
    from certtrain.commands.stage import certify_stage

    if shard.of > 1:
        return _certify_shard(job, shard, processes)
    job.loaded.run.lock()
    return certify_stage(job, helpers(job, processes))


def helpers(job: Job, processes: int) -> Callable[[Stage, int], None] | None:
    """What lets `processes` processes certify first, for `certify_stage`; None for one.

    Args:
        job: with its run in the configuration, and the run locked.
        processes: of this machine.
    """
    from certtrain.commands.processes import certify_in_processes

    def certify(stage: Stage, blocks: int) -> None:
        count = _useful(processes, blocks, job.console)
        if count > 1:
            certify_in_processes(job, Share(), count, len(stage.examples.indices) * len(stage.certifiers))

    return certify if processes > 1 else None


def _certify_shard(job: Job, shard: Share, processes: int) -> dict[str, Any]:
    from certtrain.commands.processes import certify_in_processes
    from certtrain.commands.shares import certify_place
    from certtrain.commands.stage import certify_stage, prepare_stage
    from certtrain.reporting.bar import Bar

    run, console = job.loaded.run, job.console
    run.lock(shard=f"{shard.number}-of-{shard.of}")
    started = environment.torchrun()
    stage = prepare_stage(job.loaded, job.data, job.config, started.local if started else 0)
    blocks = max(len(place_blocks(stage, name, Place(shard))) for name in stage.certifiers)
    count = _useful(processes, blocks, console)
    total = -(-len(stage.examples.indices) // shard.of) * len(stage.certifiers)
    if count > 1:
        certify_in_processes(job, shard, count, total)
    else:
        with Bar(console, f"certify shard {shard}", total) as bar:
            rows = 0

            def progress(new: Certificates) -> None:
                nonlocal rows
                rows += len(new)
                bar.update(rows)

            certify_place(stage, Place(shard), progress, job.flag.raise_if_set)
    run.close()
    try:
        run.lock()
    except UserError:  # those still at work will merge
        console.print(f"shard {shard} is done; the one that ends last merges", highlight=False, soft_wrap=True)
        return {}
    if missing := max(_missing(stage, name) for name in stage.certifiers):
        console.print(
            f"shard {shard} is done; {missing} of {len(stage.examples.indices)} examples are left to the other shards. "
            "The last one merges; so does the same command without shard=, which certifies what is missing then",
            highlight=False,
            soft_wrap=True,
        )
        return {}
    return certify_stage(job)


def place_blocks(stage: Stage, name: str, place: Place) -> list[list[int]]:
    """The blocks that a certifier's log lacks, of a place's share."""
    from certtrain.certificates import CertificateLog

    certifier, log, _ = stage.of(name)
    done = CertificateLog(log, read_only=True).done_indices()
    return place.blocks(stage.examples.indices.tolist(), certifier.rows_per_write, done)


def _missing(stage: Stage, name: str) -> int:
    _, log, _ = stage.of(name)
    return len(set(stage.examples.indices.tolist()) - done_anywhere(log))


def _useful(processes: int, blocks: int, console: Console) -> int:
    """Whole batches are dealt out, so that each row comes out the same whoever computes it."""
    if 0 < blocks < processes:
        console.print(f"{blocks} batches are left to certify, so {blocks} of {processes} processes work")
    return min(processes, blocks)
