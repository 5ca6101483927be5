"""Panels of the Circuit page: its figures in words, curves, graph, grid of scores, strongest nodes or edges."""

from collections.abc import Mapping

import numpy as np
import streamlit as st

from app import circuit_graph, circuits, readers, session, widgets
from app.address import anchor, choice
from app.circuit_view import SCOPES, View
from app.circuit_words import two
from interp.runs import Run
from interp.viz import circuit_curves, grids
from interp.viz.circuit_graph import Frame, layered
from interp.viz.circuits import Effects, effect_bars
from interp.viz.html import Html, element, facts, table

LISTED, HINDERING = 20, 3


def graph(view: View) -> None:
    definition = (
        "From the embedding below to the logits on top. Width is |score|; blue helps, orange dotted works against the task. A node has the "
        "colour of the sum over all its edges. Point at a line or a node for its numbers."
        if view.unit == "edge"
        else "From the embedding below to the logits on top. Blue nodes help, orange ones work against the task; size is |score|."
    )
    with widgets.panel(f"The circuit in view: {view.size:,} {view.unit}s by {view.by}", definition, view.run, view.file):
        if view.unit == "edge":
            wiring = session.read(circuits.wiring_of, view.run)
            drawing = circuit_graph.of_edges(view.rows, wiring, view.nodes, view.kept, view.measure)
        else:
            drawing = circuit_graph.of_nodes(view.nodes, view.kept, view.by, view.measure)
        shape = circuits.Shape.of(view.nodes)
        figure = layered(drawing.vertices, drawing.lines, Frame(shape.layers, shape.heads), session.theme())
        alt = f"Layered graph of {len(drawing.vertices)} nodes and {len(drawing.lines)} lines"
        st.plotly_chart(figure, key="graph", alt=alt)
        also = " Every MLP runs as well." if view.scope == "heads" else ""
        last = " Order helping: what works against the task enters last." if view.config.get("ranking") == "helping" else ""
        st.html(element("p", drawing.said + also + last, class_="quiet"))


def curves(view: View) -> None:
    definition = (
        "Faithfulness: (metric of the circuit − everything ablated) / (whole model − everything ablated): 1 keeps the behaviour, 0 none. "
        "Above 1 is possible: a circuit may leave out what works against the task. Bands are 95 % intervals. "
        "Completeness: what is left of the metric without the circuit; where it is complete, nothing."
    )
    with widgets.panel("Faithfulness and completeness", definition, view.run, "curve.parquet"):
        if widgets.lacks(view.run, "curve.parquet", "curves"):
            return
        found = {ablation: lines for (scope, ablation), lines in session.read(circuits.curves_of, view.run).items() if scope == view.scope}
        if not found:
            st.html(element("p", f"This run has no curve where {SCOPES[view.scope]}.", class_="quiet"))
            return
        own = str(view.config.get("ablation", "resample"))
        options = sorted(found, key=lambda name: (name != own, name))
        choice(session.query().get("ablation"), "ablation", options)
        ablation, label = options[0], "what is not kept writes"
        if len(options) > 1:
            ablation = (
                st.segmented_control(label, options, default=ablation, key="ablation", bind="query-params", required=True) or ablation
            )
        lines, units = found[ablation], f"{view.unit}s" if view.scope == "all" else "heads"
        name, measure = (circuits.about(view.run)[part] for part in ("metric", "metric_unit"))
        left, right = st.columns(2)
        with left:
            figure = circuit_curves.faithfulness_curve(lines, session.theme(), units, view.size)
            st.plotly_chart(figure, key="curve", alt=f"Faithfulness against {units} kept, {ablation} ablation")
        with right:
            figure = circuit_curves.completeness_curve(lines, session.theme(), units, f"{name} ({measure})", view.size)
            st.plotly_chart(figure, key="complement", alt=f"{name} of the complement against {units} taken away")
        _curve_table(view, lines, units)


