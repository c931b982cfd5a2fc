"""Jobs that several processes do together, started by torch's launcher."""

import signal

import lightning as L
import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from certtrain.bounds import NativeEngine
from certtrain.bounds.auto_lirpa import AutoLirpaEngine
from certtrain.bounds.batchnorm import whole_batch_norm
from certtrain.data import Digits
from certtrain.methods import IBP, CrownIBP, Gaussian, Ramp, ShiRegulariser, Standard
from certtrain.methods.edac import EDAC
from certtrain.methods.gls import GLS
from certtrain.methods.in_parts import InParts
from certtrain.models import resnet_small
from certtrain.system import collective
from certtrain.training.callbacks.averaging import WeightAveraging
from certtrain.training.callbacks.population import PopulationStatistics
from certtrain.training.callbacks.training_log import TrainingLog
from certtrain.training.module import CertifiedTraining
from certtrain.training.ranks import Rank, joined

# Each a method, whether the network has BatchNorm, the precision, and the parts that a batch is computed in.
TRAININGS = {
    "standard": (Standard(l1=1e-4), False, "32-true", 1),
    "gaussian": (Gaussian(0.25), False, "32-true", 2),
    "crown_ibp": (CrownIBP(0.05, Ramp(0, 3)), False, "32-true", 1),
    "fused": (CrownIBP(0.05, Ramp(0, 3), loss_fusion=True), False, "32-true", 1),
    "gaussian, BatchNorm": (Gaussian(0.25), True, "32-true", 1),
    # What several layers of statistics do to the last bits grows with each step: exact in float64 only.
    "crown_ibp, BatchNorm": (CrownIBP(0.05, Ramp(0, 3)), True, "64-true", 1),
    "shi, BatchNorm": (IBP(0.05, Ramp(0, 3), regulariser=ShiRegulariser(0.5)), True, "64-true", 1),
    # A sign of an attack's gradient that rounding turns is another step: exact in float64 only.
    "edac": (EDAC(0.05, Ramp(0, 2), weight=1.0), False, "64-true", 1),
    "gls": (GLS(CrownIBP(0.05, Ramp(0, 2)), std=0.01, estimator="pgpe"), False, "64-true", 1),
    "crown_ibp in parts, BatchNorm": (CrownIBP(0.05, Ramp(0, 3)), True, "64-true", 2),
    "averaged, BatchNorm": (IBP(0.05, Ramp(0, 3)), True, "64-true", 1),
    "shi, auto_lirpa": (IBP(0.05, Ramp(0, 3), regulariser=ShiRegulariser(0.5)), True, "64-true", 1),
}


def train(kind: str, place: Rank | None = None) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """The weights and statistics after an epoch of 3 batches, the last of 16 examples, and what was logged last."""
    method, batch_norm, precision, accumulate = TRAININGS[kind]
    engine = AutoLirpaEngine if "lirpa" in kind else NativeEngine
    data = Digits("unused", batch_size=64, val_size=0.9, seed=3, augment={"crop_padding": 1})
    torch.manual_seed(1)
    network = resnet_small(
        width=4, linear=16, batch_norm=batch_norm, input_shape=(1, 8, 8), num_classes=10, mean=[0.3], std=[0.4]
    )
    module = CertifiedTraining(
        network,
        method,
        engine(network) if method.needs_engine else None,
        lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        lambda step: 1.0,
        seed=7,
    )
    if accumulate > 1:
        module.objective = InParts(method, accumulate)
    log = TrainingLog()
    averages = [PopulationStatistics(), WeightAveraging(1)] if "averaged" in kind else []
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        precision=precision,
        callbacks=[log, *averages],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        use_distributed_sampler=False,
        **({"devices": 1} if place is None else {"devices": place.local_of, "strategy": place.strategy()}),
    )
    with whole_batch_norm(network):
        trainer.fit(module, datamodule=data)
    return {name: value.detach().clone() for name, value in network.state_dict().items()}, log.latest


def sums(place: Rank) -> dict[str, object]:
    """Every function of `certtrain.system.collective`, with what this process has: rank + 1 rows, or its number."""
    rows = torch.arange(1.0, 2.0 + place.number, dtype=torch.float64, requires_grad=True)
    mean, doubled = collective.global_means([rows, 2 * rows])
    (collective.global_sum(rows.sum()) ** 2 * (place.number + 1)).backward()
    shares = collective.shares([place.number, 0], rows)
    polls = []
    poll = collective.Poll(lambda: 15 if place.number == place.of - 1 and len(polls) >= 3 else 0)
    while not any(polls):
        polls.append(poll())
    return {
        "mean": float(mean),
        "doubled": float(doubled),
        "shares": collective.gather(shares.tolist()),
        "gradient": rows.grad.tolist(),
        "max": collective.global_max(place.number),
        "gather": collective.gather({"number": place.number}),
        "polls": collective.gather(polls),
        "now": poll(now=True),
        "place": (collective.rank(), collective.processes()),
    }


def do(jobs: list[str]) -> dict[str, object]:
    """One process's results by job."""
    place = Rank.from_environment()
    with joined(place, "cpu"):
        return {job: sums(place) if job == "sums" else train(job, place) for job in jobs}


def by_three() -> dict[str, object]:
    """By job the result that number 0 of three processes gets."""
    here = {
        "signals_to_handle": "SIGTERM,SIGINT",
        "rdzv_backend": "c10d",
        "rdzv_endpoint": "127.0.0.1:0",
        "local_addr": "127.0.0.1",
        "run_id": "three",
    }
    config = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=3, max_restarts=0, **here)
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        return elastic_launch(config, do)(["sums", *TRAININGS])[0]
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)
