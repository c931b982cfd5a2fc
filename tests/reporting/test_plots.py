"""The curve is the definition's, the band is exact, and the figure shows what it was given."""

import numpy as np
import pytest
from claims import LINF, SMOOTHED, STAGED
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from certtrain.errors import UserError
from certtrain.reporting import plots
from certtrain.reporting.palette import radius_axis
from certtrain.reporting.plots import certified_accuracy_plot, clopper_pearson, interval_text, step_curve


@settings(deadline=None)
@given(
    st.lists(st.floats(0, 4) | st.just(-1.0) | st.sampled_from([0.0, 0.5]), min_size=1, max_size=30),
    st.lists(st.floats(0, 5), min_size=1),
)
def test_step_curve_is_certified_accuracy_at_every_radius(radii, queries):
    points, count = step_curve(radii)
    assert points[0] == 0
    for r in [*queries, *points]:
        at = np.searchsorted(points, r, side="left")
        assert (count[at] if at < len(points) else 0) == sum(radius >= r for radius in radii)


def test_certified_accuracy_of_the_design():
    points, count = step_curve([0.10, 0.25, -1.0, 0.40, 0.18])
    assert count[np.searchsorted(points, 0.20)] / 5 == 0.40


@settings(deadline=None)
@given(st.integers(1, 300), st.floats(0, 1))
def test_band_is_clopper_pearson(n, share):
    k = round(n * share)
    low, high = clopper_pearson(np.array([k]), n)
    expected = binomtest(k, n).proportion_ci(0.95, method="exact")
    assert low[0] == pytest.approx(expected.low, abs=1e-9)
    assert high[0] == pytest.approx(expected.high, abs=1e-9)


@pytest.fixture
def drawn(monkeypatch):
    """The figure that the next plot saves."""
    kept = []
    save = plots.save_figure
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: (kept.append(figure), save(figure, path))[1])
    return kept


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_bounds_panel(bounds, tmp_path, drawn):
    path = certified_accuracy_plot(bounds, tmp_path / "new" / "certified_accuracy.png")
    assert path.read_bytes()[:4] == b"\x89PNG"
    [axes] = drawn[0].axes
    assert axes.get_xlabel() == radius_axis(LINF)
    assert "n = 10,000" in axes.get_title()
    expected = ["certified by IBP", "certified by CROWN-IBP", "certified by CROWN", "clean"]
    assert legend(axes) == ["PGD (upper bound)", *expected]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["", "2/255", "0.1", "0.3"]
    points = [line.get_ydata() for line in axes.lines if line.get_marker() == "^" and len(line.get_ydata())]
    np.testing.assert_allclose(points[0], [93.61, 86.0, 30.0])


def test_no_line_claims_more_than_the_next_radius_proves(bounds, tmp_path, drawn):
    certified_accuracy_plot({"c": {**bounds["test_crown"], "pgd": None}}, tmp_path / "c.png")
    [axes] = drawn[0].axes
    [line] = [line for line in axes.lines if line.get_drawstyle() == "steps-pre"]
    x, y = line.get_data()  # at r the value of the first point at r or beyond
    assert (x[0], y[0]) == (0, 96.25)
    proved = {2 / 255: 93.61, 0.1: 86.0, 0.3: 30.0}
    for radius, value in [*proved.items(), (0.05, 86.0), (0.2, 30.0), (0.001, 93.61)]:
        assert y[np.searchsorted(x, radius)] == pytest.approx(value)
    assert x[-1] == 0.3  # beyond the grid nothing is drawn


def test_what_an_attack_leaves_standing_holds_for_larger_radii(bounds, tmp_path, drawn):
    certified_accuracy_plot(bounds, tmp_path / "c.png")
    [line] = [line for line in drawn[0].axes[0].lines if line.get_drawstyle() == "steps-post"]
    x, y = line.get_data()
    for radius, value in ((0.0, 96.25), (0.005, 96.25), (2 / 255, 95.0), (0.05, 95.0), (0.1, 92.5), (0.3, 50.0)):
        assert y[np.searchsorted(x, radius, side="right") - 1] == pytest.approx(value)