def _curve_table(view: View, lines: list[circuit_curves.Series], units: str) -> None:
    """Faithfulness at each size, the measured size nearest to the view marked; under it what is said of both."""
    sizes = lines[0].n
    at = circuits.measured(lines[0], view.size)
    head = [element("b", f"{n:,}") if i == at else f"{n:,}" for i, n in enumerate(sizes)]
    rows = [(line.name, *(two(value) for value in line.faithfulness)) for line in lines]
    st.html(table((f"faithfulness at {units}", *head), rows, numeric=range(1, 1 + len(sizes))))
    best, end = lines[0], ". What random orders leave behind is not measured."
    reached = f"{two(best.faithfulness[at])} [{two(best.low[at])}, {two(best.high[at])}]"
    said = f"Largest measured size up to the {view.size:,} in view: {sizes[at]:,} {units}, where {best.name} reaches {reached}{end}"
    st.html(element("p", said, class_="quiet"))


def grid(view: View) -> None:
    summed = view.unit == "edge"
    what = "The sum of the scores of all edges that leave a node. " if summed else ""
    definition = f"{what}Blue helps, orange works against the task. Click a cell for its numbers."
    with widgets.panel("Scores by layer and head", definition, view.run, "nodes.parquet"):
        values, columns, cells = circuits.layout(view.nodes, view.by)
        picked = frozenset() if summed else frozenset(str(n) for n in view.nodes["name"][view.kept])
        drawn = grids.node_grid(values, columns, cells, session.theme(), picked)
        alt = f"{view.by} of {len(view.nodes['node'])} nodes"
        event = st.echarts_chart(drawn.option, height=drawn.height, key="nodes", on_select="rerun", alt=alt)
        unit = f"Numbers are {view.measure}." if view.measure else "Numbers have no unit."
        outlined = "" if summed else f" Outlined: the {len(picked)} nodes of the circuit in view."
        st.html(element("p", unit + outlined, class_="quiet"))
        index = session.clicked(event)
        if index is not None:
            i = int(np.flatnonzero(view.nodes["name"] == drawn.cells[index])[0])
            numbers = [(by, value) for by in circuits.BY if (value := bracketed(view.nodes, by, i)) != "–"]
            st.html(element("div", facts([("node", drawn.cells[index]), *numbers]), patterns(view.run, str(view.nodes["name"][i]))))


def bracketed(rows: Mapping[str, np.ndarray], name: str, i: int) -> str:
    """A score with its interval."""
    value, low, high = (float(rows[name + end][i]) for end in ("", "_low", "_high"))
    if value != value:
        return "–"
    return f"{value:+.3f}" + ("" if low != low else f" [{low:+.3f}, {high:+.3f}]")


def patterns(run: Run, name: str) -> Html:
    """The way to the patterns of a head, when its model has a heads run."""
    model = readers.config(run).get("model")
    found = next((r for r in session.all_runs("heads") if readers.config(r).get("model") == model), None)
    return Html("") if found is None or "." not in name else anchor("head", "patterns", run=found.id, h=name)


def bars(view: View) -> None:
    known = view.order[~np.isnan(view.rows[view.by][view.order])]
    shown = np.concatenate([known[:LISTED], known[-HINDERING:]]) if len(known) > LISTED + HINDERING else known
    absolute = view.config.get("ranking") == "absolute"
    last = "" if absolute else f", then the {HINDERING} that work against the task most"
    shown = known[:LISTED] if absolute else shown
    definition = f"The {min(LISTED, len(known))} that enter first{last}. Whiskers are 95 % intervals."
    with widgets.panel(f"Strongest {view.unit}s", definition, view.run, view.file):
        effects = Effects(*(view.rows[view.by + end][shown] for end in ("", "_low", "_high")))
        ends = [str(n) for n in view.rows["name"][shown]]
        st.plotly_chart(effect_bars(ends, effects, session.theme(), view.axis), key="bars", alt=f"Scores of {len(ends)} {view.unit}s")
