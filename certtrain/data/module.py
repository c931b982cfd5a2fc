"""The base of all data sets: splits in memory or on disk, checked; loaders on the training device."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import lightning as L
import torch
from torch import Tensor

from certtrain.data.augment import Augment
from certtrain.data.loader import SequentialLoader, TensorLoader
from certtrain.data.split import (
    Inputs,
    Split,
    carve_validation,
    check_examples,
    index_sha256,
    spread_positions,
    validation_count,
)
from certtrain.errors import UserError
from certtrain.threat.features import Feature

Part = tuple[Inputs, Tensor]


class DataModule(L.LightningDataModule):
    """A classification data set with a seeded validation split and pinned validation examples.

    A subclass states `name`, `input_shape`, `num_classes` (and, where they differ from the defaults below,
    `default_mean`, `default_std`, `default_augment`) and implements `load`.

    Args:
        data_dir: folder of the data files.
        batch_size: training examples per batch, on all devices together.
        eval_batch_size: examples per batch in evaluation, on each device.
        val_size: what is held out of the training part: a fraction in [0, 1) or a count; 0 trains on everything.
        seed: keys the order of the training examples and their augmentation.
        split_seed: keys the validation split alone, so that runs with other seeds can be compared.
        certify_examples: how many validation examples are pinned (all, when there are fewer).
        augment: options of `Augment` for training images; None for none.
        mean: normalisation for the network's first layer, per channel or one for all.
        std: likewise.
        drop_last: leave out a last training batch that is smaller.

    Attributes (after `setup`):
        train, val, test: `Split`s; validation and test are never augmented.
        certify_index: (k,) int64 positions in `val`, spread evenly.
        certify_index_sha256: `index_sha256` of their positions in the published training part.
        feature_names: names of a tabular set's features, else None.
        features: their ranges and kinds, in their own units, else None.
        class_names: names of the classes, else None.

    Raises:
        UserError: an option that makes no sense, or data that does not fit its declaration.
    """

    name: str
    input_shape: tuple[int, ...]
    num_classes: int
    default_mean: ClassVar[Sequence[float]] = (0.0,)
    default_std: ClassVar[Sequence[float]] = (1.0,)
    default_augment: ClassVar[Mapping[str, Any] | None] = None
    augment_type: ClassVar[type[Augment]] = Augment
    loader_type: ClassVar[type[TensorLoader]] = TensorLoader
    feature_names: list[str] | None = None
    features: Sequence[Feature] | None = None
    class_names: Sequence[str] | None = None
    train: Split
    val: Split
    test: Split
    certify_index: Tensor
    certify_index_sha256: str

    def __init__(
        self,
        data_dir: str | Path = "data",
        batch_size: int = 128,
        eval_batch_size: int = 512,
        val_size: float = 0.1,
        seed: int = 0,
        split_seed: int = 0,
        certify_examples: int = 200,
        augment: Mapping[str, Any] | Literal["default"] | None = "default",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        drop_last: bool = False,
    ) -> None:
        super().__init__()
        self.data_dir = Path(data_dir)
        self.batch_size = whole("batch_size", batch_size, 1)
        self.eval_batch_size = whole("eval_batch_size", eval_batch_size, 1)
        self.certify_examples = whole("certify_examples", certify_examples, 0)
        self.val_size, self.seed, self.split_seed, self.drop_last = val_size, seed, split_seed, drop_last
        self.mean = self._per_channel("mean", self.default_mean if mean is None else mean)
        self.std = self._per_channel("std", self.default_std if std is None else std)
        if augment == "default":
            augment = self.default_augment
        self.augment = self.augment_type.of(augment or {})
        if self.augment and len(self.input_shape) != 3:
            raise UserError(
                f"{self.name} has no images to augment", where="data.augment", fix="data.augment=null for tabular data"
            )
        self._loader: TensorLoader | None = None
        self._place: dict[str, int] | None = None

    @abstractmethod
    def load(self) -> tuple[Part, Part]:
        """The training and the test part as published: (x, y) each, x float32 in [0, 1] (or files of such), y int64."""

    def prepare_data(self) -> None:
        """Fetch what is missing; nothing by default."""

    def setup(self, stage: str | None = None) -> None:
        """Load, check, split and pin; does nothing the second time."""
        if hasattr(self, "train"):
            return
        parts = self.load()
        for part, title in zip(parts, ("training", "test")):
            check_examples(
                *part,
                input_shape=self.input_shape,
                num_classes=self.num_classes,
                where="data",
                data=f"the {title} part of {self.name}",
            )
        whole, test = Split(*parts[0], "train"), Split(*parts[1], "test")
        count = validation_count(self.val_size, len(whole))
        train, self.val = carve_validation(whole, count, self.split_seed)
        self.test = test
        self.certify_index = spread_positions(len(self.val), self.certify_examples)
        self.certify_index_sha256 = index_sha256(self.val.source[self.certify_index])
        self.train = train  # last: its presence says that everything above was done

    def train_dataloader(self) -> TensorLoader:
        """Training batches on the trainer's device, from the place where a resumed run stopped."""
        loader = self._training_loader()
        trainer = self.trainer
        if self._place is not None:
            loader.load_state_dict(self._place)
            self._place = None
        elif trainer is not None and trainer.fit_loop.epoch_progress.current.processed:
            loader.set_epoch(trainer.fit_loop.epoch_progress.current.processed)
        self._loader = loader
        return loader

    def val_dataloader(self) -> SequentialLoader | list:
        """The validation split in order; no loader at all when nothing was held out."""
        val = self._ready().val
        return self._evaluation_loader(val) if len(val) else []

    def test_dataloader(self) -> SequentialLoader:
        """The test part in order."""
        return self._evaluation_loader(self._ready().test)

    def steps_per_epoch(self, accumulate: int = 1) -> int:
        """Optimiser steps of one epoch: ceil(batches / accumulate), since a last short group steps, too."""
        return -(-len(self._training_loader("cpu")) // accumulate)

    def state_dict(self) -> dict[str, Any]:
        """The place in the training data. Lightning restores a loader's own state only in mid-epoch; this, always."""
        return {} if self._loader is None else {"loader": self._loader.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the place for the next training loader."""
        self._place = state_dict.get("loader")

    def _ready(self) -> DataModule:
        self.setup()
        return self

    def _training_loader(self, device: str | None = None) -> TensorLoader:
        trainer = self.trainer
        loader = self.loader_type(
            self._ready().train,
            self.batch_size,
            seed=self.seed,
            augment=self.augment or None,
            drop_last=self.drop_last,
            device=device or self._device(),
            **self._share(),
        )
        limit = trainer.limit_train_batches if trainer is not None else None
        if limit is not None:
            # The loader must know where the epoch ends: a place after its last batch is the next epoch's start.
            loader.limit(limit if isinstance(limit, int) else int(limit * len(loader)))
        return loader

    def _evaluation_loader(self, split: Split) -> SequentialLoader:
        return SequentialLoader(split, self.eval_batch_size, device=self._device(), **self._share())

    def _device(self) -> torch.device:
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device

    def _share(self) -> dict[str, int]:
        if self.trainer is None:
            return {}
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}

    def _per_channel(self, option: str, values: Sequence[float]) -> list[float]:
        values = [float(value) for value in values]
        if len(values) not in (1, self.input_shape[0]):
            raise UserError(
                f"{option} has {len(values)} values for {self.input_shape[0]} channels or features of {self.name}",
                where=f"data.{option}",
                fix=f"give {self.input_shape[0]}, or one for all",
            )
        return values * self.input_shape[0] if len(values) == 1 else values


def whole(option: str, value: int, least: int) -> int:
    """An option that is a whole number >= least.

    Raises:
        UserError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(
            f"{option} = {value!r} is not a whole number >= {least}",
            where=f"data.{option}",
            fix=f"data.{option}={max(least, 128)}",
        )
    return value
