"""Local robustness as a VNN-LIB property: boxes of inputs, and the outputs that would refute the claim."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from certtrain.export.onnx import INPUT, OUTPUT
from certtrain.radii import radius_text
from certtrain.system.escape import one_line
from certtrain.threat import threat_of
from certtrain.threat.linf import OUTWARD

if TYPE_CHECKING:
    from torch import Tensor

    from certtrain.threat.scales import Scales

# Numbers in [0, 1] read as float32 move by at most 2^-25: wider by that, a box still holds the whole ball when a
# verifier reads it in single precision. It is half of what an outward box adds: our proofs cover the box.
WIDENING = Fraction(OUTWARD) / 2
PLACES = 12

Box = list[tuple[Fraction, Fraction]]


def decimal_box(x: Tensor, radius: Fraction, *, scales: Scales | None = None) -> Box:
    """The l-inf ball `{x' : |x' - x| <= radius} ∩ [0, 1]^d` in decimals, rounded outward.

    With scales `|x'_i - x_i| <= radius w_i`; where w_i = 0 both ends are the value itself, in full. Columns that may
    take any category make several boxes: see `decimal_boxes`.

    With B the exact ball and P the box that `threat_of(outward=True)` proves over: B ⊆ box ⊆ P. Hence `unsat` of any
    verifier implies the claim about B, and a certificate of ours implies `unsat`.

    Args:
        x: one input, float32; its numbers are taken as they are, exactly.
        radius: exact.
        scales: sizes of the features; None: 1 for all.

    Returns:
        (lower, upper) of each input in row-major order, multiples of 10^-12.

    Raises:
        ValueError: there are several boxes.
    """
    if scales is not None and scales.groups:
        raise ValueError("columns that may take any category make several boxes, not one: see decimal_boxes")
    unit, box = 10**PLACES, []
    for value, scale in zip(x.flatten().tolist(), [Fraction(1)] * x.numel() if scales is None else scales.values):
        if not scale:
            box.append((Fraction(value), Fraction(value)))
            continue
        wide = radius * scale + WIDENING
        low, high = Fraction(value) - wide, Fraction(value) + wide
        low, high = Fraction(low * unit // 1, unit), Fraction(-(-high * unit // 1), unit)
        box.append((max(low, Fraction(0)), min(high, Fraction(1))))
    return box


def decimal_boxes(x: Tensor, radius: Fraction, *, scales: Scales | None = None) -> list[Box]:
    """The boxes whose union is the set of admissible inputs, each once; the first is around x itself.

    Those of `Threat.parts`: one for each combination of the categories that columns may take, and one for a value
    of x that is none of them. Arguments and rounding are those of `decimal_box`.
    """
    fixed = None if scales is None else scales.fixed()
    parts = (part[0] for part, _ in threat_of(eps=radius, scales=scales).parts(x[None]))
    boxes = [decimal_box(part, radius, scales=fixed) for part in parts]
    return [box for place, box in enumerate(boxes) if box not in boxes[:place]]


def box_text(value: Fraction) -> str:
    """A number of the box as a decimal, exactly: `0.123456789012`; of an immutable feature with all its digits.

    Raises:
        ValueError: it is negative, or no decimal.
    """
    text = radius_text(value)
    if value < 0 or "/" in text:
        raise ValueError(f"{value} is no decimal")
    return text if "." in text else f"{text}.0"


def property_text(boxes: Sequence[Box], label: int, num_classes: int, comment: Sequence[str] = ()) -> str:
    """A property in VNN-LIB 1.0 as the verification competitions write it: satisfiable when the claim is false.

    The input is in the box, or in one of the boxes, a disjunction of conjunctions each of which bounds every input; and
    a disjunction: some other class has a logit >= the label's. A tie counts against the claim, as in our certificates,
    whose margins are > 0.

    Args:
        boxes: of the inputs, in row-major order.
        label: the class claimed.
        num_classes: K.
        comment: lines that stand first; nothing in them ends one.
    """
    lines = [f"; {one_line(line)}" for line in comment]
    lines += ["", *(f"(declare-const {INPUT}_{i} Real)" for i in range(len(boxes[0])))]
    lines += ["", *(f"(declare-const {OUTPUT}_{k} Real)" for k in range(num_classes)), ""]
    if len(boxes) == 1:
        lines += [f"(assert {side})" for side in _sides(boxes[0])]
    else:
        lines += ["(assert (or", *(f"    (and {' '.join(_sides(box))})" for box in boxes), "))"]
    others = [f"    (and (>= {OUTPUT}_{k} {OUTPUT}_{label}))" for k in range(num_classes) if k != label]
    return "\n".join([*lines, "", "(assert (or", *others, "))", ""])


def _sides(box: Box) -> Iterator[str]:
    for i, (low, high) in enumerate(box):
        yield f"(>= {INPUT}_{i} {box_text(low)})"
        yield f"(<= {INPUT}_{i} {box_text(high)})"
