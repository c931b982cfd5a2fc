"""Certifies with several processes on one machine, or with several machines, each with a shard; the last one merges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from certtrain.certificates.parts import Place, Share, done_anywhere
from certtrain.errors import UserError
from certtrain.runs import environment

if TYPE_CHECKING:
    from certtrain.certificates import Certificates
    from certtrain.certification.shares import Fellows
    from certtrain.certification.stage import Job, Stage


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


def certify_run(job: Job, shard: Share, fellows: Fellows | None = None) -> dict[str, Any]:
    """Certify what a configuration asks for, or a shard of it. The caller closes `job.loaded.run`.

    Args:
        job: of the certify command, with its run in the configuration.
        shard: of the machines.
        fellows: of which this process is rank 0: each certifies its share. Their launcher has the run's lock.

    Returns:
        The entries of `result.json`; none while shards are missing.

    Raises:
        UserError, Interrupted: as `certify_stage`; another process works in the run.
    """
    from certtrain.certification.stage import certify_stage

    if shard.of > 1:
        return _certify_shard(job, shard)
    if fellows is not None:
        fellows.ready()
        return certify_stage(job, fellows.lead(job.console))
    job.loaded.run.lock()
    return certify_stage(job)


def _certify_shard(job: Job, shard: Share) -> dict[str, Any]:
    from certtrain.certification.shares import certify_place
    from certtrain.certification.stage import certify_stage, prepare_stage
    from certtrain.reporting.bar import Bar

    run, console = job.loaded.run, job.console
    run.lock(shard=f"{shard.number}-of-{shard.of}")
    started = environment.torchrun()
    stage = prepare_stage(job.loaded, job.data, job.config, started.local if started else 0)
    total = -(-len(stage.examples.indices) // shard.of) * len(stage.certifiers)
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


def _missing(stage: Stage, name: str) -> int:
    _, log, _ = stage.of(name)
    return len(set(stage.examples.indices.tolist()) - done_anywhere(log))
