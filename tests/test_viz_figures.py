"""Figures against literal twins, and labels that carry no markup."""

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from interp.viz import circuit_curves, circuit_graph, circuits, grids, histograms, patterns
from interp.viz.charts import label, signed_log, signed_log_axis, translucent
from interp.viz.colours import DARK, LIGHT


def test_activation_histogram_spans_zero_to_the_maximum_and_marks_four_band_edges():
    figure = histograms.activation_histogram(np.arange(50, dtype=np.uint32), 10.0, LIGHT)
    assert figure.data[0].x[0] == pytest.approx(0.1)
    assert figure.data[0].x[-1] == pytest.approx(9.9)
    assert [s.x0 for s in figure.layout.shapes] == [2.0, 4.0, 6.0, 8.0]


def test_a_histogram_of_equal_values_has_one_bar():
    counts = np.zeros(50, np.uint32)
    counts[-1] = 412
    figure = histograms.activation_histogram(counts, 0.125, LIGHT)
    assert int((np.array(figure.data[0].y) > 0).sum()) == 1
    assert figure.data[0].x[-1] == pytest.approx(0.125, rel=0.02)


def test_logit_bars_are_coloured_by_their_sign():
    figure = histograms.logit_histogram(np.ones(4, np.uint16), -2.0, 2.0, LIGHT)
    assert list(figure.data[0].marker.color) == [LIGHT.negative] * 2 + [LIGHT.positive] * 2


def test_density_histogram_counts_live_latents_only():
    densities = np.array([0.0, 0.0, 0.1, 0.01, 0.0001])
    figure = histograms.density_histogram(densities, DARK, (-3.0, -1.0))
    assert int(np.sum(figure.data[0].y)) == 3
    assert len(figure.layout.shapes) == 1
    assert int(np.sum(histograms.density_histogram(np.zeros(3), DARK).data[0].y)) == 0


def test_a_histogram_is_told_in_words():
    counts = np.array([1, 5, 2], np.int64)
    assert histograms.spoken(counts, 0.0, 3.0, "H") == "H: 3 bins from 0 to 3, most in 1 to 2, 8 in all"
    assert histograms.spoken(counts * 0, 0.0, 3.0, "H") == "H: empty"


def test_scatter_points_carry_the_number_of_their_latent():
    ids = np.array([7, 3])
    values = np.array([0.1, 0.2]), np.array([1.0, 2.0]), np.array([0.5, 0.6])
    figure = histograms.latent_scatter(ids, values, ("max", "share"), LIGHT)
    assert figure.data[0].customdata.ravel().tolist() == [7, 3]


@given(
    arrays(float, st.tuples(st.integers(1, 5), st.integers(1, 20)), elements=st.one_of(st.just(float("nan")), st.floats(0, 1))),
    st.integers(0, 4),
)
def test_every_drawn_cell_is_named_by_its_place(values, picked):
    grid = grids.head_grid(values, LIGHT, 1.0, f"{picked}.0")
    data = grid.option["series"][0]["data"]
    assert len(data) == len(grid.cells) == int((~np.isnan(values)).sum())
    for cell, name in zip(data, grid.cells, strict=True):
        head, layer, value = cell["value"]
        assert name == f"{layer}.{head}"
        assert value == pytest.approx(values[layer, head], abs=1e-4)
    assert grid.option["series"][0]["label"]["show"] == (values.shape[1] <= 16)


def test_picking_a_cell_outlines_it_and_keeps_the_order_of_the_others():
    plain, picked = (grids.head_grid(np.zeros((2, 2)), LIGHT, 1.0, name) for name in ("9.9", "1.0"))
    assert plain.cells == picked.cells == ("0.0", "0.1", "1.0", "1.1")
    assert [cell["value"][:2] for cell in picked.option["series"][1]["data"]] == [[0, 1]]
    assert not plain.option["series"][1]["data"]


def test_signed_grids_are_symmetric_around_zero():
    grid = grids.node_grid(np.array([[-0.5, 2.0]]), ["0", "MLP"], [["0.z.0", "0.mlp_out"]], LIGHT, frozenset())
    legend = grid.option["visualMap"]
    assert (legend["min"], legend["max"]) == (-2.0, 2.0)
    assert grid.cells == ("0.z.0", "0.mlp_out")


