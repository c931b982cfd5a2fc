"""Exact radii: what a user writes is a fraction from then on, with one canonical text."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction

from certtrain.errors import UserError


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
