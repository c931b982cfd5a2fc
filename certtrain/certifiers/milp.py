"""Mixed-integer programming as a stage: exact for networks of a few hundred unstable ReLUs (Tjeng et al. 2019)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from certtrain.bounds import NativeEngine
from certtrain.bounds.activations import LeakyRelu
from certtrain.bounds.affine import Affine
from certtrain.bounds.base import margin_matrix
from certtrain.bounds.crown import lower_bounds, refine
from certtrain.bounds.forward import Pass, propagate
from certtrain.bounds.graph import unsupported
from certtrain.bounds.interval import InputSet
from certtrain.bounds.rules import Concat, Relu, Sum
from certtrain.certificates import FALSIFIED, INVALID, TIMEOUT, UNKNOWN, VERIFIED
from certtrain.certifiers.checks import check_same
from certtrain.certifiers.verifier import Problems, Subject, Verdicts, Verifier
from certtrain.errors import UserError
from certtrain.system import work
from certtrain.threat import Box, Threat

Matrix = sparse.csr_matrix
# A dual bound counts only beyond what the solver's tolerances may move it by: by its 1e-7 on reduced costs, doubled, of
# the widths of all variables and rows, and by ten times its 1e-6 on rows and whole numbers of the largest number in the
# program (which only widen the program, and so lower its least value).
TRUST, REDUCED_COST = 1e-5, 2e-7
ROWS = 512  # functions of a layer whose coefficients are found at once


class Milp(Verifier):
    """Decides each margin by the mixed-integer program that the network is over the set, with HiGHS.

    With bounds [l, u] of each ReLU's input z from CROWN, one whole number d for each ReLU with l < 0 < u:

        h >= 0,  h >= z,  h <= u d,  h <= z - l (1 - d),  d in {0, 1};

    others are h = z or h = 0, affine layers are rows. The least margin is minimised for each class in turn, those that
    CROWN proves left out. A solution's input, put into the set, is a counterexample where the network says so. Only the
    solver's dual bound proves, never its solution, and only beyond what its tolerances may move it by: *verified* is as
    right as the solver is.

    Args:
        time_limit: seconds of one example at one radius; what is open then is *timeout*.

    Raises:
        UserError: a limit that is not > 0; highspy is not installed.
    """

    proof: ClassVar[str] = (
        f"mixed-integer programming (dual bounds of HiGHS in float64, beyond {TRUST:g} of the largest number in them "
        f"and {REDUCED_COST:g} of all widths)"
    )

    def __init__(self, time_limit: float = 60.0) -> None:
        if isinstance(time_limit, bool) or not isinstance(time_limit, (int, float)) or not time_limit > 0:
            raise UserError(
                f"time_limit = {time_limit!r} is not a number of seconds > 0",
                where="certifier.verifiers.milp.time_limit",
                fix="time_limit=60",
            )
        self.time_limit = float(time_limit)
        _solver()

    def settings(self) -> Mapping[str, Any]:
        """The solver, its version, and the limit."""
        return {"solver": f"highspy {metadata.version('highspy')}", "time_limit": self.time_limit}

    def check(self, subject: Subject, problems: Problems) -> None:
        """Refuse what is not piecewise linear, and sets that are not boxes.

        Raises:
            UserError: with the operation, or the set.
        """
        for x, threat in problems.threat.parts(problems.x):
            if not isinstance(threat.region(x), Box):
                raise UserError(
                    f"mixed-integer programming is over boxes, not over the set of {threat.symbol}",
                    where="certifier.stages and norm",
                    fix="norm=linf, or stages without milp",
                )
            with subject.frozen(), torch.no_grad():
                steps = _propagated(subject, x, threat).steps
            for step in steps:
                if not isinstance(step.op, Affine | Sum | Concat | Relu | LeakyRelu | None):
                    what = f"{step.name} ({type(step.op).__name__}) is not one that mixed-integer programming is about"
                    raise unsupported(what, "affine layers, sums, ReLU, LeakyReLU", where="certifier.stages")

    def verify(self, subject: Subject, problems: Problems) -> Iterator[Verdicts]:
        """Example by example."""
        matrices: dict[int, Matrix] = {}  # of the layers, by step, for all examples
        for at in range(len(problems)):
            work.tell(at / len(problems))
            one = problems.at(torch.tensor([at], device=problems.rows.device))
            began = time.perf_counter()
            found = self._decide(subject, one, began, matrices)
            yield Verdicts(
                one.rows.cpu().numpy(),
                np.array([found.status], dtype=object),
                np.array([found.margin]),
                time.perf_counter() - began,
                points=found.point,
            )

    def _decide(self, subject: Subject, one: Problems, began: float, matrices: dict[int, Matrix]) -> _Verdict:
        """The worst verdict over the boxes whose union is meant."""
        least = np.inf
        for place, (x, threat) in enumerate(one.threat.parts(one.x)):
            with torch.no_grad():
                run = _propagated(subject, x, threat)
            if place == 0:  # of the input itself
                check_same(run.regions[-1].clean, one.logits)
            found = self._decide_box(run, x, one.y, threat, began, matrices)
            if found.status != VERIFIED:
                return found
            least = min(least, found.margin)
        return _Verdict(VERIFIED, least)

    def _decide_box(
        self, run: Pass, x: Tensor, y: Tensor, threat: Threat, began: float, matrices: dict[int, Matrix]
    ) -> _Verdict:
        box = threat.region(x)
        assert isinstance(box, Box)
        with torch.no_grad():
            refined = refine(run)
            boxes = {**run.boxes, **refined.boxes}
            classes = margin_matrix(y, run.regions[-1].clean.shape[1], x.dtype)
            crown = _flat(lower_bounds(run, refined.lines, len(run.steps) - 1, classes))
        ends = [crown, *(_flat(end) for both in boxes.values() for end in both)]
        if not all(np.isfinite(end).all() for end in ends):
            return _Verdict(INVALID, np.nan)
        program = _Program(box)
        program.add(run, boxes, matrices)
        least = float(np.min(crown[crown > 0], initial=np.inf))
        open_ = [int(j) for j in np.argsort(crown) if not crown[j] > 0]
        for place, j in enumerate(open_):
            left = self.time_limit - (time.perf_counter() - began)
            found = program.least(classes[0, j].cpu().numpy(), left)
            if found.bound > 0:
                least = min(least, found.bound)
                continue
            margin = min(least, max(found.bound, crown[j]), *crown[open_[place + 1 :]], np.inf)
            if found.point is None:
                return _Verdict(found.status, margin)
            return _Verdict(FALSIFIED, margin, torch.from_numpy(found.point).to(x).view_as(x))
        return _Verdict(VERIFIED, least)


class _Verdict(NamedTuple):
    status: str
    margin: float
    point: Tensor | None = None


class _Least(NamedTuple):
    """Of one margin: a lower bound that may be trusted, a point where it may be <= 0, what is said of neither."""

    bound: float
    point: NDArray[np.float64] | None
    status: str


def _propagated(subject: Subject, x: Tensor, threat: Threat) -> Pass:
    engine = subject.engine(NativeEngine, threat)
    assert isinstance(engine, NativeEngine)
    return propagate(engine.graph, InputSet.of(x, threat))


class _Values(NamedTuple):
    """Numbers as functions of a program's variables v, `matrix @ v + constant`; variables that came later count 0."""

    matrix: Matrix
    constant: NDArray[np.float64]

    def over(self, columns: int) -> Matrix:
        """The matrix with as many columns."""
        m = self.matrix
        return sparse.csr_matrix((m.data, m.indices, m.indptr), (m.shape[0], columns))


