"""Curves and the trade-off against literal twins; scales and legends of many runs."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from interp.viz import curves, scales
from interp.viz.charts import log_axis, log_ticks
from interp.viz.colours import DARK, LIGHT
from interp.viz.curves import Curve, Look, training_curves
from interp.viz.tradeoff import Axes, Course, Family, Interval, Point, tradeoff

FLOATS = st.floats(-100, 100)
POSITIVE = st.floats(0.01, 100)


@given(arrays(float, st.integers(1, 60), elements=FLOATS), st.floats(0.0, 0.99))
def test_smooth_equals_the_weighted_mean_written_out(y, weight):
    for t, value in enumerate(curves.smooth(y, weight)):
        w = np.array([weight ** (t - i) for i in range(t + 1)])
        assert value == pytest.approx(float((w * y[: t + 1]).sum() / w.sum()), abs=1e-6)


def test_smooth_passes_over_missing_values():
    assert curves.smooth(np.array([np.nan, 2.0, np.nan, 4.0]), 0.0).tolist()[1:] == [2.0, 2.0, 4.0]


def test_decimate_keeps_every_spike_and_few_points():
    y = np.zeros(50_000)
    y[31_337], y[7] = 9.0, -3.0
    x, kept = curves.decimate(np.arange(50_000.0), y)
    assert len(x) <= 2000
    assert (kept.max(), kept.min()) == (9.0, -3.0)
    assert (np.diff(x) > 0).all()


def test_decimate_leaves_short_curves_alone():
    x, y = np.arange(5.0), np.arange(5.0)
    assert curves.decimate(x, y)[0] is x


@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=1, max_size=12), st.sampled_from(["low", "high"]))
def test_the_frontier_is_what_no_point_beats(points, better):
    x, y = np.array(points).T
    cost = y if better == "low" else -y
    kept = {(x[i], cost[i]) for i in curves.frontier(x, y, better)}
    literal = set()
    for i in range(len(x)):
        beaten = any((x[j] <= x[i] and cost[j] < cost[i]) or (x[j] < x[i] and cost[j] <= cost[i]) for j in range(len(x)))
        literal |= set() if beaten else {(x[i], cost[i])}
    assert kept == literal


def literal_knee(x: np.ndarray, y: np.ndarray, better: str) -> tuple[int, float] | None:
    """The corner of the triangle with the outermost points that is farthest from them, by the distance of a point from a line."""
    points = [np.array([np.log(a), np.log(b)]) for a, b in zip(x, y, strict=True)]
    a, b = points[int(np.argmin(x))], points[int(np.argmax(x))]
    found = []
    for i, p in enumerate(points):
        cross = (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0])
        side = -1 if better == "low" else 1
        found.append((side * cross / np.hypot(*(b - a)), i))
    distance, index = max(found, key=lambda pair: pair[0])
    return index, distance


@given(
    st.lists(st.tuples(POSITIVE, POSITIVE), min_size=3, max_size=9, unique_by=lambda p: p[0]), st.sampled_from(["low", "high"]),
    st.floats(0.1, 10), st.floats(0.1, 10),
)  # fmt: skip
def test_the_knee_is_the_point_farthest_from_the_chord_however_the_axes_are_scaled(points, better, a, b):
    x, y = np.array(sorted(points)).T
    # Values nearer than rounding are one value after a change of scale.
    assume(np.diff(np.log(x)).min() > 1e-9)
    found = curves.knee(x, y, better)
    assume(found is not None)
    index, distance = literal_knee(x, y, better)
    assert literal_knee(x[[0, found, -1]], y[[0, found, -1]], better)[1] == pytest.approx(distance)
    assert distance > 0
    assert index in range(1, len(x) - 1)
    scaled = curves.knee(x * a, y * b, better)
    assert scaled is not None
    assert literal_knee(x[[0, scaled, -1]], y[[0, scaled, -1]], better)[1] == pytest.approx(distance)


def test_a_curve_that_falls_fast_and_then_slowly_bends_where_it_turns():
    x = np.array([4.0, 8, 16, 32, 64])
    y = np.where(x <= 16, x**-0.5, 16**-0.5 * (x / 16) ** -0.1)
    assert curves.knee(x, y, "low") == 2
    assert curves.knee(x, 1 / y, "high") == 2
    assert curves.knee(x[::-1], y[::-1], "low") == 2


@pytest.mark.parametrize(
    ("x", "y", "better"),
    [
        ([8, 16], [0.5, 0.3], "low"),
        ([8, 8, 16], [0.5, 0.4, 0.3], "low"),
        ([8, 16, 32], [0.5, 0.5 * 2**-0.3, 0.5 * 4**-0.3], "low"),
        ([8, 16, 32], [0.3, 0.29, 0.5], "low"),
        ([8, 16, 32], [0.5, 0.49, 0.2], "low"),
        ([8, 16, 32], [0.5, 0.0, 0.1], "low"),
        ([8, 16, 32], [-0.5, 0.2, 0.3], "high"),
    ],
    ids=["two", "two values of x", "a power law", "worse with x", "bent to the wrong side", "no logarithm", "negative"],
)
def test_there_is_no_knee_where_nothing_bends_to_the_better_side(x, y, better):
    assert curves.knee(np.array(x, float), np.array(y), better) is None


def look(curves_: list[Curve], **options) -> Look:
    colours = scales.colours("architecture", (c.colour for c in curves_), LIGHT)
    return Look(colours, scales.dashes("k", (c.dash for c in curves_)), **options)


def drawn(n: int, metrics: tuple[str, ...] = ("loss", "l0", "fvu"), points: int = 4) -> list[Curve]:
    line = np.arange(points)
    kinds = ("TopK", "Gated")
    return [
        Curve(f"r{i}", f"run {i}", m, line, line.astype(np.float32), kinds[i % 2], f"{8 * (1 + i % 3)}", f"{i % 2}")
        for m in metrics
        for i in range(n)
    ]


def lines(figure, hover: bool = True) -> list:
    return [t for t in figure.data if t.x is not None and len(t.x) > 1 and (t.hoverinfo != "skip") == hover]


def entries(figure) -> dict[str, list[str]]:
    """Legend to its entries."""
    out: dict[str, list[str]] = {}
    for trace in figure.data:
        if trace.showlegend is not False and trace.name:
            out.setdefault(trace.legend or "legend", []).append(trace.name)
    return out


PANELS = {"loss": "Loss", "l0": "L0", "fvu": "FVU"}


def test_training_curves_have_a_panel_for_each_metric_and_one_look_for_each_value():
    figure = training_curves(drawn(6), PANELS, LIGHT, look(drawn(6)))
    assert len({t.xaxis for t in lines(figure)}) == 3
    for kind in ("TopK", "Gated"):
        assert len({t.line.color for t in lines(figure) if t.legendgroup == kind}) == 1
    assert len({t.line.dash for t in lines(figure)}) == 3


def test_a_legend_has_an_entry_for_each_value_and_not_for_each_run():
    figure = training_curves(drawn(40), PANELS, LIGHT, look(drawn(40)))
    assert entries(figure) == {"legend": ["Gated", "TopK"], "legend2": ["8", "16", "24"]}
    assert figure.layout.legend2.itemclick is False
    assert figure.layout.legend.y > figure.layout.legend2.y


def test_a_scale_with_one_value_has_no_legend():
    one = [Curve("r", "", "loss", np.arange(3), np.arange(3.0))]
    nothing = Look(scales.colours("architecture", [""], LIGHT), scales.dashes("", [""]))
    assert entries(training_curves(one, {"loss": "Loss"}, LIGHT, nothing)) == {}


def test_many_runs_are_drawn_thin_and_told_one_by_one():
    few, many = (training_curves(drawn(n), PANELS, LIGHT, look(drawn(n))) for n in (4, 30))
    assert lines(many)[0].line.width < lines(few)[0].line.width
    assert (few.layout.hovermode, many.layout.hovermode) == ("x unified", "closest")
    assert "run 1 · r1" in lines(many)[1].hovertemplate


def test_many_long_curves_are_thinned_out_together():
    long = drawn(60, points=5000)
    assert sum(len(t.x) for t in lines(training_curves(long, PANELS, LIGHT, look(long)))) <= 1.05 * curves.MOST_POINTS


def test_columns_set_the_values_of_a_field_apart():
    figure = training_curves(drawn(6), PANELS, LIGHT, look(drawn(6), columns=("0", "1")))
    assert len({t.xaxis for t in lines(figure)}) == 6
    for trace in lines(figure):
        number = int((trace.xaxis or "x1")[1:] or 1)
        assert (number - 1) % 2 == int(trace.name.split("r")[-1]) % 2


def test_smoothing_leaves_the_raw_curve_behind_it_where_there_are_few():
    few, many = (training_curves(drawn(n), PANELS, LIGHT, look(drawn(n), smoothing=0.5)) for n in (2, 30))
    assert len(lines(few, hover=False)) == 6
    assert not lines(many, hover=False)


def point(run: str, x: float, y: float, level: str, kind: str = "TopK", held_out: bool = True) -> Point:
    return Point(run, f"<b>{run}</b>", Interval(float(x), float(x), float(x)), Interval(y, y - 0.02, y + 0.03), level, kind, kind, held_out)


AXES = Axes("L0", "FVU", "low", True)
TOPK = Family("TopK", "a", tuple(point(f"t{k}{s}", k, y + s / 50, f"k={k}") for k, y in ((8, 0.5), (16, 0.3), (64, 0.25)) for s in (0, 1)))
GATED = Family("Gated", "a", (point("g8", 8, 0.6, "k=8", "Gated"), point("g64", 60, 0.2, "k=64", "Gated", held_out=False)))
OTHER = Family("TopK", "b", (point("o", 8, 0.01, "k=8"),))


def drawn_tradeoff(*families: Family):
    kinds = [p.symbol for f in families for p in f.points]
    return tradeoff(families, AXES, LIGHT, scales.colours("architecture", kinds, LIGHT), scales.symbols("architecture", kinds))


def test_the_course_of_a_family_averages_its_repeats_and_knows_its_knee():
    course = Course.of(TOPK, "low")
    assert course.levels == ("k=8", "k=16", "k=64")
    assert course.x.tolist() == [8, 16, 64]
    assert course.y == pytest.approx([0.51, 0.31, 0.26])
    assert course.knee == 1


def test_each_family_has_a_line_and_each_dictionary_a_point_with_its_interval():
    figure = drawn_tradeoff(TOPK, GATED)
    straight = [t for t in figure.data if t.mode == "lines" and t.line.dash is None]
    assert [len(t.x) for t in straight] == [3, 2]
    points = [t for t in figure.data if t.customdata is not None]
    assert sorted(c[0] for t in points for c in t.customdata) == sorted(p.run for f in (TOPK, GATED) for p in f.points)
    assert points[0].error_y.array == pytest.approx([0.03] * 6)
    assert points[0].error_y.arrayminus == pytest.approx([0.02] * 6)
    assert "&lt;b&gt;" in points[0].customdata[0][1]
    assert {t.marker.color for t in points} == {LIGHT.series[0], LIGHT.series[1]}


def test_the_knee_has_a_ring_and_a_dictionary_without_evaluation_is_hollow():
    figure = drawn_tradeoff(TOPK, GATED)
    rings = [t for t in figure.data if t.marker.symbol == "circle-open" and t.customdata is None]
    assert [(t.x[0], round(t.y[0], 2)) for t in rings] == [(16, 0.31)]
    hollow = [
        c[0] for t in figure.data if t.customdata is not None for c, s in zip(t.customdata, t.marker.symbol, strict=True) if "open" in s
    ]
    assert hollow == ["g64"]


def test_targets_have_panels_of_their_own_and_no_line_or_frontier_joins_them():
    figure = drawn_tradeoff(TOPK, GATED, OTHER)
    assert [a.text for a in figure.layout.annotations] == ["a", "b"]
    dotted = [t for t in figure.data if t.line.dash == "dot"]
    assert [min(t.y) for t in dotted] == [0.2]
    axes = {t.xaxis for t in figure.data if t.customdata is not None and any(c[0] == "o" for c in t.customdata)}
    assert axes == {"x2"}


@given(st.floats(1e-6, 1e6), st.floats(1, 1e4))
def test_a_logarithmic_axis_shows_all_and_has_round_ticks_inside(low, factor):
    axis = log_axis(low, low * factor)
    left, right = axis["range"]
    assert left < np.log10(low) <= np.log10(low * factor) < right
    assert 2 <= len(axis["tickvals"]) <= 10
    assert all(left <= np.log10(tick) <= right for tick in axis["tickvals"])
    assert len(set(axis["ticktext"])) == len(axis["ticktext"])


def test_an_axis_without_a_positive_value_is_left_to_plotly():
    assert log_axis(1.0, 0.0) == {"type": "log"}


def test_ticks_are_the_numbers_that_one_would_write():
    assert log_ticks(1.0, 1000.0) == [1, 10, 100, 1000]
    assert log_ticks(8.0, 64.0) == [10, 20, 50]
    assert log_ticks(0.27, 0.46) == [0.3, 0.35, 0.4, 0.45]


def test_values_are_ordered_by_the_numbers_in_them():
    assert scales.ordered(["16", "8", "128"]) == ["8", "16", "128"]
    assert scales.ordered(["10.resid_post", "9.mlp_in", "9.mlp_in"]) == ["9.mlp_in", "10.resid_post"]
    assert scales.ordered(["0.001", "1e-05", "default"]) == ["1e-05", "0.001", "default"]
    assert scales.ordered(["4,608", "512"]) == ["512", "4,608"]


@given(st.lists(st.text(max_size=8), max_size=12))
def test_any_texts_can_be_ordered(texts):
    assert sorted(scales.ordered(texts)) == sorted(set(texts))


def test_a_value_keeps_its_colour_and_symbol_whoever_else_is_there():
    first = ("TopK", "Gated", "Codebook")
    alone, all_ = (scales.colours("architecture", values, LIGHT, first) for values in (["Gated"], ["Gated", "TopK", "New"]))
    assert alone["Gated"] == all_["Gated"] == LIGHT.series[1]
    assert list(all_.looks) == ["TopK", "Gated", "New"]
    assert all_["New"] == LIGHT.series[2]
    kinds = [f"K{i:02}" for i in range(10)]
    assert scales.colours("a", ["K00", "New"], LIGHT, kinds)["New"] == LIGHT.series[1]
    assert scales.symbols("a", ["Codebook"], first)["Codebook"] == scales.SYMBOLS[2]


def test_rising_values_take_shades_and_so_do_more_than_there_are_colours():
    shades = scales.colours("k", ["8", "16", "32"], DARK, rising=True)
    assert [shades["8"], shades["32"]] == [DARK.ramp[0], DARK.ramp[-1]]
    many = scales.colours("sites", map(str, range(14)), LIGHT)
    assert len(set(many.looks.values())) == 14
    dashes = scales.dashes("k", map(str, range(9)))
    assert all(a == b for a, b in itertools.pairwise([dashes["0"], dashes["6"]]))
