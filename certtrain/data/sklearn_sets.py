"""The sets that scikit-learn carries: real data without a download."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from certtrain.data.module import DataModule, Part
from certtrain.data.split import stratified_positions
from certtrain.threat.features import describe_features

log = logging.getLogger(__name__)

TEST_SEED = 0  # the test parts are fixed for good: results stay comparable whatever the run's seed


class Digits(DataModule):
    """scikit-learn's digits (Alpaydin and Kaynak 1998): 1,797 real 8x8 images with 17 grey levels, here over 16.

    The test part is fixed: 360 images (20 %), the classes in proportion.
    """

    name = "digits"
    input_shape = (1, 8, 8)
    num_classes = 10

    def load(self) -> tuple[Part, Part]:
        """1,437 training and 360 test images."""
        from sklearn.datasets import load_digits

        data = load_digits()
        x = torch.from_numpy(data.images).to(torch.float32)[:, None] / 16
        return held_out(x, torch.from_numpy(data.target).long(), 360)


class BreastCancer(DataModule):
    """Wisconsin diagnostic breast cancer (Wolberg et al. 1995): 569 patients, 30 features, classes malignant, benign.

    The test part is fixed: 114 patients (20 %), the classes in proportion. Features are scaled to [0, 1] by the
    training part's (validation included) minimum and maximum; test values beyond are clipped and counted in
    `clipped_values`. A radius is therefore in units of each feature's range.
    """

    name = "breast_cancer"
    input_shape = (30,)
    num_classes = 2
    class_names = ("malignant", "benign")
    clipped_values: int

    def load(self) -> tuple[Part, Part]:
        """455 training and 114 test patients."""
        from sklearn.datasets import load_breast_cancer

        data = load_breast_cancer()
        self.feature_names = [str(name) for name in data.feature_names]
        (train, y), (test, y_test) = held_out(torch.from_numpy(data.data), torch.from_numpy(data.target).long(), 114)
        self.features = describe_features(self.feature_names, train)
        train, test, self.clipped_values = min_max(train, test)
        log.info("breast_cancer: %d of %d test values clipped to [0, 1]", self.clipped_values, test.numel())
        return (train, y), (test, y_test)


def held_out(x: Tensor, y: Tensor, count: int) -> tuple[Part, Part]:
    """A set without a published test part, cut in two for good."""
    test = stratified_positions(y, count, TEST_SEED)
    return (x[~test], y[~test]), (x[test], y[test])


def min_max(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor, int]:
    """Features scaled to [0, 1] by the training part: `(x - min) / (max - min)`, a constant feature to 0.

    Args:
        train: (n, d), any floating type.
        test: (m, d).

    Returns:
        float32 (n, d) and (m, d), the second clipped to [0, 1], and how many of its values were outside.
    """
    low, high = train.aminmax(dim=0)
    width = torch.where(high > low, high - low, 1)
    scaled = (test - low) / width
    clipped = scaled.clamp(0, 1)
    return ((train - low) / width).float(), clipped.float(), int((clipped != scaled).sum())