class _Program:
    """The rows and variables of a network over a box; the first variables are the inputs.

    Args:
        box: of one example.
    """

    def __init__(self, box: Box) -> None:
        self.columns = 0
        self._bounds: list[tuple[NDArray[np.float64], NDArray[np.float64], bool]] = []
        self._rows: list[tuple[Matrix, NDArray[np.float64], NDArray[np.float64]]] = []
        self.input = self.logits = self._add(_flat(box.lower), _flat(box.upper))
        self.inputs = self.columns

    def add(self, run: Pass, boxes: Mapping[int, tuple[Tensor, Tensor]], matrices: dict[int, Matrix]) -> None:
        """The network.

        Args:
            run: the interval pass over the box.
            boxes: by step, bounds of each activation's input.
            matrices: of affine steps, where they are known; others are added.
        """
        values: list[_Values] = []
        for index, step in enumerate(run.steps):
            work.pause()
            before = [values[source] for source in step.sources]
            if step.op is None:
                values.append(self.input)
            elif isinstance(step.op, Affine):
                if index not in matrices:
                    matrices[index] = _matrix(step.op, run.regions[index].clean)
                zero = torch.zeros_like(run.regions[step.sources[0]].clean)
                values.append(_after(matrices[index], _flat(step.op.forward(zero)), before[0]))
            elif isinstance(step.op, Sum):
                values.append(self._sum(before[0], before[1], step.op.sign))
            elif isinstance(step.op, Concat):
                shapes = [run.regions[source].clean.shape for source in step.sources]
                values.append(self._joined(before, shapes, step.op.dim))
            else:  # alpha z + (1 - alpha) relu(z)
                alpha = step.op.alpha if isinstance(step.op, LeakyRelu) else 0.0
                relu = self._relu(before[0], *(_flat(end) for end in boxes[index]))
                values.append(self._sum(_scaled(before[0], alpha), _scaled(relu, 1 - alpha), 1))
        self.logits = values[-1]

    def _add(self, lower: NDArray[np.float64], upper: NDArray[np.float64], whole: bool = False) -> _Values:
        """Further variables, as values."""
        at, n = self.columns, len(lower)
        self._bounds.append((lower, upper, whole))
        self.columns += n
        ones = sparse.csr_matrix((np.ones(n), (np.arange(n), at + np.arange(n))), (n, self.columns))
        return _Values(ones, np.zeros(n))

    def _relu(self, z: _Values, lower: NDArray[np.float64], upper: NDArray[np.float64]) -> _Values:
        """relu(z): a variable for each that is not always 0, and a whole number for each that is unstable."""
        alive = np.flatnonzero(upper > 0)
        kinked = alive[lower[alive] < 0]
        h = self._add(np.maximum(lower[alive], 0), upper[alive])
        d = self._add(np.zeros(len(kinked)), np.ones(len(kinked)), whole=True).over(self.columns)
        above = h.over(self.columns) - z.over(self.columns)[alive]  # h - z, but for the constant of z
        kink, infinite = lower[alive] < 0, np.full(len(kinked), np.inf)
        line = z.constant[alive]
        self._row(above[~kink], line[~kink], line[~kink])  # h = z
        self._row(above[kink], line[kink], infinite)  # h >= z
        self._row(h.over(self.columns)[kink] - _rows_times(upper[kinked], d), -infinite, np.zeros(len(kinked)))
        self._row(above[kink] - _rows_times(lower[kinked], d), -infinite, line[kink] - lower[kinked])
        place = sparse.csr_matrix((np.ones(len(alive)), (alive, np.arange(len(alive)))), (len(upper), len(alive)))
        return _Values((place @ h.over(self.columns)).tocsr(), np.zeros(len(upper)))

    def _row(self, matrix: Matrix, lower: NDArray[np.float64], upper: NDArray[np.float64]) -> None:
        if matrix.shape[0]:
            self._rows.append((matrix.tocsr(), lower, upper))

    def _sum(self, one: _Values, two: _Values, sign: int) -> _Values:
        matrix = one.over(self.columns) + sign * two.over(self.columns)
        return _Values(matrix.tocsr(), one.constant + sign * two.constant)

    def _joined(self, parts: list[_Values], shapes: list[torch.Size], dim: int) -> _Values:
        """Tensors of these shapes (1, *shape), joined along a dimension that counts the batch."""
        ends = np.cumsum([0, *(shape.numel() for shape in shapes)])
        places = [torch.arange(start, start + shape.numel()).view(shape) for start, shape in zip(ends, shapes)]
        order = torch.cat(places, dim).flatten().numpy()
        matrix = sparse.vstack([part.over(self.columns) for part in parts]).tocsr()
        return _Values(matrix[order], np.concatenate([part.constant for part in parts])[order])

    def least(self, function: NDArray[np.float64], seconds: float) -> _Least:
        """A function (K,) of the logits at its least, within a number of seconds."""
        if not seconds > 0:
            return _Least(-np.inf, None, TIMEOUT)
        highs = _solver()
        lower, upper = (np.concatenate([one[end] for one in self._bounds]) for end in (0, 1))
        whole = np.concatenate([np.full(len(low), kind) for low, _, kind in self._bounds])
        model = highs.HighsLp()
        model.num_col_, model.col_lower_, model.col_upper_ = self.columns, lower, upper
        model.col_cost_ = self.logits.over(self.columns).T @ function
        model.offset_ = float(function @ self.logits.constant)
        matrix = None
        if self._rows:
            matrix = sparse.vstack([self._widened(rows) for rows, *_ in self._rows]).tocsr()
            model.num_row_ = matrix.shape[0]
            model.row_lower_, model.row_upper_ = (np.concatenate([rows[end] for rows in self._rows]) for end in (1, 2))
            model.a_matrix_.format_ = highs.MatrixFormat.kRowwise
            model.a_matrix_.start_, model.a_matrix_.index_ = matrix.indptr, matrix.indices
            model.a_matrix_.value_ = matrix.data
        if whole.any():
            model.integrality_ = [
                highs.HighsVarType.kInteger if one else highs.HighsVarType.kContinuous for one in whole
            ]
        trust = TRUST * max(1.0, abs(model.offset_), float(np.abs(lower).max()), float(np.abs(upper).max()))
        widths = upper - lower
        trust += REDUCED_COST * float(widths.sum() + (0.0 if matrix is None else (abs(matrix) @ widths).sum()))
        return _solve(model, seconds, trust, self.inputs, bool(whole.any()))

    def _widened(self, rows: Matrix) -> Matrix:
        return _Values(rows, np.zeros(0)).over(self.columns)


