"""Whether a network is one function of each input alone, which every certificate takes for granted.

A network whose logits for an input depend on the rest of its batch, on its place there, on chance or on earlier calls
has no decision that could be certified. Nobody can prove the contrary by evaluating it, so there are two nets:

- `check_function` looks closely at a few inputs: alone, in another order, repeated, and again under another random
  state, in float64 on a copy of the network. Products of other shapes are summed in another order, which moves logits
  by about 1e-14 of the largest one in float64, amplified by a deep network perhaps to 1e-11. `ROUNDING` lies above
  that, and so far below any dependence that could matter (float32's own rounding is 1e-6) that none passes for
  rounding. In float32 the two could not be told apart.
- `check_repeated` looks at what was certified, in the arithmetic it was certified in: once all is done, the same inputs
  in other batches must still have the logits that the certificates rest on. It finds what the first does not, because
  it shows only for some inputs, in large batches or after many calls, as far as rounding lets it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from certtrain.errors import UserError
from certtrain.models.evaluation import frozen
from certtrain.system.work import pause

EXAMPLES = 8
# Shares of the largest absolute logit. In 16 bits a deep network's logits move by a few per cent between batch sizes.
ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.25}
SAME_BATCH = 0.01  # of that, for the same batch on an accelerator, which may add in another order; nothing on a CPU
ONE_LOGIT = "nn.Sequential(network, certtrain.models.TwoLogits()) for two classes: class 1 where the logit is above 0"


class _Context(NamedTuple):
    """A batch of inputs that are evaluated already, by their rows, and what is wrong where the logits differ now."""

    rows: Tensor
    described: str
    wrong: str
    fix: str
    again: bool = False  # the very batch that was evaluated


def check_function(network: nn.Module, x: Tensor) -> int:
    """Refuse a network whose logits for an input depend on anything but the input; see the module.

    Costs some 60 evaluations of single inputs. The network, its modes and torch's generators stay as they were.

    Args:
        network: (B, ...) inputs to (B, K) logits; evaluated in eval mode.
        x: (B, ...) inputs, of which at most `EXAMPLES` are used.

    Returns:
        K; 0 of no inputs.

    Raises:
        UserError: names what the logits depend on, and the layer that makes them, where it can be found; or the network
            fails, stays in training mode, changes a buffer, or gives something else than K >= 2 logits.
    """
    if not len(x):
        return 0
    network = getattr(network, "_orig_mod", network)  # what torch.compile wraps
    x = _as_taken(network, x)
    with frozen(network), torch.no_grad(), _keeping_buffers(network):
        few = _few(network, x)
        own, fine, watch = _finest(network, few)
        if own is not network:  # what a copy shares with it, as a closure over it does, may remember the other's calls
            _check_again(network, few)
        few = fine
        _refuse_training_mode(own)  # that it was never out of, or went back to
        with watch:
            first = _logits(own, few)
        before = _buffers(own)
        for context in _contexts(len(few), few.device):
            torch.rand(1), torch.rand(1, device=few.device)  # another random state, without seeding anything
            logits = _logits(own, few[context.rows], beside=len(few))
            share = _share(few, watch.coarsest, context.again)
            if not _agree(first[context.rows], logits, share):
                raise _differs(own, few, context, first, logits, share, watch)
        _refuse_training_mode(own)
        _refuse_changed(before, _buffers(own))
    return first.shape[1]


def count_logits(network: nn.Module, x: Tensor, least: int = 2) -> int:
    """K, asked of the network in eval mode with two of the inputs (B, ...).

    Raises:
        UserError: the network fails, or gives something else than K >= `least` logits.
    """
    with frozen(network), torch.no_grad():
        return _logits(network, _as_taken(network, some_of(x, 2)), least=least).shape[1]


def _check_again(network: nn.Module, few: Tensor) -> None:
    context = next(_contexts(len(few), few.device))
    before, first = _buffers(network), _logits(network, few)
    torch.rand(1), torch.rand(1, device=few.device)
    again, share = _logits(network, few), _share(few, few.dtype, again=True)
    _refuse_training_mode(network)
    if not _agree(first, again, share):
        raise _differs(network, few, context, first, again, share, _Watch())
    _refuse_changed(before, _buffers(network))


def check_repeated(network: nn.Module, x: Tensor, logits: Tensor, precision: torch.dtype | None = None) -> None:
    """Refuse a network whose logits are no longer what they were: every other input in a batch of its own, backwards.

    Args:
        network: in the state in which it gave the logits.
        x: (B, ...) inputs.
        logits: (B, K) what it gave for them, in whatever batches.
        precision: of its arithmetic; None for that of the logits.

    Raises:
        UserError: with how much they differ.
    """
    if not len(x):
        return
    with torch.no_grad():
        torch.rand(1), torch.rand(1, device=x.device)
        halves = [network(half.flip(0)).flip(0) for half in (x[::2], x[1::2]) if len(half)]
    now = torch.empty_like(logits)
    for start, half in enumerate(halves):
        now[start::2] = half
    share = ROUNDING[precision or logits.dtype]
    if not _agree(logits, now, share):
        raise UserError(
            f"the logits of {len(x)} inputs differ by up to {_gap(logits, now):.3g} when they are evaluated in other "
            "batches and at a later call: they depend on the rest of the batch, on chance or on earlier calls",
            where="model",
            fix=_FIX,
        )


_FIX = "a forward that depends on nothing but each input itself: a certificate is about one function"


def refuse_one_logit(logits: int, least: int = 2) -> None:
    """Refuse a number of logits of which none has a margin.

    Raises:
        UserError: fewer than `least`.
    """
    if logits < least:
        raise UserError(f"a network of K = {logits} logits, which have no margin", where="model", fix=ONE_LOGIT)


def some_of(x: Tensor, count: int) -> Tensor:
    """At most `count` rows of x, spread evenly."""
    if len(x) <= count:
        return x
    return x[torch.linspace(0, len(x) - 1, count, device=x.device).round().long()]


def _few(network: nn.Module, x: Tensor) -> Tensor:
    """Some rows, and one of other values, where the network takes these: the same input again shows no dependence."""
    few = some_of(x, EXAMPLES)
    more = torch.cat([few, (few[:1] + 0.37) % 1])
    try:
        _logits(network, more)
    except UserError:
        return few  # of which the network's own fault is told
    return more


def _as_taken(network: nn.Module, x: Tensor) -> Tensor:
    """The inputs in the precision of the network's parameters."""
    kinds = [parameter.dtype for parameter in network.parameters() if parameter.is_floating_point()]
    return x.to(kinds[0]) if kinds and x.is_floating_point() else x


