"""The smoothed classifier g(x) = argmax_k P(f(x + N(0, sigma^2 I)) = k), and its certificates (Cohen et al. 2019)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from certtrain.errors import UserError
from certtrain.models.invariance import EXAMPLES, check_function, some_of
from certtrain.smoothing.anytime import StageSchedule
from certtrain.smoothing.confidence import vote_is_decided
from certtrain.smoothing.distribution import Gaussian, Noise
from certtrain.smoothing.noise import Purpose, Split
from certtrain.smoothing.staged import (
    ABSTAIN,
    SELECT_AND_ESTIMATE,
    CertifiedTargets,
    certify_targets,
    check_draw_counts,
    check_streams,
)
from certtrain.smoothing.votes import Precision, Votes, check_precision, count_votes
from certtrain.system.work import part

CHECKED = EXAMPLES // 2  # inputs that are checked without noise and with it


class Certified(NamedTuple):
    """CERTIFY's answer for a batch; all (B,).

    Attributes:
        predict: the class, or -1 = ABSTAIN.
        radius: float64 l2 radius in input units, 0 where it abstains.
        count_top: estimation votes for the class that the selection chose (also where it abstains).
        count_runner_up: the most estimation votes of any other class.
        p_lower: lower confidence bound of the top class' probability.
        invalid: a logit was NaN or infinite: abstains, whatever the votes say.
        near_ties: estimation votes that another batch size might have changed.
        top: the class that the selection chose, also where it abstains.
    """

    predict: NDArray[np.int64]
    radius: NDArray[np.float64]
    count_top: NDArray[np.int64]
    count_runner_up: NDArray[np.int64]
    p_lower: NDArray[np.float64]
    invalid: NDArray[np.bool_]
    near_ties: NDArray[np.int64]
    top: NDArray[np.int64]


class SmoothedClassifier:
    """A network smoothed by noise of its input.

    The network gets x + noise for x in [0, 1] and normalises by itself: noise of standard deviation `sigma` in input
    units comes before it. While votes are counted the network is `frozen`; nothing of it is changed.

    What holds with a probability holds for inputs that were chosen without looking at their noise. Who knows seed and
    index can search for inputs with untypical noise: where inputs come from others, keep the seed to yourself and let
    the index follow from the input's content.

    Args:
        network: maps (R, ...) inputs to (R, K) logits, on the device of the inputs.
        sigma: standard deviation of Gaussian noise, > 0; or another noise.
        num_classes: K >= 2.
        batch_size: rows per evaluation of the network, filled across examples and draws.
        precision: `float32`, or `bfloat16` or `float16` by autocast: what is smoothed and certified is then the network
            in that arithmetic. The noise is float32 in any case.

    Raises:
        UserError: sigma, num_classes, batch_size or precision out of range.
    """

    def __init__(
        self,
        network: nn.Module,
        sigma: float | Noise,
        num_classes: int,
        *,
        batch_size: int = 512,
        precision: Precision = "float32",
    ) -> None:
        self.noise = sigma if isinstance(sigma, Noise) else Gaussian(sigma)
        if num_classes < 2:
            raise UserError(f"a classifier of {num_classes} classes", where="num_classes", fix="at least 2")
        if batch_size < 1:
            raise UserError(f"batch_size = {batch_size}", where="smoothing batch_size", fix="batch_size >= 1")
        check_precision(precision)
        self.network, self.sigma = network, self.noise.sigma
        self.num_classes, self.batch_size, self.precision = num_classes, batch_size, precision

    def check(self, x: Tensor) -> None:
        """Refuse what no certificate would be about: what `certify`, `certify_targets` and `predict` do first.

        Raises:
            UserError: a network that is not one function of each input, with noise or without (see
                `certtrain.models.invariance`).
        """
        if not len(x):
            return
        few = some_of(x, CHECKED)
        index = torch.arange(len(few), device=x.device)
        noise = self.noise.rows(0, "selftest", "predict", index, torch.zeros_like(index), few.shape[1:])
        check_function(self.network, torch.cat([few, few + noise.to(few.dtype)]))

    def votes(self, x: Tensor, index: Tensor, draws: range, *, seed: int, purpose: Purpose, split: Split) -> Votes:
        """Votes of each example over the draws of one purpose."""
        return count_votes(
            self.network,
            x,
            index,
            draws,
            sigma=self.noise.rows,
            num_classes=self.num_classes,
            seed=seed,
            purpose=purpose,
            split=split,
            batch_size=self.batch_size,
            precision=self.precision,
        )

    def certify(
        self,
        x: Tensor,
        index: Tensor,
        n0: int = 100,
        n: int = 1000,
        alpha: float = 0.001,
        seed: int = 0,
        split: Split = "test",
        purposes: tuple[Purpose, Purpose] = SELECT_AND_ESTIMATE,
        two_sided: bool = False,
    ) -> Certified:
        """CERTIFY: the class from n0 selection draws, its radius from n estimation draws of another stream.

        For each example, with probability at least 1 - alpha over the draws: where it does not abstain, g answers
        `predict` at every point within distance `radius`, in l2 under Gaussian noise (see `Noise.threat`).

        Args:
            x: (B, ...) inputs in [0, 1].
            index: (B,) int64 positions in the split.
            n0: selection draws.
            n: estimation draws.
            alpha: probability with which one certificate may be wrong.
            seed, split: the noise's key.
            purposes: streams of selection and estimation; never the same.
            two_sided: bound the other classes too (see `Noise.two_sided`) rather than by 1 - p_lower.

        Raises:
            UserError: n0 or n < 1, alpha outside (0, 1), one stream for both purposes; as `check` and `votes`.
        """
        check_draw_counts(n0, n, alpha)
        check_streams(purposes)
        self.check(x)
        with part(0, n0 / (n0 + n)):
            selection = self.votes(x, index, range(n0), seed=seed, purpose=purposes[0], split=split)
        with part(n0 / (n0 + n), 1):
            estimation = self.votes(x, index, range(n), seed=seed, purpose=purposes[1], split=split)
        top = selection.counts.cpu().numpy().argmax(axis=1)
        counts = estimation.counts.cpu().numpy()
        invalid = (selection.invalid | estimation.invalid).cpu().numpy()

        rows = np.arange(len(counts))
        others = counts.copy()
        others[rows, top] = -1
        if two_sided:
            # A draw that was no vote counts against the top class: n stays n. Its example abstains in any case.
            against = others.max(axis=1) + n - counts.sum(axis=1)
            proof = self.noise.two_sided(counts[rows, top], against, self.num_classes, n, alpha)
        else:
            proof = self.noise.one_sided(counts[rows, top], n, alpha)
        abstain = proof.abstain | invalid
        return Certified(
            predict=np.where(abstain, ABSTAIN, top),
            radius=np.where(abstain, 0.0, proof.radius),
            count_top=counts[rows, top],
            count_runner_up=others.max(axis=1),
            p_lower=proof.p_lower,
            invalid=invalid,
            near_ties=estimation.near_ties.cpu().numpy(),
            top=top,
        )

    def certify_targets(
        self,
        x: Tensor,
        index: Tensor,
        schedule: StageSchedule,
        n0: int = 100,
        seed: int = 0,
        split: Split = "test",
        purposes: tuple[Purpose, Purpose] = SELECT_AND_ESTIMATE,
    ) -> CertifiedTargets:
        """Which targets the radius reaches, by as many draws as that takes.

        For each example, with probability at least 1 - alpha over the draws: where it does not abstain, g answers
        `predict` at every point within l2 distance `radius`, the largest target reached (see `smoothing.anytime`). The
        draws are the first ones of the same streams that `certify` draws from.

        Args:
            x: (B, ...) inputs in [0, 1].
            index: (B,) int64 positions in the split.
            schedule: looks and boundaries, for this sigma.
            n0: selection draws.
            seed, split: the noise's key.
            purposes: streams of selection and estimation; never the same.

        Raises:
            UserError: n0 < 1, one stream for both purposes; as `check` and `votes`.
            ValueError: a schedule for another sigma.
        """
        self.check(x)
        return certify_targets(self, x, index, schedule, n0, seed, split, purposes)

    def predict(
        self,
        x: Tensor,
        index: Tensor,
        n: int = 1000,
        alpha: float = 0.001,
        seed: int = 0,
        split: Split = "predict",
        purpose: Purpose = "estimate",
    ) -> NDArray[np.int64]:
        """PREDICT: the class with most votes of n draws, or ABSTAIN where it is not clear enough from the second.

        Wrong (another class than g's) with probability at most alpha for each example. No radius.

        Returns:
            (B,) int64 classes, -1 = ABSTAIN.

        Raises:
            UserError: n < 1, alpha outside (0, 1); as `check` and `votes`.
        """
        check_draw_counts(1, n, alpha)
        self.check(x)
        votes = self.votes(x, index, range(n), seed=seed, purpose=purpose, split=split)
        counts = votes.counts.cpu().numpy()
        top = counts.argmax(axis=1)
        if not len(counts):
            return top
        second, first = np.partition(counts, -2, axis=1)[:, -2:].T
        invalid = votes.invalid.cpu().numpy()
        decided = vote_is_decided(np.where(invalid, 1, first), np.where(invalid, 1, second), alpha)
        return np.where(decided & ~invalid, top, ABSTAIN)
