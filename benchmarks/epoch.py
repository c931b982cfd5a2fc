"""An epoch of ordinary training: `certtrain`'s module, loader, log and Trainer beside a plain loop over a DataLoader.

    python -m benchmarks.epoch [--quick] [--threads N] [--output FILE.json]

Both train conv16-conv32-fc100 by Adam on the same 20,000 images of MNIST's shape in memory, batch 256, shuffled. What
is over 1 is what the framework costs: shuffling by keyed permutations, the log, the guard against NaN, the checkpoints'
clock.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import lightning as L
import torch
import torch.nn.functional as F
from rich.console import Console
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.command import parse, setting
from benchmarks.measure import interleaved, ratios
from benchmarks.results import write_result
from certtrain.certification.examples import accelerator
from certtrain.data.loader import TensorLoader
from certtrain.data.split import Split
from certtrain.methods import Standard
from certtrain.models import wong_small
from certtrain.training.callbacks.guard import FiniteGuard
from certtrain.training.callbacks.training_log import TrainingLog
from certtrain.training.fit import quiet_lightning
from certtrain.training.module import CertifiedTraining

BATCH, SHAPE, CLASSES = 256, (1, 28, 28), 10


def examples(count: int) -> Split:
    """Random images and classes."""
    draw = torch.Generator().manual_seed(0)
    x, y = torch.rand(count, *SHAPE, generator=draw), torch.randint(0, CLASSES, (count,), generator=draw)
    return Split(x, y, "train")


def ours(split: Split, device: torch.device) -> Callable[[], None]:
    """One epoch by our parts."""
    quiet_lightning()
    warnings.filterwarnings("ignore", message=".*no `val_dataloader`.*")

    def epoch() -> None:
        torch.manual_seed(0)
        network = wong_small(SHAPE, CLASSES, [0.0], [1.0])
        module = CertifiedTraining(network, Standard(), None, torch.optim.Adam, lambda step: 1.0)
        trainer = L.Trainer(
            accelerator="cpu" if device.type == "cpu" else "auto",
            devices=1,
            max_epochs=1,
            logger=False,
            callbacks=[FiniteGuard(50), TrainingLog(50)],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.fit(module, TensorLoader(split, BATCH, device=device))

    return epoch


def plain(split: Split, device: torch.device) -> Callable[[], None]:
    """One epoch by the loop of every tutorial."""
    loader = DataLoader(TensorDataset(split.x[split.source], split.y), batch_size=BATCH, shuffle=True)

    def epoch() -> None:
        torch.manual_seed(0)
        network = wong_small(SHAPE, CLASSES, [0.0], [1.0]).to(device).train()
        optimizer = torch.optim.Adam(network.parameters())
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(network(x.to(device)), y.to(device)).backward()
            optimizer.step()

    return epoch


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    arguments = parse("epoch", __doc__, argv, quick="2,000 images", repetitions=(7, 2))
    if arguments is None:
        return 2
    device, count, repetitions = accelerator(), 2_000 if arguments.quick else 20_000, arguments.repetitions
    split = examples(count)
    timings = interleaved({"ours": ours(split, device), "plain": plain(split, device)}, repetitions, device=device)
    ratio = ratios(timings, "ours", "plain")
    spread = f"{ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f})"
    Console(width=100).print(
        f"an epoch of {count:,} images: ours {timings['ours'].median:.2f} s, a plain loop "
        f"{timings['plain'].median:.2f} s, ratio {spread}; {device}, threads: {arguments.threads}",
        highlight=False,
    )
    if arguments.writes:
        seconds = {name: timing.to_dict() for name, timing in timings.items()}
        found = {**setting(arguments, device), "images": count, "batch": BATCH, "seconds": seconds, "ratio": ratio}
        path = write_result("epoch", found, arguments.output)
        Console().print(f"wrote {path}", highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