def test_curves_that_coincide_are_all_seen(bounds, tmp_path, drawn):
    """The later ones are narrower, in lines and in markers, and none has another's colour."""
    same = {name: {**entry, "certified": bounds["test_ibp"]["certified"]} for name, entry in bounds.items()}
    certified_accuracy_plot(same, tmp_path / "c.png")
    steps = [line for line in drawn[0].axes[0].lines if line.get_drawstyle() == "steps-pre"]
    markers = [line for line in drawn[0].axes[0].lines if line.get_marker() in "os^" and len(line.get_xdata())]
    assert len(steps) == len(markers) == len({line.get_color() for line in steps}) == 3
    widths, sizes = [line.get_linewidth() for line in steps], [line.get_markersize() for line in markers]
    assert widths == sorted(widths, reverse=True)
    assert min(np.diff(widths[::-1])) > 1
    assert min(np.diff(sizes[::-1])) > 1


def test_smoothing_panel(smoothing, radii, tmp_path, drawn):
    certified_accuracy_plot(smoothing, tmp_path / "s.png", radii={"test_smoothing": radii})
    [axes] = drawn[0].axes
    assert axes.get_xlabel() == radius_axis(SMOOTHED)
    assert "n = 40 images, 10,000 draws" in axes.get_title()
    assert legend(axes) == ["smoothed, $\\sigma$ = 0.25, ACR 0.4123", "95 % interval over 40 images"]
    curve = axes.lines[0]
    assert curve.get_drawstyle() == "steps-pre"
    x, y = curve.get_data()
    assert y[0] == pytest.approx(87.5)
    assert (x[-1], y[-1]) == (max(radii), 0)


def test_staged_draws_show_no_average_radius(smoothing, tmp_path, drawn):
    smoothing["test_smoothing"] |= {"claim": STAGED.to_dict(), "acr": None, "certifier": "anytime", "mean_draws": 412.5}
    radii = np.repeat([-1, 0, 0.25, 0.5], 10)
    certified_accuracy_plot(smoothing, tmp_path / "s.png", radii={"test_smoothing": radii})
    [axes] = drawn[0].axes
    assert legend(axes)[0] == "smoothed, $\\sigma$ = 0.25, at targets"
    assert "up to 10,000 draws" in axes.get_title()


def test_families_get_their_own_panels(bounds, smoothing, tmp_path, drawn):
    certified_accuracy_plot(bounds | smoothing, tmp_path / "both.png")
    assert len({axes.get_xlabel() for axes in drawn[0].axes}) == 2


def test_refusals(bounds, smoothing, radii, tmp_path):
    with pytest.raises(ValueError, match="no certificate"):
        certified_accuracy_plot({}, tmp_path / "x.png")
    with pytest.raises(ValueError, match="39 radii given for 40"):
        certified_accuracy_plot(smoothing, tmp_path / "x.png", radii={"test_smoothing": radii[1:]})
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        certified_accuracy_plot(bounds, tmp_path / "file" / "x.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_extremes_are_drawn(bounds, smoothing, level, tmp_path):
    for entry in (bounds | smoothing).values():
        entry["certified"] = dict.fromkeys(entry["certified"], level)
        entry["clean"] = level
    radii = np.full(40, -1.0 if level == 0 else 0.0)
    certified_accuracy_plot(bounds | smoothing, tmp_path / "x.png", radii={"test_smoothing": radii})


def test_intervals_are_printed_rounded_outwards():
    assert interval_text(0.0, 0.00037) == "0.0 to 0.1"
    assert interval_text(0.8538, 0.8662) == "85.3 to 86.7"
    assert interval_text(0.0, 1.0) == "0.0 to 100.0"


def test_two_certificates_of_one_certifier_are_told_apart_and_ticks_do_not_overlap(bounds, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: drawn.append(figure) or path)
    fine = {**bounds["test_crown"], "certified": {"0.101": 0.9, "0.3": 0.5}}
    certified_accuracy_plot({**bounds, "fine": fine}, tmp_path / "x.png")
    (axes,) = drawn[0].axes
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert {"certified by CROWN (test_crown)", "certified by CROWN (fine)", "certified by IBP"} <= set(texts)
    ticks = [tick.get_text() for tick in axes.get_xticklabels()]
    assert "0.1" in ticks
    assert "0.101" not in ticks
