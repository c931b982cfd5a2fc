"""Branch and bound as a stage: splits ReLUs until beta-CROWN proves every part (Wang et al. 2021, arXiv 2103.06624)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from certtrain.bounds import NativeEngine, margin_matrix
from certtrain.bounds.alpha import AlphaCrown
from certtrain.bounds.ascent import Search
from certtrain.bounds.crown import lower_bounds, refine
from certtrain.bounds.forward import Pass, propagate, rough
from certtrain.bounds.graph import Graph, unsupported
from certtrain.bounds.interval import InputSet
from certtrain.bounds.rules import Relu
from certtrain.bounds.subdomains import Bounder, Domains
from certtrain.certificates import INVALID, TIMEOUT, UNKNOWN, VERIFIED
from certtrain.certifiers.checks import check_same
from certtrain.certifiers.verifier import Problems, Subject, Verdicts, Verifier
from certtrain.errors import UserError
from certtrain.system import work
from certtrain.threat import Threat

LAST = 300  # iterations for a sub-domain in which nothing is left to split


class BranchAndBound(Verifier):
    """Verified where every part of a set is, the parts made by splitting one ReLU's input at 0 at a time.

    alpha-CROWN bounds the margins; those that stay open are split, the sub-domains of the least bounds first, at the
    neuron whose upper line costs the bound most. The boxes of the neurons inside stay those of the whole set but for
    the split one. Sub-domains are bounded together, slopes and multipliers from those of their parents, in float32; a
    sub-domain is closed by its bound in float64 alone.

    Complete for ReLU networks but for rounding and for parts without an unstable neuron whose bound the optimiser has
    not raised far enough: these are *unknown*. It looks for no counterexample; the cascade's attacks do.

    Args:
        time_limit: seconds of one example at one radius; what is open then is *timeout*.
        domains: sub-domains of one example that are bounded at most, likewise.
        batch_size: sub-domains bounded at once.
        iterations: of Adam for a sub-domain.
        rate: of its first step.
        root_iterations: of alpha-CROWN over the whole set.

    Raises:
        UserError: numbers out of range.
    """

    def __init__(
        self,
        time_limit: float = 60.0,
        domains: int = 100_000,
        batch_size: int = 64,
        iterations: int = 8,
        rate: float = 0.1,
        root_iterations: int = 20,
    ) -> None:
        if isinstance(time_limit, bool) or not isinstance(time_limit, (int, float)) or not time_limit > 0:
            what = f"time_limit = {time_limit!r} is not a number of seconds > 0"
            raise UserError(what, where="certifier.verifiers.bab.time_limit", fix="time_limit=60")
        for key, number in (("domains", domains), ("batch_size", batch_size)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                what = f"{key} = {number!r} is not a whole number >= 1"
                raise UserError(what, where=f"certifier.verifiers.bab.{key}", fix=f"{key}=64")
        self.time_limit, self.domains, self.batch_size = float(time_limit), domains, batch_size
        self.search = Search(iterations, rate)
        self.root = Search(root_iterations)

    def settings(self) -> Mapping[str, Any]:
        """The limits, and how bounds are raised."""
        limits = {"time_limit": self.time_limit, "domains": self.domains, "batch_size": self.batch_size}
        return limits | {
            "iterations": self.search.iterations,
            "rate": self.search.rate,
            "root_iterations": self.root.iterations,
        }

    def check(self, subject: Subject, problems: Problems) -> None:
        """Refuse networks without a ReLU, in which nothing can be split.

        Raises:
            UserError: there is none, or an operation without bounds.
        """
        with subject.frozen(), torch.no_grad():
            x, threat = next(problems.threat.parts(problems.x))
            steps = propagate(self._graph(subject, threat), InputSet.of(x, threat)).steps
        if not any(isinstance(step.op, Relu) for step in steps):
            raise unsupported("the network has no ReLU to split", "networks with ReLU", where="certifier.stages")

    def verify(self, subject: Subject, problems: Problems) -> Iterator[Verdicts]:
        """Example by example."""
        for at in range(len(problems)):
            work.tell(at / len(problems))
            one = problems.at(torch.tensor([at], device=problems.rows.device))
            began = time.perf_counter()
            found = self._decide(subject, one, began + self.time_limit)
            status, margin = np.array([found.status], dtype=object), np.array([found.margin])
            yield Verdicts(one.rows.cpu().numpy(), status, margin, time.perf_counter() - began)

    def _decide(self, subject: Subject, one: Problems, until: float) -> _Found:
        """The worst verdict over the sets whose union is meant."""
        least = np.inf
        for place, (x, threat) in enumerate(one.threat.parts(one.x)):
            with torch.inference_mode(False), torch.no_grad():
                run = propagate(self._graph(subject, threat), InputSet.of(x.clone(), threat))
                if place == 0:  # of the input itself
                    check_same(run.regions[-1].clean, one.logits)
                found = self._decide_set(subject, run, one.y, threat, until)
            if found.status != VERIFIED:
                return found
            least = min(least, found.margin)
        return _Found(VERIFIED, least)

    def _decide_set(self, subject: Subject, run: Pass, y: Tensor, threat: Threat, until: float) -> _Found:
        clean, step = run.regions[-1].clean, len(run.steps) - 1
        functions = margin_matrix(y, clean.shape[1], clean.dtype)
        refined = refine(run)
        crown = lower_bounds(run, refined.lines, step, functions)
        other = rough(self._graph(subject, threat), run)
        root = AlphaCrown(run, other, refined, self.root).least(step, functions, crown.new_zeros(()), crown)
        bounds = root.bounds[0]
        if not bounds.isfinite().all():
            return _Found(INVALID, np.nan)
        open_ = (~(bounds > 0)).nonzero().flatten()
        least = float(bounds[bounds > 0].min()) if len(open_) < len(bounds) else np.inf
        if not len(open_):
            return _Found(VERIFIED, least)
        bounder = Bounder(run, other, functions[0], self.search)
        return self._branch(bounder, bounder.root(root, open_), least, until)

    def _branch(self, bounder: Bounder, pool: Domains, least: float, until: float) -> _Found:
        """Split until nothing is open."""
        count = len(pool)
        while True:
            closed = pool.bound > 0
            if closed.any():
                least = min(least, float(pool.bound[closed].min()))
                pool = pool.take((~closed).nonzero().flatten())
            if not len(pool):
                return _Found(VERIFIED, least)
            margin = min(least, float(pool.bound.min()))
            if time.perf_counter() > until or count >= self.domains:
                return _Found(TIMEOUT, margin)
            order = pool.bound.argsort()
            size = max(1, self.batch_size // 2)
            worst, rest = pool.take(order[:size]), pool.take(order[size:])
            children, split = worst.halves()
            if not split.all():  # linear there: the multipliers alone decide
                last = bounder.bounded(worst.take((~split).nonzero().flatten()), LAST)
                if not (last.bound > 0).all():
                    return _Found(UNKNOWN, margin)
                least = min(least, float(last.bound.min()))
            if len(children):
                rest = rest.beside(bounder.bounded(children))
            count += len(children)
            pool = rest

    def _graph(self, subject: Subject, threat: Threat) -> Graph:
        engine = subject.engine(NativeEngine, threat)
        assert isinstance(engine, NativeEngine)
        return engine.graph


class _Found(NamedTuple):
    status: str
    margin: float