def _solve(model: Any, seconds: float, trust: float, inputs: int, whole: bool) -> _Least:
    highs = _solver()
    solver = _quiet(highs)()
    solver.setOptionValue("threads", 1)
    solver.setOptionValue("time_limit", seconds)
    solver.setOptionValue("random_seed", 0)
    solver.setOptionValue("mip_rel_gap", 0.0)
    solver.passModel(model)
    stopped: list[BaseException] = []

    def decided(event: Any) -> None:
        """The sign is known: a bound that proves, or a solution clearly below 0."""
        try:
            work.pause()
        except BaseException as error:  # it may not pass through the solver
            stopped.append(error)
        known = event.data_out.mip_dual_bound > 2 * trust or event.data_out.mip_primal_bound < -2 * trust
        event.data_in.user_interrupt = bool(stopped) or bool(known)

    solver.cbMipInterrupt.subscribe(decided)
    solver.run()
    if stopped:
        raise stopped[0]
    info, status = solver.getInfo(), solver.getModelStatus()
    finished = status == highs.HighsModelStatus.kOptimal
    bound = info.mip_dual_bound if whole else (info.objective_function_value if finished else -np.inf)
    bound = float(bound) - trust if np.isfinite(bound) else -np.inf
    solution = solver.getSolution()
    if bound > 0:
        return _Least(bound, None, VERIFIED)
    if solution.value_valid and info.objective_function_value <= trust:
        return _Least(bound, np.array(solution.col_value[:inputs]), UNKNOWN)
    return _Least(bound, None, UNKNOWN if finished else TIMEOUT)


