"""What every threat model answers: what it is called, which set a radius stands for, and how to move in it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, Self

from certtrain.errors import UserError
from certtrain.radii import float_up

if TYPE_CHECKING:
    from torch import Tensor

    from certtrain.threat.moves import Moves
    from certtrain.threat.sets import PerturbedSet


@dataclass(frozen=True)
class Threat(ABC):
    """The set of perturbed inputs around an input, at a radius.

    A subclass says what it is called, and gives `distance`, and, where there are such, `region` for engines that bound
    it and `moves` for attacks: what lacks one is refused by those that need it, by name.

    Args:
        eps: the radius in input units: exact (`Fraction`), a float, or a tensor of shape () or (B,).
        lower: smallest admissible input value; None for no limit.
        upper: largest admissible input value; None for no limit.
        outward: make the set a superset in float64: eps rounded up, and 2^-24 added on each side, so that it holds the
            float32 image of every true 8-bit neighbour. Asked for by final certificates, never in training.
        inward: make it a subset in float64, for attacks.
    """

    norm: ClassVar[str]
    """What `norm=` calls it."""
    attackable: ClassVar[bool] = False
    """Whether it has `moves`."""
    bounded: ClassVar[bool] = False
    """Whether it has a `region`."""
    eps: Fraction | float | Tensor = 0  # not Fraction(0), which torch.compile of torch 2.11 cannot build
    lower: float | None = 0.0
    upper: float | None = 1.0
    outward: bool = False
    inward: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.eps, (int, float, Fraction)) and not self.eps >= 0:
            raise UserError(f"eps = {self.eps} is negative or not a number", where="threat model", fix="eps >= 0")

    @property
    def name(self) -> str:
        """Radii of two names are of two sets."""
        return self.norm

    @property
    @abstractmethod
    def symbol(self) -> str:
        """The name as it is printed: `l-inf`."""

    @property
    def unit(self) -> str:
        """What a radius counts; empty where it is in input units."""
        return ""

    @property
    def note(self) -> str:
        """What else must be said of the set; empty where nothing must."""
        return ""

    @abstractmethod
    def described(self, *, closed: bool = True) -> str:
        """The set of "the stated radius" around an input, in words that follow "every input of"."""

    @abstractmethod
    def distance(self, offset: Tensor) -> Tensor:
        """(B,) the least radius whose set holds `x + offset`, (B, ...)."""

    def region(self, x: Tensor) -> PerturbedSet:
        """What bound engines bound: around x, at eps.

        Raises:
            UserError: the threat model has no such set; inputs outside the range.
        """
        self.check_bounded()
        raise NotImplementedError(f"{type(self).__name__} is bounded, and has no region")

    def check_bounded(self) -> Self:
        """Itself, where bounds are about such a set.

        Raises:
            UserError: it has no `region`.
        """
        if not self.bounded:
            what = f"{self.symbol} is not a set that bounds are about"
            raise UserError(what, where="norm", fix="norm=linf or norm=l2; certifier=uniform certifies l1")
        return self

    def moves(self, x: Tensor) -> Moves:
        """How an attack moves in the set around x, at eps.

        Raises:
            UserError: no attack moves in it; inputs outside the range, from which clipping could lead out of the set.
        """
        raise UserError(f"no attack moves in {self.symbol}", where="norm", fix="attack_steps=0, falsify.examples=0")

    def widest(self, dimensions: int | None) -> tuple[float, str] | None:
        """The radius beyond which a set is wider than all inputs, and what that is called; None where it has none.

        Args:
            dimensions: numbers of one input; None while they are not known.
        """
        return None

    def settings(self) -> dict[str, Any]:
        """What a card says of it."""
        return {"input_range": None}

    def at(self, eps: Fraction | float | Tensor) -> Threat:
        """The same threat model at another radius."""
        return replace(self, eps=eps)

    def eps_tensor(self, x: Tensor) -> Tensor:
        """eps in x's dtype and device, so that it broadcasts against x: () or (B, 1, ..., 1)."""
        import torch

        eps = self.eps
        if isinstance(eps, torch.Tensor):
            eps = eps.to(dtype=x.dtype, device=x.device)
            return eps.reshape(-1, *([1] * (x.dim() - 1))) if eps.dim() else eps
        value = float_up(eps) if isinstance(eps, Fraction) and self.outward else float(eps)
        # torch.tensor would be sent to an accelerator, and waited for, at every training step.
        return torch.full((), value, dtype=x.dtype, device=x.device)

    def check_range(self, x: Tensor, where: str = "threat model") -> None:
        """Refuse inputs outside the input range; NaN is left to what it leads to.

        Raises:
            UserError: with the values that there are.
        """
        if not x.numel() or (self.lower is None and self.upper is None):
            return
        low, high = (float(value) for value in x.detach().aminmax())
        if (self.lower is not None and low < self.lower) or (self.upper is not None and high > self.upper):
            least, most = ("no limit" if limit is None else f"{limit:g}" for limit in (self.lower, self.upper))
            raise UserError(
                f"inputs between {low:.9g} and {high:.9g}, outside the input range [{least}, {most}]",
                where=where,
                fix=f"scale the inputs to [{least}, {most}], or clip them with x.clamp; normalisation is the network's "
                "first layer",
            )

    def parts(self, x: Tensor) -> Iterator[tuple[Tensor, Threat]]:
        """The sets whose union this one is: inputs in the place of x, a threat model for each; first that around x."""
        yield x, self

    @property
    def several(self) -> bool:
        """Whether `parts` may be more than one."""
        return False


def may_be_asked(x: Tensor) -> bool:
    """Whether the host may look at x: not where it is traced, nor, while gradients are taken, on an accelerator."""
    import torch

    return not torch.compiler.is_compiling() and (x.is_cpu or not torch.is_grad_enabled())
