"""`certtrain certify run=runs/NAME`: certificates for a split of the run's data, and the result beside the run.

`data=` beside the run certifies other data than its own, such as corrupted test images. `certtrain certify
checkpoint=FILE model=... data=...` does the same for a network that was trained elsewhere.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from certtrain.certification.checks import refuse_norm
from certtrain.cli.compose import given_values
from certtrain.cli.inherited import literal, option
from certtrain.config.checks import check_scales, check_units, resolve_radii
from certtrain.config.kinds import fixed_norm, of_choice, of_nodes
from certtrain.config.overrides import quoted
from certtrain.config.received import targets_of, trusted
from certtrain.errors import UserError
from certtrain.importing import checkpoint as imported
from certtrain.radii import parse_radii, radius_text
from certtrain.reporting import terminal
from certtrain.runs import environment
from certtrain.runs.directory import find_run
from certtrain.sessions.launcher import ProcessDied, launch
from certtrain.system.files import check_name
from certtrain.system.signals import Interrupted, SignalFlag
from certtrain.threat import norm_text
from certtrain.threat.scale_request import request_text

if TYPE_CHECKING:
    from certtrain.certificates.parts import Share
    from certtrain.certification.shares import Fellows

# What a run's configuration says and the certify command takes over unless it is given.
INHERITED = ("radii", "norm", "scales", "sigma", "n0", "n", "alpha", "budget", "seed", "data_dir")


def prepare(arguments: list[str], command: str = "certify", inherited: Sequence[str] = INHERITED) -> list[str]:
    """The run's own radii, draws and certifier, put before what the user asked for.

    Raises:
        UserError: the run does not exist; data or model beside it; a norm that the certifier does not cover; a file of
            weights without what it needs.
    """
    given = given_values(arguments)
    if command == "certify" and imported.asked_for(given):
        refuse_norm(given, of_choice(given.get("certifier"), arguments), given.get("certifier"))
        return imported.prepare(arguments, given)
    if "run" not in given:
        if any(argument.startswith("-") for argument in arguments):
            return arguments  # --help, --cfg
        raise UserError("which run?", where="the command line", fix=f"certtrain {command} run=runs/NAME")
    run = find_run(given["run"], given.get("runs_dir", "runs"))
    trained = run.read_config()
    if not isinstance(trained.get("choices"), Mapping):
        raise UserError(f"{run.config} says nothing of choices", where="run directory", fix="is this a run?")
    for group in ("model",) if command == "certify" else ("data", "model"):
        if group in given:
            raise UserError(
                f"{group}={given[group]} beside run={run.name}: its {group} is that of the run",
                where="the command line",
                fix=f"leave {group}= out; only checkpoint=FILE, a network trained elsewhere, takes it",
            )
    if command != "export":  # whose norm is of no certifier
        before = of_nodes(trained.get("certifier"), ours=True)
        now = of_choice(given["certifier"], arguments) if "certifier" in given else before
        refuse_norm(given, now, given.get("certifier", trained["choices"].get("certifier")))
    rest = [argument for argument in arguments if not argument.startswith("run=")]
    started = environment.torchrun()
    if command == "certify" and started is not None and "shard" not in given:
        rest.append(f"shard={started.number + 1}/{started.of}")
    taken = taken_over(trained, given, inherited, run.config)
    if command != "export" and now:  # else Hydra answers
        refuse_radii_of_another_norm(trained, given, fixed_norm(before), fixed_norm(now))
    return [quoted("run", run.path), *taken, *rest]


def refuse_radii_of_another_norm(
    trained: Mapping[str, Any], given: Mapping[str, str], fixed_before: str | None, fixed_now: str | None
) -> None:
    """Refuse to read the radii of a run in another norm than they were meant in; a grid that is given means itself.

    Args:
        trained: the run's configuration. Its key norm is of balls of bounds: the radii of smoothing are l2.
        given: what was asked for.
        fixed_before, fixed_now: the norm of its certifiers, and of those asked for, that know no other.

    Raises:
        UserError: names both norms, and what to give.
    """
    now, meant = (
        given.get("certifier", trained["choices"].get("certifier")),
        fixed_before or trained.get("norm", "linf"),
    )
    norm = fixed_now or given.get("norm", None if fixed_before else meant)
    needed = [] if norm is not None else ["norm=linf"]
    needed += [] if "radii" in given or norm == meant else ["radii=[...]"]
    if not needed:
        return
    own = f"{norm_text(meant)} radii [{', '.join(map(radius_text, parse_radii(trained['radii'])))}]"
    other = f"in {norm_text(norm)}" if norm is not None else "in a norm that must be named"
    raise UserError(
        f"the run has {own}, and certifier={now} certifies {other}",
        where="the command line",
        fix=f"{' '.join(needed)}, with radii that you mean in that norm"
        + ("; norm=l2 for the run's own, where the bounds cover it" if norm is None and meant == "l2" else ""),
    )


def taken_over(
    config: dict[str, Any], given: Collection[str], inherited: Sequence[str] = INHERITED, source: object = "the run"
) -> list[str]:
    """What the certify stage takes from a run's configuration, as overrides, except what is given anyway.

    Raises:
        UserError: what is no plain value, names no option, or would be evaluated.
    """
    taken = [_override(key, config[key], source) for key in inherited if key not in given and key in config]
    return taken if "certifier" in given else [*taken, option("certifier", config["choices"].get("certifier"), source)]


def _override(key: str, value: Any, source: object) -> str:
    if key == "scales" and value is not None:  # names of columns may hold what means something to Hydra
        value = request_text(value)
    return literal(key, value, source)


def run(config: Any) -> int:
    """Certify, record, show. Returns the exit status: 1 when the standing check broke a certificate."""
    from certtrain.config.instantiate import plain

    resolved = plain(config)
    if resolved["name"] is not None:
        resolved["name"] = check_name(resolved["name"])
    resolve_radii(resolved)
    check_units(resolved)
    check_scales(resolved)
    if not resolved.get("certifier"):
        raise UserError("which certifier?", where="the command line", fix="certifier=crown")
    from certtrain.certification.several import check_several

    shard, processes = check_several(resolved)
    trust = trusted(resolved["trust"])
    if resolved["run"] is None:
        from hydra.core.hydra_config import HydraConfig

        hydra = HydraConfig.get()
        run = imported.adopt(resolved, hydra.runtime.choices, list(hydra.overrides.task))
        trust += tuple(targets_of(resolved, ("data", "model")))  # which were typed
        resolved |= {"run": str(run), "checkpoint": None, "name": None, "data": None}  # which are the run's now
    resolved["trust"] = list(trust)  # for the processes that help
    try:
        if processes > 1:
            return _launch(resolved, shard, processes)
        with SignalFlag() as flag:
            return certify(resolved, shard, flag)
    except Interrupted as interrupted:
        terminal.print_line(terminal.console(), f"{interrupted}: the same command goes on from here", "yellow")
        return interrupted.exit_status
    except ProcessDied as died:
        kept = "what all of them had certified is kept, and the same command goes on from there"
        print(f"certtrain: {died}; {kept} with any number of processes", file=sys.stderr)
        return 1


def _launch(config: dict[str, Any], shard: Share, processes: int) -> int:
    with find_run(config["run"], config["runs_dir"]) as run:
        if shard.of == 1:  # else each process locks a shard of its own
            run.lock()
        order = {"command": "certify", "config": {**config, "run": str(run.path)}, "shard": str(shard)}
        return launch(order, processes, output_of_all=shard.of > 1)


def certify(config: dict[str, Any], shard: Share, flag: SignalFlag, fellows: Fellows | None = None) -> int:
    """Certify in this process. Returns the exit status: 1 when the standing check broke a certificate.

    Args:
        config: resolved, with a run.
        shard: of the machines.
        flag: set by signals.
        fellows: of which this process is rank 0; their launcher has the run's lock.

    Raises:
        UserError, Interrupted: as `certify_run`.
    """
    from certtrain.certification.other_data import data_to_certify
    from certtrain.certification.several import certify_run
    from certtrain.certification.stage import Job
    from certtrain.certification.standing_check import FALSIFIED_STATUS
    from certtrain.config.loading import load_run
    from certtrain.system.work import watched

    console = terminal.console()
    if shard.of == 1 and fellows is None:
        with find_run(config["run"], config["runs_dir"]) as free:
            free.lock()  # one that is still in training is told to be so, before its checkpoint is looked for
    loaded = load_run(config["run"], config["checkpoint"], config["runs_dir"], config["trust"])
    if loaded.note:
        terminal.print_line(console, f"not checked: {loaded.note}")
    data = data_to_certify(loaded, config)
    with loaded.run, watched(flag.raise_if_overdue):
        job = Job(loaded, data, {**config, "run": str(loaded.run.path)}, console, flag)
        found = certify_run(job, shard, fellows)
    return FALSIFIED_STATUS if any(entry.get("falsified") for entry in found.values()) else 0
