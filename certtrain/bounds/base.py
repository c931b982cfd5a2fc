"""What every bound engine answers: one signature for every method and both engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from torch import Tensor

from certtrain.errors import UserError
from certtrain.models.invariance import refuse_one_logit
from certtrain.threat import Threat

METHODS: tuple[str, ...] = ("ibp", "crown_ibp", "crown", "crown_zero", "alpha_crown")


class PreActivation(NamedTuple):
    """Bounds of the input of one activation, before it; shapes (B, ...) of that tensor.

    `kink` where the activation's slope jumps at 0, as that of ReLU: with `lower < 0 < upper` it is then unstable.
    """

    name: str
    lower: Tensor
    upper: Tensor
    kink: bool = True


class Split(NamedTuple):
    """A place where a network can be cut in two parts with a layer and an activation each.

    Attributes:
        name: of the first part's last operation; every path to the logits goes through its output.
        share: of the network's linear and convolution layers, those in the first part.
    """

    name: str
    share: float


class Features(NamedTuple):
    """What a network's last linear layer takes.

    Attributes:
        name: of the operation that gives them; every path to the logits goes through it.
        size: how many numbers the layer takes.
    """

    name: str
    size: int


class NodeBounds(NamedTuple):
    """Bounds of the output of an operation inside the network.

    Attributes:
        lower, upper: (B, ...) the box, differentiable.
        clean: (B, ...) the value at the unperturbed input, differentiable.
        logits: of points (N, ...) of that output the logits (N, K): the rest of the network with the weights and, in
            training mode, the batch statistics that the bounds are made with. Raises a UserError where a path leads
            around the operation.
    """

    lower: Tensor
    upper: Tensor
    clean: Tensor
    logits: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Bounds:
    """Bounds of a network on a batch.

    Attributes:
        clean: (B, K) logits at the unperturbed input.
        margins: per method (B, K-1) lower bounds of `z_y - z_j` for j != y, in ascending order of j.
        pre_activations: the (interval) bounds of each activation's input, in the order of execution.
        at: bounds of the operations asked for, by name.
        bounded: (B, S) which of the K-1 margins the methods that go backward bounded; the others are IBP's in all of
            them. None where they bounded all.
    """

    clean: Tensor
    margins: dict[str, Tensor]
    pre_activations: tuple[PreActivation, ...]
    at: Mapping[str, NodeBounds] = field(default_factory=dict, kw_only=True)
    bounded: Tensor | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class FusedLoss(Bounds):
    """Bounds of the loss itself, with what the one interval pass gives besides.

    `margins` holds the method `ibp` only: no lower bound of a single margin comes out of a fused loss.

    Attributes:
        loss: (B,) upper bounds of the cross-entropy `-log softmax(z)_y`, not yet a mean.
    """

    loss: Tensor


def unsupported_set(threat: Threat, engine: str) -> UserError:
    """What an engine raises about a set that it does not know: bounds over another one would be wrong, and silent."""
    return UserError(
        f"the bound engine {engine!r} has no bounds over the set of {threat.symbol}",
        where="bounds and norm",
        fix="norm=linf or norm=l2, or a certifier that supports this threat model",
    )


def no_bounds_inside(engine: str) -> UserError:
    """What an engine raises that is asked for bounds at operations inside the network and has none."""
    return UserError(f"{engine} has no bounds inside the network", where="bounds", fix="bounds=native")


class BoundEngine(Protocol):
    """Bounds a network over a threat model. Differentiable; holds no state of a batch.

    An l-inf set is `threat.box(x)`: with sizes of features eps alone does not say what it is.
    """

    name: str
    version: str
    methods: tuple[str, ...]

    def bounds(
        self,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        methods: tuple[str, ...] = ("ibp", "crown_ibp"),
        at: tuple[str, ...] = (),
        closest: int | None = None,
    ) -> Bounds:
        """Lower bounds of the margins of class y over the threat model around x.

        Args:
            x: (B, ...) inputs in [0, 1].
            y: (B,) class indices.
            threat: norm, eps (scalar or (B,)) and input range.
            methods: any of `METHODS` that the engine has.
            at: names of operations whose outputs' interval bounds are wanted as well.
            closest: how many margins of each example the methods that go backward, whose cost grows with them, need to
                bound: those that are least by IBP. The others may keep IBP's bounds, which hold as well; `bounded`
                says which. None for all. An engine may bound more.

        Raises:
            UserError: an operation of the network that the engine cannot bound, with its path in the network; a name
                in `at` that the network does not have, or an engine without bounds inside.
        """
        ...

    def splits(self) -> tuple[Split, ...]:
        """Where the network can be cut in two, in the order of execution.

        Raises:
            UserError: the engine has no bounds inside the network.
        """
        ...

    def features(self) -> Features:
        """Where the network's features are: before the last linear layer that every path to the logits goes through.

        Raises:
            UserError: there is no such layer, or it takes the input; the engine has no bounds inside the network.
        """
        ...

    def fused_loss(self, x: Tensor, y: Tensor, threat: Threat, method: str = "crown_ibp") -> FusedLoss:
        """Upper bounds of the cross-entropy of class y over the threat model around x: loss fusion.

        `CE(x') = log g(x')`, `g = 1 + sum_{j != y} exp(-m_j)` with the margins `m_j = z_y - z_j`. Each exp is replaced
        by its chord over the margin's interval bounds, and the one linear function that they add up to is bounded by
        `method`: one backward pass, whatever the number of classes (Xu et al. 2020, arXiv 2002.12920; here with the
        last linear layer merged into the margins, whose intervals, and so the chords, are tighter for it).

        At eps = 0 it is the cross-entropy. With `ibp` it is at most `logsumexp([0, -m])` of the IBP margins, because
        the minimum of a sum is at least the sum of the minima; with the backward methods either of it and
        `logsumexp([0, -m])` of the same method can be the smaller one.

        Args:
            x: (B, ...) inputs in [0, 1].
            y: (B,) class indices.
            threat: norm, eps (scalar or (B,)) and input range.
            method: bounds the linear function; one of the engine's methods. The chords are always from IBP.

        Returns:
            The bounds (B,) of each example's loss, differentiable, NaN or infinite where a margin's bounds are; clean
            logits, IBP margins and pre-activations as from `bounds`.

        Raises:
            UserError: as `bounds`.
        """
        ...


def other_classes(y: Tensor, num_classes: int) -> Tensor:
    """(B, K-1) the classes other than y, in ascending order."""
    import torch

    others = torch.arange(num_classes - 1, device=y.device).expand(len(y), -1)
    return others + (others >= y[:, None])


def margin_matrix(y: Tensor, num_classes: int, dtype: object = None, others: Tensor | None = None) -> Tensor:
    """C of shape (B, K-1, K) with `C z = (z_y - z_j)` for j != y in ascending order of j, or for j in `others` (B, S).

    Raises:
        UserError: K < 2.
    """
    import torch

    refuse_one_logit(num_classes)

    eye = torch.eye(num_classes, dtype=dtype or torch.float32, device=y.device)
    return eye[y][:, None, :] - eye[other_classes(y, num_classes) if others is None else others]