def test_short_numbers_look_like_tables_of_scores():
    assert [grids.short(v) for v in (0.83, -0.07, 1.2, 0.0, -0.001, 10.5)] == [".83", "-.07", "1.20", ".00", ".00", "10.50"]


def test_attention_hides_the_future_and_escapes_tokens():
    figure = patterns.attention(np.full((3, 3), 1 / 3, np.float32), ["<b>", "a", "b"], LIGHT, 1)
    z = np.array(figure.data[0].z, float)
    assert np.isnan(z[np.triu_indices(3, 1)]).all()
    assert not np.isnan(z[np.tril_indices(3)]).any()
    assert figure.layout.xaxis.ticktext[0] == "0 &lt;b&gt;"


@given(st.integers(1, 9), st.integers(0, 2**31))
def test_attention_received_equals_the_mean_over_later_queries(n, seed):
    pattern = np.random.default_rng(seed).random((n, n))
    literal = [np.mean([pattern[q, k] for q in range(k, n)]) for k in range(n)]
    assert patterns.received(pattern) == pytest.approx(np.array(literal))


@given(arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6), st.just(3))))
def test_a_png_holds_its_pixels(pixels):
    data = patterns.png(pixels)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    start = data.index(b"IDAT") + 4
    rows = zlib.decompress(data[start : data.index(b"IEND") - 8])
    width = 1 + 3 * pixels.shape[1]
    assert b"".join(rows[i * width + 1 : (i + 1) * width] for i in range(pixels.shape[0])) == pixels.tobytes()


def test_a_thumbnail_is_a_picture_without_text():
    assert patterns.thumbnail(np.eye(4, dtype=np.float32), DARK).startswith('<img src="data:image/png;base64,')


def test_bars_are_blue_where_the_node_helps():
    effects = circuits.Effects(np.array([-1.0, 0.5]), np.array([-1.2, 0.4]), np.array([-0.9, 0.7]))
    bars = circuits.effect_bars(["5.1", "m7"], effects, LIGHT, "score").data[0]
    assert list(bars.marker.color) == [LIGHT.negative, LIGHT.positive]
    assert bars.error_x.array == pytest.approx([0.1, 0.2])
    assert bars.error_x.arrayminus == pytest.approx([0.2, 0.1])


def test_bars_without_intervals_have_no_whiskers():
    nothing = np.full(2, np.nan)
    bars = circuits.effect_bars(["5.1", "m7"], circuits.Effects(np.array([-1.0, 0.5]), nothing, nothing), LIGHT, "score").data[0]
    assert bars.error_x.visible is False


def test_agreement_tells_kinds_apart_by_colour_and_shape_and_writes_no_names_on_points():
    line = np.linspace(0, 1, 20)
    kinds = {kind: circuits.Audited([f"<{i}>" for i in range(20)], line, line) for kind in ("heads", "MLPs")}
    figure = circuits.agreement(kinds, LIGHT, "logits")
    points = figure.data[1:]
    assert [trace.name for trace in points] == ["heads", "MLPs"]
    assert len({(trace.marker.color, trace.marker.symbol) for trace in points}) == 2
    assert all(trace.mode == "markers" for trace in points)
    assert points[0].customdata[3][0] == "&lt;3&gt;"


def series(name: str, n: list[int], baseline: bool = False) -> circuit_curves.Series:
    share = np.array(n, float) / n[-1]
    rest = np.where((share > 0) & (share < 1), np.nan, 1 - share) if baseline else 1 - share
    return circuit_curves.Series(name, np.array(n), 2 * share, share, share - 0.1, share + 0.1, rest, baseline)


def test_the_faithfulness_curve_marks_the_size_and_both_ends():
    figure = circuit_curves.faithfulness_curve([series("exact", [0, 5, 20])], LIGHT, "nodes", size=5)
    assert sorted(s.y0 for s in figure.layout.shapes if s.y0 == s.y1) == [0, 1]
    assert any(s.x0 == s.x1 == pytest.approx(np.log10(5)) for s in figure.layout.shapes)
    assert any(a.text == "5 nodes in view" and a.yref == "paper" and a.yanchor == "bottom" for a in figure.layout.annotations)