def _contexts(n: int, device: torch.device) -> Iterator[_Context]:
    rows = torch.arange(n, device=device)
    in_batch = "BatchNorm with running statistics, no mean or product over the batch"
    yield _Context(
        rows,
        f"two calls on the same {n} inputs",
        "a layer is random, or remembers earlier calls",
        "no dropout or noise in evaluation (F.dropout(x, training=self.training))",
        again=True,
    )
    for row in dict.fromkeys((0, n // 2, n - 1)):
        described = f"an input alone and the same one among {n}"
        yield _Context(rows[row : row + 1], described, "they depend on the rest of the batch", in_batch)
    wrong = "they depend on an input's place in its batch"
    yield _Context(rows.flip(0), f"{n} inputs in two orders", wrong, in_batch)
    described = f"{n} inputs and a batch in which each comes twice"
    yield _Context(torch.cat([rows, rows.flip(0)]), described, "they depend on the size of the batch", in_batch)


class _Watch(TorchDispatchMode):
    """The least precise arithmetic that an evaluation contains, and the operations in it that draw random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.coarsest, self.random = torch.float64, dict[str, None]()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in getattr(function, "tags", ()):
            self.random[str(function).removeprefix("aten.").removesuffix(".default")] = None
        if isinstance(found, Tensor) and found.dtype in ROUNDING:
            self.coarsest = max(self.coarsest, found.dtype, key=ROUNDING.__getitem__)
        return found


def _finest(network: nn.Module, few: Tensor) -> tuple[nn.Module, Tensor, _Watch]:
    """A copy of the network that computes in float64, where there can be one; else the network itself.

    Not on devices without float64, for forwards that fix another dtype, or for modules that cannot be copied.
    """
    try:
        own = copy.deepcopy(network).double()
        if own(few.double()).dtype == torch.float64:
            return own, few.double(), _Watch()
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever the network's forward raises: in its own precision it is told
        pass
    return network, few, _Watch()


def _share(few: Tensor, coarsest: torch.dtype, again: bool) -> float:
    """What may differ, as a share of the largest logit."""
    if not again or coarsest == torch.float64:
        return ROUNDING[coarsest]
    return 0.0 if few.is_cpu else ROUNDING[coarsest] * SAME_BATCH


def _logits(network: nn.Module, rows: Tensor, beside: int | None = None, least: int = 2) -> Tensor:
    pause()
    try:
        logits = network(rows)
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever the network's forward raises
        also = "" if beside is None else f", and not on {beside} of them"
        reason = str(error).split("\n")[0][:200]
        raise UserError(
            f"the network fails on a batch of {len(rows)} inputs of shape {tuple(rows.shape[1:])}{also}: {reason}",
            where="model",
            fix="a forward that takes any number of inputs; BatchNorm with running statistics",
        ) from error
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(rows):
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(
            f"the network maps {tuple(rows.shape)} to {shape}",
            where="model",
            fix="a classifier maps (B, ...) to (B, K)",
        )
    refuse_one_logit(logits.shape[1], least)
    return logits


def _agree(one: Tensor, other: Tensor, share: float) -> bool:
    """Within a share of the largest finite logit; what is no number must be none in both."""
    finite = one.isfinite() & other.isfinite()
    scale = torch.where(finite, one, 0).abs().max()
    near = (one - other).abs() <= share * scale
    return bool((near & finite | (one == other) | (one.isnan() & other.isnan())).all())


def _gap(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().nan_to_num(torch.inf).max())


def _differs(
    network: nn.Module,
    few: Tensor,
    context: _Context,
    first: Tensor,
    logits: Tensor,
    share: float,
    watch: _Watch,
) -> UserError:
    place = _first_layer(network, few, context.rows, max(share, ROUNDING[torch.float64]))
    chance = f" ({', '.join(watch.random)})" if watch.random else ""
    return UserError(
        f"{context.described} differ by up to {_gap(first[context.rows], logits):.3g} in the logits, in eval mode: "
        f"{context.wrong}{chance}{place}",
        where="model",
        fix=f"{context.fix}: a certificate is about one function",
    )


def _first_layer(network: nn.Module, few: Tensor, rows: Tensor, share: float) -> str:
    """The first layer that gives different outputs for the same inputs, in words; nothing where none is found."""
    try:
        with _recorded(network) as whole:
            network(few)
        with _recorded(network) as part:
            network(few[rows])
    except Exception:
        return ""
    for (name, given, out), (_, given_now, out_now) in zip(whole, part):
        if len(out) != len(few) or len(out_now) != len(rows) or _agree(out[rows], out_now, share):
            continue
        same = len(given) == len(few) and _agree(given[rows], given_now, share)
        return f"; first in {name}" if same else f"; first between the layers before {name}"
    return ""


@contextmanager
def _recorded(network: nn.Module) -> Iterator[list[tuple[str, Tensor, Tensor]]]:
    """Name, input and output of every layer without layers of its own, in the order of execution."""
    found: list[tuple[str, Tensor, Tensor]] = []

    def hook(name: str) -> Any:
        def record(module: nn.Module, given: tuple[Any, ...], out: Any) -> None:
            if given and isinstance(given[0], Tensor) and isinstance(out, Tensor) and out.dim() and given[0].dim():
                found.append((f"{name} ({type(module).__name__})", given[0].clone(), out.clone()))

        return record

    leaves = [(name, module) for name, module in network.named_modules() if name and not [*module.children()]]
    handles = [module.register_forward_hook(hook(name)) for name, module in leaves]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _refuse_training_mode(network: nn.Module) -> None:
    training = [name or type(network).__name__ for name, module in network.named_modules() if module.training]
    if training:
        raise UserError(
            f"in evaluation {', '.join(training[:3])}{', ...' if len(training) > 3 else ''} is in training mode: a "
            "forward or a train() of the network sets it",
            where="model",
            fix="leave the mode to model.eval() and model.train()",
        )


def _buffers(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.named_buffers()}


@contextmanager
def _keeping_buffers(network: nn.Module) -> Iterator[None]:
    """Afterwards the buffers hold what they held."""
    before = [(value, value.clone()) for value in network.buffers()]
    try:
        yield
    finally:
        for value, held in before:
            if not torch.equal(value, held):
                value.copy_(held)


def _refuse_changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
    changed = [
        name
        for name, value in after.items()
        if name not in before or not torch.allclose(value, before[name], rtol=0, atol=0, equal_nan=True)
    ]
    if changed:
        raise UserError(
            f"evaluating the network changes its {', '.join(changed[:3])}: its answers depend on earlier ones",
            where="model",
            fix="change buffers in training mode only",
        )
