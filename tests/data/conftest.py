import os
from pathlib import Path

import lightning as L
import pytest
import torch

from certtrain.data import DataModule


class Tiny(DataModule):
    """Numbered images: the first pixel of image i is i / 256, so that a batch shows what it holds."""

    name = "tiny"
    input_shape = (1, 4, 4)
    num_classes = 3

    def __init__(self, n: int = 50, **options):
        super().__init__(**{"val_size": 0, "batch_size": 8, **options})
        self.n = n

    def load(self):
        def part(n):
            x = torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(0))
            x[:, 0, 0, 0] = torch.arange(n) / 256
            return x, torch.arange(n) % 3

        return part(self.n), part(20)


class Recorder(L.LightningModule):
    """Learns nothing and writes down which examples each batch held."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(16, 3)
        self.seen, self.pixels, self.validated = [], [], []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, batch.index.tolist()))
        self.pixels.append(batch.x.clone())
        return torch.nn.functional.cross_entropy(self.layer(batch.x.flatten(1)), batch.y)

    def validation_step(self, batch, batch_idx):
        self.validated += batch.index.tolist()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def tiny():
    return Tiny


@pytest.fixture
def recorder():
    return Recorder


@pytest.fixture
def trainer(tmp_path):
    def build(**options):
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        quiet |= {"accelerator": "cpu", "enable_checkpointing": False, "default_root_dir": tmp_path}
        return L.Trainer(**quiet | options)

    return build


@pytest.fixture
def real_data():
    """The folder of the unpacked published sets."""
    folder = os.environ.get("CERTTRAIN_DATA")
    if not folder:
        pytest.skip("CERTTRAIN_DATA names no folder with the published data sets")
    return Path(folder)
