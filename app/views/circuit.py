"""Circuit: which nodes or edges a task needs, how far the scores can be trusted, and how faithful a circuit of each size is."""

import numpy as np
import streamlit as st

from app import circuit_panels, circuit_tables, circuits, readers, session, widgets
from app.address import choice, whole
from app.circuit_view import SCOPES, View, lead
from interp.runs import Run

HELP = "score: that of the run's method; exact: each node ablated in turn."
FIRST = {"node": 20, "edge": 200}


@widgets.page("circuit", "Circuit", "Which heads, MLPs or edges a task needs, and how much of the behaviour they explain on their own.")
def page() -> None:
    """Draw the page."""
    run = widgets.opened("circuit")
    if run is None:
        return
    nodes, unit = session.read(circuits.nodes_of, run), session.read(circuits.unit_of, run)
    if unit == "edge" and widgets.lacks(run, "edges.parquet", "edges"):
        return
    rows = session.read(circuits.edges_of, run) if unit == "edge" else nodes
    given = session.query()
    choice(given.get("by"), "by", _ways(rows, unit))
    choice(given.get("scope"), "scope", SCOPES if unit == "node" else ("all",))
    whole(given.get("n"), "n", 0, len(rows["name"]))
    if unit == "edge":
        choice(given.get("node"), "node", [circuit_tables.ANY, "embed", *nodes["name"].tolist(), "logits"])
    lead(run, nodes, rows, unit)
    _body(run, nodes, rows, unit)


def _ways(rows: readers.Columns, unit: str) -> list[str]:
    """What nodes can be ranked by; of edges only a sample is ablated exactly."""
    return [by for by in circuits.BY if by == "score" or (unit == "node" and not np.isnan(rows[by]).any())]


@st.fragment
@widgets.guarded
def _body(run: Run, nodes: readers.Columns, rows: readers.Columns, unit: str) -> None:
    view = _controls(run, nodes, rows, unit)
    first, second = st.columns((3, 2))
    with first:
        circuit_panels.graph(view)
    with second:
        circuit_tables.prompts(run)
        circuit_panels.bars(view)
    circuit_panels.curves(view)
    first, second = st.columns((3, 2))
    with first:
        circuit_panels.grid(view)
    with second:
        circuit_tables.audit(view)
        circuit_tables.knock_outs(view)
        circuit_tables.truth(view)
    (circuit_tables.edges if unit == "edge" else circuit_tables.nodes)(view)
    session.remember("circuit")


def _controls(run: Run, nodes: readers.Columns, rows: readers.Columns, unit: str) -> View:
    """Which circuit is in view, from the address and the controls."""
    ranking = str(readers.config(run).get("ranking", "helping"))
    if unit == "edge":
        order = session.read(edge_order, run, ranking)
        return View(run, nodes, rows, unit, "score", "all", order, _edge_size(run, len(order)))
    left, middle, right = st.columns((1, 1.4, 3), vertical_alignment="bottom")
    by = left.selectbox("rank nodes by", _ways(rows, unit), key="by", bind="query-params", help=HELP)
    told = "\n".join(f"- {name}: {text}" for name, text in SCOPES.items())
    scope = middle.selectbox("nodes that may be ablated", list(SCOPES), key="scope", bind="query-params", help=told)
    order = circuits.entering(nodes[by], ranking, nodes["kind"] == "head" if scope == "heads" else None)
    session.default("n", min(FIRST[unit], len(order)))
    st.session_state["n"] = min(int(st.session_state.get("n", st.query_params.get("n", 0))), len(order))
    size = right.slider("nodes in the circuit", 0, len(order), key="n", bind="query-params")
    return View(run, nodes, rows, unit, by, scope, order, size)


def edge_order(run: Run, ranking: str) -> np.ndarray:
    """Edges in the order in which they enter."""
    return circuits.entering(circuits.edges_of(run)["score"], ranking)


def _edge_size(run: Run, n: int) -> int:
    """How many edges: round numbers and the sizes of the curves, because a slider over all of them would jump by hundreds."""
    curves = session.read(circuits.curves_of, run) if run.has("curve.parquet") else {}
    session.default("n", min(FIRST["edge"], n))
    asked = st.session_state.get("n", st.query_params.get("n", 0))
    st.session_state["n"] = min(int(asked), n)
    return st.select_slider("edges in the circuit", circuits.sizes(n, curves, st.session_state["n"]), key="n", bind="query-params")