def test_the_completeness_curve_leaves_out_random_orders_and_runs_from_the_whole_model_to_nothing():
    lines = [series("the method", [0, 5, 20]), series("random", [0, 5, 20], baseline=True)]
    figure = circuit_curves.completeness_curve(lines, LIGHT, "nodes", "logit difference (logits)", 5)
    assert [trace.name for trace in figure.data] == ["the method"]
    levels = {a.text: a.y for a in figure.layout.annotations}
    assert (levels["whole model"], levels["all nodes ablated"]) == (1.0, 0.0)


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=20, unique=True))
def test_sizes_stand_in_order_zero_first_and_the_largest_is_named(sizes):
    axis = circuit_curves.Axis.of([series("a", sorted({0, *sizes}))])
    places = axis.place(np.array(sorted({0, *sizes})))
    assert (np.diff(places) > 0).all()
    ticks = axis.layout("nodes")
    assert places[-1] in ticks["tickvals"]
    assert len(ticks["ticktext"]) == len(ticks["tickvals"]) <= 20


FRAME = circuit_graph.Frame(4, 3)


def test_layers_rise_from_the_embedding_to_the_logits():
    heights = [FRAME.place(name)[1] for name in ("embed", "0.2", "m0", "1.0", "m3", "logits")]
    assert heights == sorted(set(heights))


def test_a_layered_graph_draws_every_line_once_with_its_sign_and_width():
    lines = [
        circuit_graph.Line("embed", "0.1", "a", -1.0, "q"),
        circuit_graph.Line("0.1", "logits", "b", 0.01),
        circuit_graph.Line("0.1", "m2", "c"),
    ]
    vertices = [circuit_graph.Vertex(name, 0.1, "x") for name in ("embed", "0.1", "m2", "logits")]
    figure = circuit_graph.layered(vertices, lines, FRAME, LIGHT)
    strokes = [trace for trace in figure.data if trace.mode == "lines"]
    assert sum(sum(x is None for x in trace.x) for trace in strokes) == len(lines)
    strong, weak = strokes[0].line, strokes[-1].line
    assert (strong.width, weak.width) == (circuit_graph.WIDTHS[-1], circuit_graph.WIDTHS[0])
    assert (strong.dash, weak.dash) == ("solid", "dot")
    middles = next(trace for trace in figure.data if trace.customdata is not None and len(trace.customdata[0]) == 1)
    assert [row[0] for row in middles.customdata] == ["a", "b", "c"]


def test_lines_begin_and_end_at_their_nodes_and_bow_within_a_column():
    arc = circuit_graph.arc(circuit_graph.Line("m0", "m3", ""), FRAME)
    assert arc[0] == pytest.approx(FRAME.place("m0"))
    assert arc[-1] == pytest.approx(FRAME.place("m3"))
    assert arc[len(arc) // 2, 0] > FRAME.place("m0")[0] + 0.1


def test_a_graph_of_nothing_is_still_a_picture():
    assert circuit_graph.layered([circuit_graph.Vertex("embed"), circuit_graph.Vertex("logits")], [], FRAME, DARK).data


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30))
def test_a_signed_logarithmic_axis_keeps_order_and_sign_and_holds_all_values(values):
    x = np.array(values)
    unit, layout = signed_log_axis(x)
    places = signed_log(x, unit)
    assert (np.sign(places) == np.sign(x)).all() or unit > 1e12 * np.abs(x[x != 0]).min()
    assert (np.diff(places[np.argsort(x)]) >= 0).all()
    assert layout["range"][0] <= places.min()
    assert layout["range"][1] >= places.max()
    assert 0.0 in layout["tickvals"]
    assert len(layout["tickvals"]) <= 9


def test_labels_carry_no_markup():
    assert label("<a href=x>") == "&lt;a href=x&gt;"
    assert translucent("#ff0080", 0.5) == "rgba(255,0,128,0.5)"
