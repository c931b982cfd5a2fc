"""Local robustness as a VNN-LIB property: a box of inputs, and the outputs that would refute the claim."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from certtrain.export.onnx import INPUT, OUTPUT
from certtrain.threat import OUTWARD, radius_text

if TYPE_CHECKING:
    from torch import Tensor

    from certtrain.scales import Scales

# Numbers in [0, 1] read as float32 move by at most 2^-25: wider by that, a box still holds the whole ball when a
# verifier reads it in single precision. It is half of what `ThreatModel(outward=True)` adds: our proofs cover the box.
WIDENING = Fraction(OUTWARD) / 2
PLACES = 12

Box = list[tuple[Fraction, Fraction]]


def decimal_box(x: Tensor, radius: Fraction, *, lower: int = 0, upper: int = 1, scales: Scales | None = None) -> Box:
    """The l-inf ball `{x' : |x' - x| <= radius} ∩ [lower, upper]^d` in decimals, rounded outward.

    With scales `|x'_i - x_i| <= radius w_i`; where w_i = 0 both ends are the value itself, in full.

    With B the exact ball and P the box that `ThreatModel(outward=True)` proves over: B ⊆ box ⊆ P. Hence `unsat` of any
    verifier implies the claim about B, and a certificate of ours implies `unsat`.

    Args:
        x: one input, float32; its numbers are taken as they are, exactly.
        radius: exact.
        lower, upper: the input range.
        scales: sizes of the features; None: 1 for all.

    Returns:
        (lower, upper) of each input in row-major order, multiples of 10^-12.
    """
    if scales is not None and scales.groups:
        raise ValueError("columns that may take any category make several boxes")
    unit, box = 10**PLACES, []
    for value, scale in zip(x.flatten().tolist(), [Fraction(1)] * x.numel() if scales is None else scales.values):
        if not scale:
            box.append((Fraction(value), Fraction(value)))
            continue
        wide = radius * scale + WIDENING
        low, high = Fraction(value) - wide, Fraction(value) + wide
        low, high = Fraction(low * unit // 1, unit), Fraction(-(-high * unit // 1), unit)
        box.append((max(low, Fraction(lower)), min(high, Fraction(upper))))
    return box


def box_text(value: Fraction) -> str:
    """A number of the box as a decimal, exactly: `0.123456789012`; of an immutable feature with all its digits.

    Raises:
        ValueError: it is negative, or no decimal.
    """
    text = radius_text(value)
    if value < 0 or "/" in text:
        raise ValueError(f"{value} is no decimal")
    return text if "." in text else f"{text}.0"


def property_text(box: Box, label: int, num_classes: int, comment: Sequence[str] = ()) -> str:
    """A property in VNN-LIB 1.0 as the verification competitions write it: satisfiable when the claim is false.

    The box, and a disjunction: some other class has a logit >= the label's. A tie counts against the claim, as in our
    certificates, whose margins are > 0.

    Args:
        box: of the inputs, in row-major order.
        label: the class claimed.
        num_classes: K.
        comment: lines that stand first.
    """
    lines = [f"; {line}" for line in comment]
    lines += ["", *(f"(declare-const {INPUT}_{i} Real)" for i in range(len(box)))]
    lines += ["", *(f"(declare-const {OUTPUT}_{k} Real)" for k in range(num_classes)), ""]
    for i, (low, high) in enumerate(box):
        lines += [f"(assert (>= {INPUT}_{i} {box_text(low)}))", f"(assert (<= {INPUT}_{i} {box_text(high)}))"]
    others = [f"    (and (>= {OUTPUT}_{k} {OUTPUT}_{label}))" for k in range(num_classes) if k != label]
    return "\n".join([*lines, "", "(assert (or", *others, "))", ""])
