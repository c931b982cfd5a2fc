"""Imports auto_LiRPA on a current torch and numpy, whose removed names its release on the package index still uses.

Every repair is made by feature detection: a newer auto_LiRPA, or an older torch, is left as it is. auto_LiRPA changes
the warning filters, the root logger and Python's recursion limit (to 1,000,000, at which a file that is nested without
end takes the process down) when it is imported; all are put back, and `deep_recursion` is for the engine's own work.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import logging
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

from certtrain.errors import UserError
from certtrain.system.work import pause

if TYPE_CHECKING:
    from torch import Tensor, nn

RELEASE = "0.3"
RECURSION = 20_000  # a few frames for each of some thousand operations
INSTALL = (
    f"pip install --no-deps auto_LiRPA=={RELEASE} && pip install appdirs setuptools tqdm  (release {RELEASE} declares"
    " torch<1.13 although it runs on current torch: hence --no-deps, and then the packages that it imports)"
)


def load() -> ModuleType:
    """The module auto_LiRPA, made to run on the installed torch and numpy.

    Raises:
        UserError: it, or a package that it imports, is not installed; the message has the lines that install them.
    """
    loaded = sys.modules.get("auto_LiRPA")
    if loaded is not None:
        return loaded
    _mend_torch()
    try:
        with _numpy_arraysetops(), _global_state_kept():
            lirpa = importlib.import_module("auto_LiRPA")
    except ImportError as error:
        for name in [name for name in sys.modules if name.partition(".")[0] == "auto_LiRPA"]:
            sys.modules.pop(name)  # a later attempt must not find the half of it that was imported
        raise UserError(
            f"the bound engine auto_lirpa cannot be imported: {error}",
            where="bounds=auto_lirpa",
            fix=f"{INSTALL}; or use bounds=native",
        ) from error
    if getattr(lirpa, "__version__", None) == RELEASE:
        _mend_slope_gradient()
    return lirpa


def version() -> str:
    """The installed release of auto_LiRPA; `unknown` for a source tree that has no metadata."""
    try:
        return importlib.metadata.version("auto_LiRPA")
    except importlib.metadata.PackageNotFoundError:
        return getattr(load(), "__version__", "unknown")


@contextlib.contextmanager
def _numpy_arraysetops() -> Iterator[None]:
    """numpy 2 made `numpy.lib.arraysetops`, from which auto_LiRPA 0.3 imports `isin`, private: lend it meanwhile."""
    import numpy

    name = "numpy.lib.arraysetops"
    try:
        importlib.import_module(name)
        lent = False
    except ImportError:
        module = types.ModuleType(name)
        module.isin = numpy.isin
        sys.modules[name] = module
        lent = True
    try:
        yield
    finally:
        if lent:
            del sys.modules[name]


@contextlib.contextmanager
def _global_state_kept() -> Iterator[None]:
    root, recursion = logging.getLogger(), sys.getrecursionlimit()
    handlers, level, disabled = root.handlers[:], root.level, root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda *_args, **_kwargs: None  # deprecations of what the old release is built on
            yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.disable(disabled)
        sys.setrecursionlimit(recursion)


@contextlib.contextmanager
def deep_recursion() -> Iterator[None]:
    """Room for auto_LiRPA, which recurses from the output of a network through all of its layers."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, RECURSION))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def _mend_torch() -> None:
    """Give back the two names of torch's graph exporter that auto_LiRPA's parser calls."""
    import torch
    from torch.onnx import symbolic_helper as exporter_helper

    # What `from torch.onnx.symbolic_helper import ...` reads; on new torch the attribute of the package is another one.
    public = importlib.import_module("torch.onnx.symbolic_helper")
    if not hasattr(public, "_set_opset_version"):
        exporter = _exporter_globals()

        def set_opset_version(opset: int) -> None:
            exporter.export_onnx_opset_version = opset

        public._set_opset_version = set_opset_version

    if not hasattr(torch._C.Node, "__getitem__"):

        def getitem(node: torch._C.Node, key: str) -> object:
            return exporter_helper._node_get(node, key)

        torch._C.Node.__getitem__ = getitem


