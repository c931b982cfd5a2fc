"""What users of the Python functions have at hand, tensors, datasets, loaders, Lightning's data modules, as batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, SequentialSampler

from certtrain.data.batch import Batch
from certtrain.data.datasets import as_input, example, read_dataset
from certtrain.data.loader import TensorLoader, refuse_classes_beyond
from certtrain.data.module import DataModule
from certtrain.data.split import Split, check_examples
from certtrain.errors import UserError

BATCH = 128
Data = DataModule | L.LightningDataModule | DataLoader | Dataset | Split | Sequence[Tensor]


class Batches:
    """The batches of another program's loader: the index of an example is its place in the epoch.

    Args:
        loader: gives (inputs, classes, ...).

    Raises:
        UserError: in use, other batches than such, inputs outside [0, 1], negative classes.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader = loader
        self.classes: int | None = None

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Batch]:
        start = 0
        for number, batch in enumerate(self.loader):
            found = as_batch(batch, start, f"batch {number} of the loader")
            start += len(found.y)
            if self.classes is not None:
                refuse_classes_beyond(found.y, self.classes)
            yield found

    @property
    def smallest(self) -> int | None:
        """Examples in the smallest batch of an epoch; None where the loader cannot say."""
        loader = self.loader
        if not isinstance(loader, DataLoader) or loader.batch_size is None or not hasattr(loader.dataset, "__len__"):
            return None
        n = len(loader.dataset)  # as many as a sampler takes, but for those that take fewer
        return loader.batch_size if loader.drop_last else n % loader.batch_size or loader.batch_size

    def one(self) -> Tensor | None:
        """(1, ...) the first input of the dataset; None where none can be asked for by position."""
        loader = self.loader
        if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset) or not len(loader.dataset):
            return None
        return as_batch(loader.collate_fn([loader.dataset[0]]), 0, "example 0 of the loader").x

    def refuse_classes_beyond(self, classes: int) -> None:
        """Refuse, in use, labels for which a network of so many logits has none."""
        self.classes = classes


def training_batches(data: Data, batch_size: int | None, seed: int) -> TensorLoader | Batches:
    """Shuffled batches of a training set that is no `DataModule` of ours.

    Args:
        data: a Lightning data module or a loader, whose batches stay as they are; a dataset, asked anew in each epoch;
            a `Split` or a pair of tensors, inputs in [0, 1] and classes.
        batch_size: of the last three; None: 128.
        seed: of their order.

    Raises:
        TypeError: none of these, or a batch size for what has its own.
        UserError: values or classes that are none.
    """
    if isinstance(data, L.LightningDataModule):
        data.prepare_data()
        data.setup("fit")
        data = data.train_dataloader()
    if isinstance(data, IterableDataset):  # in its own order
        return Batches(DataLoader(data, batch_size or BATCH))
    if _is_loader(data):
        if batch_size is not None:
            raise TypeError("batch_size is the loader's own: leave it out")
        return Batches(data)  # type: ignore[arg-type]
    if isinstance(data, Dataset) or _map_style(data):
        order = torch.Generator().manual_seed(seed)
        loader = DataLoader(data, batch_size or BATCH, shuffle=True, generator=order, collate_fn=_collate)  # type: ignore[arg-type]
        return Batches(loader)
    return TensorLoader(as_split(data, "train"), batch_size or BATCH, seed=seed)


def as_split(data: Any, name: str = "test") -> Split:
    """The examples of a dataset, a loader in order, a Lightning data module's test loader, or a pair of tensors.

    Raises:
        TypeError: none of these, or a loader that shuffles: positions would mean nothing.
        UserError: examples that are none.
    """
    if isinstance(data, Split):
        return data
    if isinstance(data, L.LightningDataModule):
        data.prepare_data()
        data.setup("test")
        data = data.test_dataloader()
    if _is_loader(data):
        if isinstance(data, DataLoader) and not isinstance(data.sampler, SequentialSampler):
            raise TypeError("the loader shuffles, and certificates name examples by their position: give its dataset")
        batches = list(Batches(data))
        x, y = torch.cat([batch.x for batch in batches]), torch.cat([batch.y for batch in batches])
    elif isinstance(data, Dataset) or _map_style(data):
        x, y = read_dataset(data, name)
    elif isinstance(data, Sequence) and len(data) == 2:
        x, y = as_batch(data, 0, name)[:2]
    else:
        raise TypeError(
            f"a {type(data).__name__} is no data: (inputs, classes), a Dataset, a DataLoader or a LightningDataModule"
        )
    check_examples(x, y, input_shape=x.shape[1:], num_classes=int(y.max()) + 1, where=name, data=f"{name} data")
    return Split(x, y, name)


def as_batch(batch: Any, start: int, where: str) -> Batch:
    """(inputs, classes, ...) as one of our batches, with the positions from `start`.

    Raises:
        UserError: it is something else, or inputs outside [0, 1].
    """
    if isinstance(batch, Batch):
        return batch
    if not isinstance(batch, Sequence) or isinstance(batch, str) or len(batch) < 2:
        raise UserError(f"a {type(batch).__name__}, not inputs and classes", where=where, fix="(inputs, classes)")
    x, y = as_input(batch[0], where), torch.as_tensor(batch[1])
    if y.dim() != 1 or len(x) != len(y) or y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise UserError(
            f"{y.dtype} classes of shape {tuple(y.shape)} for inputs of shape {tuple(x.shape)}",
            where=where,
            fix="one whole number from 0 per input; of one-hot rows their argmax",
        )
    y = y.long()
    if len(y):
        low, high = (float(value) for value in x.aminmax())
        if not (low >= 0 and high <= 1):
            raise UserError(
                f"inputs in [{low:.4g}, {high:.4g}], outside [0, 1]",
                where=where,
                fix="no normalisation in transforms: certtrain.models.Normalize as the network's first layer",
            )
        if int(y.min()) < 0:
            raise UserError(f"the class {int(y.min())}", where=where, fix="classes are numbers from 0")
    return Batch(x, y, torch.arange(start, start + len(y)))


def _collate(items: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Examples of a dataset, images among them, as a batch."""
    found = [example(item, "an example of the dataset") for item in items]
    return torch.stack([x for x, _ in found]), torch.tensor([y for _, y in found])


def _is_loader(data: Any) -> bool:
    return isinstance(data, DataLoader) or (hasattr(data, "__iter__") and not _map_style(data) and not _pair(data))


def _map_style(data: Any) -> bool:
    return hasattr(data, "__getitem__") and hasattr(data, "__len__") and not _pair(data)


def _pair(data: Any) -> bool:
    return isinstance(data, (tuple, list, Split))
