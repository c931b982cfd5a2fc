"""The words on the axis, and colours that stay apart."""

from dataclasses import replace

from claims import LINF, SMOOTHED

from certtrain.reporting import palette
from certtrain.reporting.palette import radius_axis


def test_axes_name_the_norm_and_the_range():
    assert radius_axis(LINF) == r"$\ell_\infty$ radius (inputs in [0, 1])"
    assert radius_axis(SMOOTHED) == r"$\ell_2$ radius (inputs in [0, 1])"
    assert radius_axis(replace(LINF, symbol="edit distance", unit="bytes")) == "radius, in bytes"


def test_no_two_colours_are_near():
    names = ("BLACK", "ORANGE", "SKY", "GREEN", "BLUE", "VERMILION", "PURPLE", "GREY")
    colours = [[int(getattr(palette, name)[i : i + 2], 16) for i in (1, 3, 5)] for name in names]
    apart = [sum(abs(p - q) for p, q in zip(a, b)) for i, a in enumerate(colours) for b in colours[:i]]
    assert min(apart) > 60
    assert len(set(palette.MARKERS)) == len(palette.MARKERS)