def _mend_slope_gradient() -> None:
    """Let alpha-CROWN optimise: its slopes start at 0 and 1, where the gradient of current torch's clamp is 0.

    Without this every step of the optimisation leaves every slope where it was, and alpha-CROWN returns CROWN's bounds.
    """
    import torch
    from auto_LiRPA.operators.activation import BoundRelu

    def masked_slopes(
        lower: Tensor, upper: Tensor, for_lower: Tensor | None, for_upper: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """The slopes of unstable neurons, 1 for active and 0 for inactive ones.

        Never that all are inactive: the library would then stop, and its loss have no gradient to go on with.
        """
        active, inactive = lower >= 0, upper <= 0

        def masked(slopes: Tensor | None) -> Tensor | None:
            if slopes is None:
                return None
            slopes = slopes.to(lower.dtype)
            slopes = slopes + (slopes.clamp(0, 1) - slopes).detach()  # the library keeps them in [0, 1]: + 0
            return slopes.masked_fill(inactive & ~active, 0).masked_fill(active, 1)

        return masked(for_lower), masked(for_upper), torch.zeros((), dtype=torch.bool)

    BoundRelu._relu_mask_alpha = staticmethod(masked_slopes)


def _exporter_globals() -> object:
    """`GLOBALS` of the graph exporter, which moved between releases of torch."""
    for name in ("torch.onnx._internal.torchscript_exporter._globals", "torch.onnx._globals"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(name).GLOBALS
    raise UserError(
        "this release of torch has no TorchScript graph exporter, which auto_LiRPA reads networks with",
        where="bounds=auto_lirpa",
        fix="use bounds=native",
    )


def _after_a_pause(work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    pause()
    return work(*args, **kwargs)


@functools.cache
def bounded_module_class() -> type[nn.Module]:
    """auto_LiRPA's `BoundedModule`, with what release 0.3 gets wrong put right.

    - `parameters()` fails on current torch, and is asked for the dtype: ours are the buffers.
    - For l2 balls the interval bound of a first convolution takes the whole kernel's norm at the border too, and a
      radius per example is broadcast over channels: `_BallConv` does both exactly.
    """
    lirpa = load()
    import torch
    import torch.nn.functional as F
    from auto_LiRPA.bound_ops import BoundConv, BoundInput, BoundLinear, Interval

    class _BallConv(BoundConv):
        def interval_propagate(self, *v: Interval, C: Tensor | None = None) -> tuple[Tensor, Tensor]:
            norm, eps = Interval.get_perturbation(v[0])[:2]
            if norm != 2:
                return super().interval_propagate(*v, C=C)
            x, weight = v[0][0], v[1][0]
            squares = F.conv2d(torch.ones_like(x[:1]), weight.square(), None, self.stride, self.padding)
            # The gradient of sqrt at 0 is infinite: a kernel of zeros would turn it into NaN. Raising it is sound.
            norms = squares.clamp_min(torch.finfo(x.dtype).tiny).sqrt()
            spread = norms * eps.reshape(-1, 1, 1, 1)
            centre = self.forward(x, *(entry[0] for entry in v[1:]))
            return centre - spread, centre + spread

    class Bounded(lirpa.BoundedModule):
        def __init__(self, model: nn.Module, x: Tensor, bound_opts: dict[str, object]) -> None:
            super().__init__(model, x, bound_opts, device=x.device, custom_ops={"onnx::Conv": _BallConv})
            for node in self.children():  # the operations
                if hasattr(node, "bound_backward"):
                    node.bound_backward = functools.partial(_after_a_pause, node.bound_backward)

        def parameters(self, recurse: bool = True) -> Iterator[Tensor]:
            return self.buffers(recurse)

        def _named_members(self, *args: object, **kwargs: object) -> Iterator[tuple[str, Tensor]]:
            return torch.nn.Module._named_members(self, *args, **kwargs)

        def check_IBP_first_linear(self, node: nn.Module) -> bool:
            # For the first layer interval bounds are exact; the library's test misses subclasses.
            first = isinstance(node, (BoundLinear, BoundConv)) and type(node.inputs[0]) is BoundInput
            if first:
                node.lower, node.upper = self.IBP_general(node)
            return first

    return Bounded