def _matrix(op: Affine, out: Tensor) -> Matrix:
    """The matrix of an affine operation, whose output is like `out` (1, *shape)."""
    shape, found = out.shape[1:], []
    for rows in torch.arange(shape.numel(), device=out.device).split(ROWS):
        work.pause()
        unit = torch.nn.functional.one_hot(rows, shape.numel()).to(out).view(1, len(rows), *shape)
        found.append(sparse.csr_matrix(op.transpose(unit)[0].flatten(1).detach().cpu().numpy()))
    return sparse.vstack(found).tocsr()


def _after(matrix: Matrix, constant: NDArray[np.float64], values: _Values) -> _Values:
    return _Values((matrix @ values.matrix).tocsr(), matrix @ values.constant + constant)


def _scaled(values: _Values, factor: float) -> _Values:
    return _Values((values.matrix * factor).tocsr(), values.constant * factor)


def _rows_times(factors: NDArray[np.float64], matrix: Matrix) -> Matrix:
    return (sparse.diags(factors, shape=(len(factors), len(factors))) @ matrix).tocsr()


def _flat(values: Tensor) -> NDArray[np.float64]:
    return values.detach().flatten().cpu().numpy().astype(np.float64)


def _quiet(highs: Any) -> type[Any]:
    class Quiet(highs.Highs):
        """Says nothing, not even who it is, which it otherwise does when callbacks are made possible."""

        def enableCallbacks(self) -> Any:
            self.setOptionValue("output_flag", False)
            return super().enableCallbacks()

    return Quiet


def _solver() -> Any:
    """The solver's package.

    Raises:
        UserError: it is not installed.
    """
    try:
        import highspy
    except ImportError as error:
        raise UserError("highspy is not installed", where="certifier.stages", fix="pip install highspy") from error
    return highspy
