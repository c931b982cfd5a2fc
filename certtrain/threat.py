"""Threat models and exact radii: what an attacker may do to an input, in the units of the input range [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from certtrain.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from certtrain.scales import Scales

Norm = Literal["linf", "l2"]
NORMS: tuple[str, ...] = ("linf", "l2")
NORM_NAMES = {"linf": "l-inf", "l2": "l2"}  # as they are printed


def norm_text(name: str) -> str:
    """The name of a norm or of a threat model as it is printed: `l-inf`, `l-inf scaled by NAME`."""
    norm, *rest = name.split(" ", 1)
    return " ".join([NORM_NAMES.get(norm, norm), *rest])


def exact_number(value: object) -> Fraction:
    """The exact number that a user wrote: `2/255`, `0.3`, `"0.30"`, `1`, `1e-3`; a float is the decimal Python prints.

    Raises:
        ValueError: not a finite number or fraction.
    """
    if isinstance(value, bool):
        raise ValueError(f"{value} is no number")
    if isinstance(value, Fraction):
        return value
    text = repr(value) if isinstance(value, float) else str(value)
    try:
        return Fraction(text.replace(" ", ""))
    except ZeroDivisionError as error:
        raise ValueError(f"{text} is no number") from error


def parse_radius(value: object, *, where: str = "radius") -> Fraction:
    """The exact radius that a user wrote: `2/255`, `0.3`, `"0.30"`, `1`, `1e-3`.

    A float is read as the decimal that Python prints for it: 0.3 is 3/10 and not its binary neighbour.

    Raises:
        UserError: not a number or a fraction, negative, or not finite.
    """
    try:
        radius = exact_number(value)
    except ValueError:
        text = repr(value) if isinstance(value, float) else str(value).strip()
        raise UserError(
            f"{text!r} is not a radius", where=where, fix="write a number or a fraction, such as 0.3 or 2/255"
        ) from None
    if radius < 0:
        raise UserError(f"the radius {radius_text(radius)} is negative", where=where, fix="a radius is >= 0")
    return radius


def parse_radii(values: Iterable[object], *, where: str = "radii") -> tuple[Fraction, ...]:
    """A grid of radii: parsed, without repetitions, in ascending order.

    Raises:
        UserError: the grid is empty, not a list, or holds something that is not a radius.
    """
    if isinstance(values, (str, int, float, Fraction)):
        raise UserError(f"{values!r} is not a list of radii", where=where, fix="write a list, such as [0.1,0.2,2/255]")
    radii = sorted({parse_radius(value, where=where) for value in values or ()})
    if not radii:
        raise UserError("the list of radii is empty", where=where, fix="give at least one, such as radii=[0.1,0.2]")
    return tuple(radii)


def radius_text(radius: Fraction) -> str:
    """The one canonical text of a radius: a decimal when it is finite, else over 255 when possible, else p/q.

    `2/255` stays `2/255` (and 3/255, whose lowest terms are 1/85, too); 0.30 and 3/10 are `0.3`.
    """
    numerator, denominator = radius.numerator, radius.denominator
    twos = fives = 0
    rest = denominator
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    if rest == 1:
        digits = max(twos, fives)
        scaled = abs(numerator) * 10**digits // denominator
        text = str(scaled).rjust(digits + 1, "0")
        text = text if digits == 0 else f"{text[:-digits]}.{text[-digits:]}"
        return ("-" if numerator < 0 else "") + text
    if 255 % denominator == 0:
        return f"{numerator * (255 // denominator)}/255"
    return f"{numerator}/{denominator}"


def radius_key(radius: Fraction) -> str:
    """The radius inside a metric's name, where `/` separates groups: `2_255`."""
    return radius_text(radius).replace("/", "_")


def float_up(value: Fraction) -> float:
    """The smallest float64 that is >= the exact value."""
    nearest = float(value)
    return nearest if Fraction(nearest) >= value else math.nextafter(nearest, math.inf)


