"""What every noise must do: its law, its keys, and its radii against the worst classifier, by exact enumeration."""

from __future__ import annotations

import json
import math
from itertools import pairwise, product
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binom, chi2, kurtosis
from torch import Tensor

from certtrain.smoothing.distribution import Noise
from certtrain.testing.states import refused

Floats = NDArray[np.float64]
CPU = torch.device("cpu")
P = np.array([0.5, 0.5 + 1e-9, 0.501, 0.6, 0.75, 0.9, 0.99, 0.999, 1 - 1e-6])
PAIRS = ((0.9, 0.1), (0.9, 0.02), (0.6, 0.3), (0.45, 0.4), (0.5, 0.01), (0.7, 1e-4))
DEVIATIONS = 6.0
CHANCE = 1e-9
CELLS = {1: 3000, 2: 150}  # along a coordinate, by the number of coordinates


class NoiseSuite:
    """Inherit, and define `kind` and `cdf`. Coordinates are taken to be independent and alike.

    Attributes:
        kind: the class of the noise.
        sigmas: at which it is tried.
        tight: whether the radius is that of the worst classifier when one coordinate changes, and not below it.
        tight_between: the same of `between`, of two classes that are not all.
    """

    kind: ClassVar[type[Noise]]
    sigmas: ClassVar[tuple[float, ...]] = (0.05, 0.25, 1.0)
    tight: ClassVar[bool] = True
    tight_between: ClassVar[bool] = True

    def cdf(self, noise: Noise, z: Floats) -> Floats:
        """P(coordinate <= z) under the law that it claims to have."""
        raise NotImplementedError

    def drawn(self, noise: Noise, *, count: int = 2000, size: int = 100, purpose: Any = "estimate") -> Tensor:
        """(count, size) float32 numbers."""
        index = torch.arange(count)
        return noise.rows(3, purpose, "test", index, index % 7, (size,))

    # The law.

    def test_numbers_have_the_moments_of_the_law(self) -> None:
        """Mean 0 and standard deviation sigma, within six standard errors."""
        for sigma in self.sigmas:
            z = self.drawn(self.kind(sigma)).double().numpy().ravel()
            assert abs(z.mean()) < DEVIATIONS * sigma / math.sqrt(len(z)), f"sigma {sigma}"
            spread = math.sqrt(max(kurtosis(z) + 2, 0.01) / len(z))
            assert abs(z.var() / sigma**2 - 1) < DEVIATIONS * spread, f"sigma {sigma}"

    def test_numbers_follow_the_law(self) -> None:
        """All possible under it, and equally many in each of 64 equally probable parts."""
        for sigma in self.sigmas:
            noise = self.kind(sigma)
            at = self.cdf(noise, self.drawn(noise).double().numpy().ravel())
            assert bool(((at > 0) & (at < 1)).all()), "a number that the law does not give"
            counts, _ = np.histogram(at, 64, (0, 1))
            expected = len(at) / 64
            assert ((counts - expected) ** 2 / expected).sum() < chi2.isf(CHANCE, 63), f"sigma {sigma}"

    def test_numbers_are_independent(self) -> None:
        """Of neighbours in a row, of neighbouring draws, and of the two streams of a certificate."""
        noise = self.kind(1.0)
        rows, other = (self.drawn(noise, purpose=purpose).double() for purpose in ("select", "estimate"))
        for one, two in ((rows[:, 1:], rows[:, :-1]), (rows[1:], rows[:-1]), (rows, other)):
            assert abs(float((one * two).mean())) < DEVIATIONS / math.sqrt(one.numel())
        assert len(torch.unique(rows[:, :8], dim=0)) == len(rows), "a row comes twice"

    # The keys.

    def test_numbers_are_keyed(self) -> None:
        """Bits of a row depend on seed, purpose, split, index and draw alone, and on each of them."""
        noise, shape = self.kind(0.25), (3, 5)
        index = torch.tensor([0, 0, 3, 2**40, 2**40 + 1])
        draw = torch.tensor([0, 1, 1, 1, 2**32 - 1])

        def rows(index: Tensor, draw: Tensor, seed: int = 1, purpose: Any = "estimate", split: Any = "test") -> Tensor:
            return noise.rows(seed, purpose, split, index, draw, shape)

        torch.manual_seed(0)
        before, whole = torch.get_rng_state(), rows(index, draw)
        assert whole.dtype == torch.float32
        assert whole.shape == (5, *shape)
        assert torch.equal(before, torch.get_rng_state()), "the global generator was used"
        order = torch.tensor([4, 1, 3])
        torch.manual_seed(1)
        assert torch.equal(rows(index[order], draw[order]), whole[order]), "a row depends on its batch or place"
        assert all(torch.equal(rows(index[i : i + 1], draw[i : i + 1])[0], whole[i]) for i in range(5))
        assert torch.equal(type(noise)(0.25).rows(1, "estimate", "test", index, draw, shape), whole)
        for one, two in pairwise(whole):
            assert not torch.equal(one, two), "two examples or draws have the same noise"
        others: tuple[dict[str, Any], ...] = ({"seed": 2}, {"purpose": "select"}, {"split": "val"})
        for other in others:
            assert not bool((rows(index, draw, **other) == whole).flatten(1).all(1).any()), f"{other} is ignored"
        if torch.accelerator.is_available():
            device = torch.accelerator.current_accelerator()
            assert torch.equal(rows(index.to(device), draw.to(device)).cpu(), whole), "another device, other bits"

    def test_a_stream_that_there_is_not_is_refused(self) -> None:
        """A purpose or split that is misspelt would be a stream of its own."""
        index = torch.arange(2)
        for purpose, split in (("estimates", "test"), ("estimate", "tests")):
            key: tuple[Any, Any] = (purpose, split)
            assert refused(lambda key=key: self.kind(0.25).rows(0, *key, index, index, (2,)))

    # The radii.

    def test_a_radius_is_0_at_one_half_and_grows(self) -> None:
        """Finite below p = 1, and never smaller for a more probable class."""
        for sigma in self.sigmas:
            radius = self.kind(sigma).radius(P)
            assert radius.shape == P.shape
            assert radius.dtype == np.float64
            assert abs(radius[0]) <= 1e-12 * sigma, "a class of probability 1/2 has no radius"
            assert bool((radius >= 0).all() and np.isfinite(radius).all())
            assert bool((np.diff(radius) >= 0).all())
            assert radius[-1] > 0

    def test_a_radius_between_two_classes(self) -> None:
        """That of one class alone where the other has all the rest; 0 of equal ones; monotone in both."""
        for sigma in self.sigmas:
            noise = self.kind(sigma)
            alone, both = noise.radius(P), noise.between(P, 1 - P)
            np.testing.assert_allclose(both, alone, rtol=1e-6, atol=1e-9 * sigma)
            even = np.array([0.1, 0.3, 0.5])
            assert bool((noise.between(even, even) <= 1e-12 * sigma).all())
            for falling in (noise.between(np.full(9, 0.6), np.linspace(0.01, 0.4, 9)), noise.between(*_falling())):
                assert bool((np.diff(falling) <= 1e-12 * sigma).all())

    def test_no_radius_is_larger_than_that_of_the_worst_classifier(self) -> None:
        """In one and two dimensions, by Neyman and Pearson's lemma over a partition into cells of exact probability.

        Of all classifiers made of cells the worst leaves the class at a changed input as little probability as any can;
        at a change within the radius that is no less than 1/2. A partition has fewer classifiers than there are, and
        may only be too mild.
        """
        for sigma, dimensions in product(self.sigmas[:1] + self.sigmas[-1:], CELLS):
            noise = self.kind(sigma)
            for p in P[3:8].tolist():
                reach = float(noise.radius(np.array([p]))[0])
                for change in self.changes(noise, dimensions, reach):
                    least, _ = self.worst(noise, change, p, 0.0)
                    assert least >= 0.5 - 1e-9, f"sigma {sigma}, p {p}: {least} is left at {change}"

    def test_no_radius_between_two_classes_is_larger_than_that_of_the_worst(self) -> None:
        """The same where the other class gets as much as any can."""
        for dimensions, (p_a, p_b) in product(CELLS, PAIRS):
            noise = self.kind(0.5)
            reach = float(noise.between(np.array([p_a]), np.array([p_b]))[0])
            for change in self.changes(noise, dimensions, reach):
                least, most = self.worst(noise, change, p_a, p_b)
                assert least >= most - 1e-9, f"p {p_a}, {p_b}: {least} against {most} at {change}"

    def test_radii_are_as_large_as_they_can_be(self) -> None:
        """At a change of one coordinate that is 2 % longer the worst classifier answers another class."""
        for p in P[3:8].tolist() if self.tight else ():
            noise = self.kind(0.5)
            change = self.changes(noise, 1, 1.02 * float(noise.radius(np.array([p]))[0]))[0]
            assert self.worst(noise, change, p, 0.0)[0] < 0.5, f"p {p}"
        for p_a, p_b in PAIRS if self.tight_between else ():
            noise = self.kind(0.5)
            change = self.changes(noise, 1, 1.02 * float(noise.between(np.array([p_a]), np.array([p_b]))[0]))[0]
            least, most = self.worst(noise, change, p_a, p_b)
            assert least < most, f"p {p_a}, {p_b}"

    def changes(self, noise: Noise, dimensions: int, distance: float) -> list[Floats]:
        """Changes of the input of this distance: along one coordinate, along all alike, and between."""
        found = []
        for shares in [(1.0,)] if dimensions == 1 else [(1.0, 0.0), (1.0, 1.0), (1.0, -0.3)]:
            unit = float(noise.threat.distance(torch.tensor([shares], dtype=torch.float64))[0])
            found.append(np.array(shares) * (distance / unit))
        return found

    def worst(self, noise: Noise, change: Floats, p_a: float, p_b: float) -> tuple[float, float]:
        """The least that a class of probability p_a can have at the change, and the most that one of p_b can."""
        here, there = np.ones(1), np.ones(1)
        cells = CELLS[len(change)]
        for shift in change.tolist():
            span = 8 * noise.sigma + abs(shift)
            inner = np.linspace(-span, span, cells - 1)
            edges = np.concatenate([[-np.inf], inner, [np.inf]])
            here = np.outer(here, np.diff(self.cdf(noise, edges))).ravel()
            there = np.outer(there, np.diff(self.cdf(noise, edges - shift))).ravel()
        with np.errstate(divide="ignore", invalid="ignore"):
            order = np.argsort(np.where(there > 0, here / there, np.inf))[::-1]  # first what the change makes rarest
        here, there = here[order], there[order]
        return _mass(here, there, p_a, 0.0), _mass(here[::-1], there[::-1], p_b, 1.0)

    # Confidence.

    def test_claims_are_wrong_no_more_often_than_alpha(self) -> None:
        """Of certificates from simulated votes, of classes that barely have a radius and of such that have a large."""
        generator, noise, trials, n, alpha = np.random.default_rng(0), self.kind(0.5), 4000, 100, 0.05
        allowed, claimed = int(binom.isf(1e-6, trials, alpha)), 0
        for p in (0.45, 0.52, 0.7, 0.95):
            true = float(noise.radius(np.array([p]))[0]) if p >= 0.5 else 0.0
            found = noise.one_sided(generator.binomial(n, p, trials), n, alpha)
            assert int((~found.abstain & (found.radius > true)).sum()) <= allowed, f"one-sided, p {p}"
            assert not found.radius[found.abstain].any()
            claimed += int((found.radius > 0).sum())
            rest = (1 - p) * np.array([0.7, 0.3])
            votes = generator.multinomial(n, [p, *rest], trials)
            found = noise.two_sided(votes[:, 0], votes[:, 1:].max(1), 3, n, alpha)
            true = float(noise.between(np.array([p]), rest[:1])[0])
            assert int((~found.abstain & (found.radius > true)).sum()) <= allowed, f"two-sided, p {p}"
            assert not found.radius[found.abstain].any()
        assert claimed > trials, "it claims next to nothing"

    def test_the_fewest_draws_are_enough_and_fewer_are_not(self) -> None:
        """As its reach and its advice are told."""
        noise, alpha = self.kind(0.5), 0.001
        for n in (20, 1000):
            wanted = float(noise.one_sided(n, n, alpha).radius)
            assert noise.fewest_draws(wanted, alpha) == n

    # What it says.

    def test_settings_state_it(self) -> None:
        """In plain JSON, from which the same noise is made."""
        for sigma in self.sigmas:
            noise = self.kind(sigma)
            stated = json.loads(json.dumps(noise.settings()))
            assert stated == noise.settings()
            again = self.kind.from_settings(stated)
            assert (again.sigma, again.settings(), again.brief) == (sigma, noise.settings(), noise.brief)
            assert np.array_equal(again.radius(P), noise.radius(P))
        assert all((self.kind.name, self.kind.law, self.kind(0.25).brief, self.kind.threat.symbol))

    def test_what_is_no_standard_deviation_is_refused(self) -> None:
        """Whoever states it: the command line, or the card of a stranger."""
        for sigma in (0, -0.25, math.inf, math.nan, True, "0.25", None):
            wrong: Any = sigma
            assert refused(lambda wrong=wrong: self.kind(wrong)), sigma
            assert refused(lambda wrong=wrong: self.kind.from_settings({"sigma": wrong})), sigma

    def test_its_test_of_itself_passes_it_and_refuses_broken_ones(self) -> None:
        """Another standard deviation, one sign, and rows that come twice."""
        report = self.kind(0.25).test(CPU, seed=0, precision="float32")
        assert json.loads(json.dumps(report)) == report
        for change in (lambda z: 1.02 * z, lambda z: z.abs(), lambda z: z[:1].expand_as(z)):

            def rows(self: Noise, *key: Any, whole: Any = self.kind.rows, change: Any = change) -> Tensor:
                return change(whole(self, *key))

            broken = type("Broken", (self.kind,), {"rows": rows})(0.25)
            assert refused(lambda broken=broken: broken.test(CPU, seed=1, precision="float32"))


def _falling() -> tuple[Floats, Floats]:
    p_a = np.linspace(0.9, 0.3, 9)
    return p_a, np.full(9, 0.1)


def _mass(here: Floats, there: Floats, p: float, free: float) -> float:
    """The probability there of the first cells whose probability here is p, the last of them in part.

    Cells of no probability here are free to take, or to leave.
    """
    before = np.concatenate([[0.0], np.cumsum(here)])[:-1]
    share = np.divide(p - before, here, out=np.full_like(here, free), where=here > 0).clip(0, 1)
    return float((share * there).sum())
