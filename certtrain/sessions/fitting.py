"""The training part of a run: build what the configuration names, fit, and say how it ended."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.loggers import Logger
from rich.console import Console

from certtrain.certificates.falsification import FalsifyOptions
from certtrain.config import build
from certtrain.config.checks import check_units, default_monitor
from certtrain.config.instantiate import call_partial
from certtrain.config.loggers import build_callbacks
from certtrain.data import DataModule
from certtrain.errors import UserError
from certtrain.methods.base import Method
from certtrain.methods.compiled import Compiled
from certtrain.models.contract import InputContract
from certtrain.runs.directory import RunDirectory
from certtrain.sessions.initial import start_from
from certtrain.sessions.teacher import Teachers
from certtrain.smoothing.staged import check_draw_counts
from certtrain.system.collective import processes, rank
from certtrain.threat.scales import Scales
from certtrain.training.callbacks.checkpoint import Checkpoints
from certtrain.training.callbacks.pruning import Report, ReportValidation
from certtrain.training.callbacks.signals import SignalFlag
from certtrain.training.checkpoints import load_weights, read_checkpoint
from certtrain.training.fit import TrainerSettings, fit
from certtrain.training.module import CertifiedTraining
from certtrain.training.ranks import Rank


def fit_run(
    directory: RunDirectory,
    state: str,
    config: dict[str, Any],
    console: Console,
    flag: SignalFlag,
    loggers: Sequence[Logger],
    report: Report | None = None,
    place: Rank | None = None,
) -> dict[str, Any]:
    """Train, from the last checkpoint when the run is resumed.

    Args:
        directory: the run.
        state: `new` or `resume`.
        config: resolved.
        console: for what happens.
        flag: set by signals.
        loggers: get the metrics.
        report: is told of each validation after the ramp's end, and may stop the training.
        place: of this process among several; those other than number 0 have no loggers and a quiet console.

    Returns:
        The fields of `result.json` that training decides.

    Raises:
        UserError: what is configured cannot be built, or the checkpoint is corrupt or of another model.
        TrainingDiverged, Interrupted: as in `certtrain.training.fit.fit`.
        Pruned: the report said to stop.
    """
    settings = call_partial(TrainerSettings, "trainer", **config["trainer"])
    data = build.build_data(config)
    refuse_unshareable(data)
    contract = InputContract.of(data)
    network = contract.classifier(build.build_network(config["model"], contract, config["seed"]))
    if settings.channels_last:
        network = network.to(memory_format=torch.channels_last)
    steps = data.steps_per_epoch()
    callbacks = build_callbacks(config, build.build_timeline(config, steps))
    scales = build.build_scales(config, contract, f"data={data.name}")
    teachers = Teachers(config, contract, f"data={data.name}")
    method = build.build_method(config, steps, scales, teachers)
    refuse_uncertifiable(config, contract, scales)
    if method.needs_engine and settings.precision == "bf16-mixed":
        raise UserError(
            f"trainer.precision=bf16-mixed with method={config['choices']['method']}: bounds of 8 bits say nothing",
            where="configuration key trainer.precision",
            fix="trainer.precision=32-true (or tf32), or method=standard or method=gaussian",
        )
    refuse_uncompilable(settings, method, config)
    make_engine = build.build_engine(config)
    resume_from = directory.last if state == "resume" and directory.last.exists() else None
    done = 0
    torch.manual_seed(config["seed"])  # for special initialisations, and a user's dropout; all else is keyed
    start = None
    if resume_from is None:
        method.initialise(network)
        if config.get("init") is not None:
            start = start_from(network, config["init"], contract, data=f"data={data.name}", runs_dir=config["runs_dir"])
    else:
        content = read_checkpoint(resume_from)
        start = content["certtrain"].get("init")
        teachers.check(content["certtrain"].get("teacher"))
        load_weights(network, content, str(resume_from))  # here for its message: Lightning loads them again
        done = int(content["global_step"])
        console.print(f"from step {done} of {steps * config['epochs']}", highlight=False)
        if note := other_device(content, settings.device_type) or other_threads(content, settings.device_type):
            console.print(note, highlight=False)
    given = {key: told for key, told in (("init", start), ("teacher", teachers.told)) if told is not None}
    for logger in loggers:
        if hasattr(logger, "resume_from"):
            logger.resume_from(done)  # rows after the checkpoint belong to work that was lost
    module = CertifiedTraining(
        network,
        method,
        make_engine(network) if method.needs_engine else None,
        build.build_optimizer(config),
        build.build_lr(config, steps),
        seed=config["seed"],
        record={"contract": contract.to_dict(), "config": config, **given},
        compiled=Compiled(method, data.batch_size, settings.compile_mode) if settings.compile_mode else None,
    )
    validation = build.build_validation(config, data, build.build_certifiers(config, scales))
    checkpoints = Checkpoints(
        directory.checkpoints,
        config["checkpoint"]["monitor"] or default_monitor(config),
        ramp_end=method.ramp_end,
        every_n_seconds=config["checkpoint"]["every_n_seconds"],
        validation=validation,
    )
    outcome = fit(
        module,
        data,
        epochs=config["epochs"],
        settings=settings,
        checkpoints=checkpoints,
        use=config["checkpoint"]["use"],
        validation=validation,
        loggers=loggers,
        console=console,
        flag=flag,
        resume_from=resume_from,
        progress=rank() == 0,
        place=place,
        callbacks=callbacks,
        more=[ReportValidation(report, validation, checkpoints, method.ramp_end)] if report and validation else [],
    )
    assert outcome.checkpoint is not None
    text = f"trained {outcome.epochs} epochs, {outcome.steps} steps, in {outcome.seconds:.1f} s; "
    console.print(text + f"checkpoint {outcome.checkpoint.name}: {outcome.chosen_because}", highlight=False)
    best = checkpoints.best_validation if outcome.checkpoint == checkpoints.best else None
    return {
        "status": "interrupted",  # until the whole run is done
        "trained": True,
        **given,
        "parameters": sum(p.numel() for p in network.parameters()),
        "checkpoint": outcome.checkpoint.name,
        "checkpoint_chosen": outcome.chosen_because,
        "steps": outcome.steps,
        "seconds": outcome.seconds,
        "validation": build.validation_entry(validation, data, best),
    }


def other_device(checkpoint: dict[str, Any], device: str) -> str | None:
    """What to say where a run goes on on another kind of device, whose kernels round in their own way."""
    before = checkpoint["certtrain"].get("device")
    if before in (None, device) or "cuda" not in (before, device):
        return None
    return (
        f"the checkpoint was computed on {before}, and this goes on on {device}: the weights will differ from those of "
        "an undisturbed run by rounding"
    )


def other_threads(checkpoint: dict[str, Any], device: str) -> str | None:
    """What to say where a resumed run is not bit for bit the one that never stopped: threads add up in parts."""
    before, now = checkpoint["certtrain"].get("threads"), torch.get_num_threads()
    if before in (None, now) or device != "cpu":
        return None
    return (
        f"the checkpoint was computed on {before} thread(s), and this is on {now}: the weights will differ from those "
        f"of an undisturbed run by rounding; OMP_NUM_THREADS={before} avoids that"
    )


def refuse_uncertifiable(config: dict[str, Any], contract: InputContract, scales: Scales | None) -> None:
    """Refuse, before the training, settings of the certify stage that it would refuse afterwards.

    Raises:
        UserError: of a certifier's constructor, also of draws that only another certifier asks for; of the attack.
    """
    check_units(config, math.prod(contract.shape))
    check_draw_counts(config["n0"], config["n"], config["alpha"])
    FalsifyOptions.parse(config["falsify"])
    build.build_certifiers(config, scales)


def refuse_uncompilable(settings: TrainerSettings, method: Method, config: dict[str, Any]) -> None:
    """Refuse to compile what torch.compile cannot follow.

    Raises:
        UserError: the bounds are auto_LiRPA's, or several processes share the batches.
    """
    if settings.compile and processes() > 1:
        raise UserError(
            "trainer.compile in a training of several processes is not supported",
            where="configuration key trainer.compile",
            fix="trainer.compile=false, or one process",
        )
    if settings.compile and method.needs_engine and config["choices"]["bounds"] != "native":
        raise UserError(
            f"trainer.compile with bounds={config['choices']['bounds']}: torch.compile cannot follow its engine",
            where="configuration key trainer.compile",
            fix="bounds=native, or trainer.compile=false",
        )


def refuse_unshareable(data: DataModule) -> None:
    """Refuse validation examples that are fewer than the processes: one without any would not validate, and wait.

    Raises:
        UserError: there are too few.
    """
    if 0 < len(data.val) < processes():
        raise UserError(
            f"{processes()} processes cannot share {len(data.val)} validation example(s)",
            where="configuration key val_size",
            fix="val_size=0, a larger one, or fewer trainer.devices",
        )