# Float32 numbers in [0, 1] are at most 2^-24 apart, so an 8-bit value k/255 and its float32 image differ by at most
# 2^-25. Widening a box by 2^-24 therefore covers the rounding of both the centre and of any true neighbour.
OUTWARD = 2.0**-24
# Float64 products eps w_i in [0, 1] and corners x -+ eps w_i are off by less than 2^-51 together.
INWARD = 2.0**-50


@dataclass(frozen=True)
class ThreatModel:
    """The set of perturbed inputs: `{x' : ||x' - x||_norm <= eps}`, for l-inf also `lower <= x' <= upper`.

    With scales, a box of another size for each feature: `{x' : |x'_i - x_i| <= eps w_i}`.

    Args:
        norm: `linf` or `l2`.
        eps: the radius in input units: exact (`Fraction`), a float, or a tensor of shape () or (B,).
        lower: smallest admissible input value; None for no limit.
        upper: largest admissible input value; None for no limit.
        outward: make the box a superset in float64: eps rounded up, and 2^-24 added on each side, so that it holds the
            float32 image of every true 8-bit neighbour. Asked for by final certificates, never in training. Features of
            scale 0 are exempt: every admissible input has their very value, and so the same float32 image.
        inward: make the box of scales a subset in float64, for attacks. Of a box without scales
            `certtrain.attacks.inside` does that to eps.
        scales: sizes w_i of the features, for l-inf; None: 1 for all.

    The l2 ball is not intersected with the input range (a sound superset).
    """

    norm: Norm = "linf"
    eps: Fraction | float | Tensor = 0  # not Fraction(0), which torch.compile of torch 2.11 cannot build
    lower: float | None = 0.0
    upper: float | None = 1.0
    outward: bool = False
    inward: bool = False
    scales: Scales | None = None

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise UserError(f"unknown norm {self.norm!r}", where="threat model", fix=f"one of {', '.join(NORMS)}")
        if isinstance(self.eps, (int, float, Fraction)) and not self.eps >= 0:
            raise UserError(f"eps = {self.eps} is negative or not a number", where="threat model", fix="eps >= 0")
        if self.scales is not None and self.norm != "linf":
            raise UserError(
                f"scales with norm={self.norm}: sizes per feature are those of a box, and the {NORM_NAMES[self.norm]} "
                "ball is the same in all directions",
                where="threat model",
                fix="norm=linf, or scales=null",
            )

    @property
    def name(self) -> str:
        """`linf`, `l2`, `linf scaled by NAME (HASH)`: radii of two names are of two sets."""
        return self.norm if self.scales is None else f"{self.norm} scaled by {self.scales.label}"

    @property
    def symbol(self) -> str:
        """The name as it is printed: `l-inf`."""
        return norm_text(self.name)

    @property
    def unit(self) -> str:
        """What a radius counts; empty where it is in input units."""
        return "" if self.scales is None else f"multiples of {self.scales.label}"

    def described(self, *, closed: bool = True) -> str:
        """The set of "the stated radius" around an input, in words that follow "every input of"."""
        if self.scales is not None:
            free = ", columns in settings.scales.categories take any of theirs" if self.scales.groups else ""
            return (
                "the box of the stated radius (times the sizes in settings.scales, of all features at once, within "
                f"[0, 1]; features of size 0 keep their value{free})"
            )
        ball = f"the {'closed' if closed else 'open'} {self.symbol} ball of the stated radius"
        return f"{ball} within [0, 1]" if self.norm == "linf" else ball

    @property
    def note(self) -> str:
        """What else must be said of the set; empty where nothing must."""
        whole = self.scales is not None and any(self.scales.whole)
        return "It holds for every real value of the box, and so for the whole numbers in it." if whole else ""

    def at(self, eps: Fraction | float | Tensor) -> ThreatModel:
        """The same threat model at another radius."""
        return replace(self, eps=eps)

    def eps_tensor(self, x: Tensor) -> Tensor:
        """eps in x's dtype and device, so that it broadcasts against x: () or (B, 1, ..., 1); with scales eps w_i,
        shaped (B or 1, ...)."""
        import torch

        eps = self.eps
        if isinstance(eps, torch.Tensor):
            eps = eps.to(dtype=x.dtype, device=x.device)
            eps = eps.reshape(-1, *([1] * (x.dim() - 1))) if eps.dim() else eps
            return eps if self.scales is None else self._scaled(eps, self.scales, x)
        if self.scales is not None:
            if isinstance(eps, Fraction) and not self.inward:
                return self.scales.tensor(x, eps, up=self.outward)
            return self._scaled(torch.full((), float(eps), dtype=x.dtype, device=x.device), self.scales, x)
        value = float_up(eps) if isinstance(eps, Fraction) and self.outward else float(eps)
        # torch.tensor would be sent to an accelerator, and waited for, at every training step.
        return torch.full((), value, dtype=x.dtype, device=x.device)

    def _scaled(self, eps: Tensor, scales: Scales, x: Tensor) -> Tensor:
        """eps w_i, rounded as the box is; by 1 and by 0 it is multiplied exactly."""
        import torch

        scale = scales.tensor(x, up=self.outward)
        radius = eps * scale
        if self.outward:
            wider = torch.nextafter(radius, torch.full_like(radius, math.inf))
            return torch.where((scale == 1) | (scale == 0), radius, wider)
        if self.inward:
            return torch.where(scale == 1, radius, (radius - INWARD).clamp_min(0))
        return radius

    def box(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper corner of the l-inf box around x, both shaped like x.

        Around an input outside the range there is no such box: clipped, it would not hold the input, and bounds over it
        could lie above the margin at the input itself. Where the host may not look at x (compiled code, and training on
        an accelerator, whose examples are checked when they are loaded), the box is extended to hold it instead.

        Raises:
            UserError: inputs outside the range, see `check_range`.
            ValueError: the norm is not l-inf, an outward box of an input that is not float64, or several boxes.
        """
        import torch

        if self.norm != "linf":
            raise ValueError(f"only an l-inf ball is a box, not {self.norm}")
        if self.scales is not None and self.scales.groups:
            raise ValueError("columns that may take any category make several boxes, not one: see parts")
        asked = may_be_asked(x)
        if asked:
            self.check_range(x)
        eps = self.eps_tensor(x)
        lower, upper = x - eps, x + eps
        if self.outward:
            if x.dtype != torch.float64:
                raise ValueError("an outward-rounded box needs a float64 input")
            lower = torch.nextafter(lower - OUTWARD, torch.full_like(lower, -math.inf))
            upper = torch.nextafter(upper + OUTWARD, torch.full_like(upper, math.inf))
            if self.scales is not None and self.scales.immutable:
                still = self.scales.tensor(x, up=True) == 0
                lower, upper = torch.where(still, x, lower), torch.where(still, x, upper)
        if self.lower is not None:
            lower, upper = lower.clamp_min(self.lower), upper.clamp_min(self.lower)
        if self.upper is not None:
            lower, upper = lower.clamp_max(self.upper), upper.clamp_max(self.upper)
        return (lower, upper) if asked else (torch.minimum(lower, x), torch.maximum(upper, x))

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

    def parts(self, x: Tensor) -> Iterator[tuple[Tensor, ThreatModel]]:
        """The sets whose union this one is: inputs in the place of x, a threat model for each; the first is around x.

        Only columns that may take any category make more than one: the other combinations, for each row its own. Where
        a row holds none of a column's categories there is one set more, as there is in the steps of a training on an
        accelerator, which does not wait to be told.
        """
        if self.scales is None or not self.scales.groups:
            yield x, self
            return
        one = replace(self, scales=self.scales.fixed())
        yield x, one
        others = self.scales.categories(x)
        if may_be_asked(x) and bool(self.scales.holds_categories(x).all()):
            next(others)  # x itself
        for other in others:
            yield other, one


def may_be_asked(x: Tensor) -> bool:
    """Whether the host may look at x: not where it is traced, nor, while gradients are taken, on an accelerator."""
    import torch

    return not torch.compiler.is_compiling() and (x.is_cpu or not torch.is_grad_enabled())
