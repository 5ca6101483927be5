"""Circuit: which nodes a task needs, how well the estimate agrees with ablation, and how faithful a circuit of each size is."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import streamlit as st

from app import definitions, readers, session, widgets
from app.address import anchor, choice, whole
from app.circuits import METHODS, curves_of, entering, layout, nodes_of
from interp.runs import Run
from interp.viz import circuits, grids
from interp.viz.html import Html, element, facts, join, number, table
from interp.viz.strip import Token, chip, strip

SCOPES = {"all": "heads and MLPs", "heads": "heads (every MLP runs)"}
LISTED, HINDERING, MOST = 20, 3, 40
HELP = "exact: each node ablated in turn; attribution: gradient times difference, one backward pass."
PAIRS = 6


@widgets.page("circuit", "Circuit", "Which heads and MLPs a task needs, and how much of the behaviour they explain on their own.")
def page() -> None:
    """Draw the page."""
    if widgets.no_runs("circuit"):
        return
    left, right = st.columns((5, 1), vertical_alignment="center")
    with left:
        run = widgets.pick_run("circuit")
    with right:
        widgets.provenance(run)
    nodes = session.read(nodes_of, run)
    given = session.query()
    choice(given.get("by"), "by", METHODS)
    choice(given.get("scope"), "scope", SCOPES)
    whole(given.get("n"), "n", 0, len(nodes["node"]))
    _body(run, nodes)


@st.fragment
@widgets.guarded
def _body(run: Run, nodes: readers.Columns) -> None:
    left, middle, right = st.columns((1, 1, 3), vertical_alignment="bottom")
    by = left.selectbox("rank nodes by", METHODS, key="by", bind="query-params", help=HELP)
    scope = middle.selectbox(
        "nodes that may be ablated",
        list(SCOPES),
        key="scope",
        bind="query-params",
        help="\n".join(f"- {name}: {text}" for name, text in SCOPES.items()),
    )
    order = entering(nodes, by, readers.config(run).get("ranking", "helping"), scope)
    session.default("n", min(20, len(order)))
    st.session_state["n"] = min(int(st.session_state.get("n", st.query_params.get("n", 0))), len(order))
    size = right.slider("nodes in the circuit", 0, len(order), key="n", bind="query-params")
    _figures(run, by, size)
    first, second = st.columns((3, 2))
    with first:
        _curve(run, scope, size)
        _grid(run, nodes, by, frozenset(str(n) for n in nodes["node"][order[:size]]))
    with second:
        _bars(run, nodes, by, entering(nodes, by, "helping", scope))
        _agreement(run, nodes)
        _table(run, nodes, order[:size])
    _prompts(run)
    session.remember("circuit")


def _figures(run: Run, by: str, size: int) -> None:
    """The figures of the run, and the circuit in view."""
    figures = session.read(readers.summary, run)
    known = {k: figures[k] for k in definitions.FIGURES if isinstance(figures.get(k), (int, float, str))}
    given = [(definitions.title(k), number(v) if isinstance(v, (int, float)) else v) for k, v in known.items()]
    task = readers.config(run).get("task")
    name = " ".join(widgets.flatten(task).values()) if isinstance(task, Mapping) else task
    st.html(
        facts(
            [("model", readers.config(run).get("model", "–")), ("task", name or "–"), ("circuit in view", f"{size} nodes by {by}"), *given]
        )
    )
    widgets.legend((definitions.title(k), definitions.meaning(k)) for k in known)


def _curve(run: Run, scope: str, size: int) -> None:
    definition = (
        "(logit difference of the circuit − all ablated) / (whole model − all ablated): 1 keeps the behaviour, 0 loses it, "
        "and above 1 the circuit leaves out nodes that work against the task. Random circuits are the baseline."
    )
    with widgets.panel("Faithfulness", definition, run, "curve.parquet"):
        series = {ablation: lines for (part, ablation), lines in session.read(curves_of, run).items() if part == scope}
        if not series:
            st.html(element("p", f"This run has no curve over {SCOPES[scope]}.", class_="quiet"))
            return
        names = sorted(series, reverse=True)
        choice(session.query().get("ablation"), "ablation", names)
        label = "ablated nodes are replaced by"
        ablation = st.segmented_control(label, names, default=names[0], key="ablation", bind="query-params", required=True) or names[0]
        lines = series[ablation]
        figure = circuits.faithfulness_curve(lines, session.theme(), size)
        st.plotly_chart(figure, key="curve", alt=f"Faithfulness against nodes, {ablation} ablation")
        sizes = lines[0].n_nodes
        rows = [
            (line.name, *(f"{np.interp(n, line.n_nodes, line.faithfulness).round(2) + 0.0:.2f}" for n in (size, *sizes))) for line in lines
        ]
        st.html(table(("nodes", f"{size} (in view)", *sizes), rows, numeric=range(1, 2 + len(sizes))))


def _grid(run: Run, nodes: readers.Columns, by: str, kept: frozenset[str]) -> None:
    definition = "Blue: ablating the node hurts the task, so it helps. Orange: ablating it improves the task. Click a cell for its numbers."
    with widgets.panel("Effects by layer", definition, run, "nodes.parquet"):
        values, columns, names = layout(nodes, by)
        grid = grids.node_grid(values, columns, names, session.theme(), kept)
        event = st.echarts_chart(
            grid.option, height=grid.height, key="nodes", on_select="rerun", alt=f"{by} effects of {len(nodes['node'])} nodes"
        )
        st.html(element("p", f"Outlined: the {len(kept)} nodes of the circuit in view.", class_="quiet"))
        index = session.clicked(event)
        if index is not None:
            _node(run, nodes, grid.cells[index])


def _node(run: Run, nodes: readers.Columns, name: str) -> None:
    i = int(np.flatnonzero(nodes["node"] == name)[0])
    rows: list[tuple[object, object]] = [("node", name)]
    rows += [(m, f"{nodes[m][i]:+.3f} [{nodes[m + '_low'][i]:+.3f}, {nodes[m + '_high'][i]:+.3f}]") for m in METHODS]
    st.html(element("div", facts(rows), _patterns(run, nodes, i)))


def _patterns(run: Run, nodes: readers.Columns, i: int) -> Html:
    """The way to the patterns of a head, when its model has a heads run."""
    model = readers.config(run).get("model")
    found = next((r for r in session.all_runs("heads") if readers.config(r).get("model") == model), None)
    if found is None or nodes["kind"][i] != "head":
        return Html("")
    return anchor("head", "patterns", run=found.id, h=f"{nodes['layer'][i]}.{int(nodes['head'][i])}")


def _bars(run: Run, nodes: readers.Columns, by: str, order: np.ndarray) -> None:
    shown = np.concatenate([order[:LISTED], order[-HINDERING:]]) if len(order) > LISTED + HINDERING else order
    definition = (
        "Change of the logit difference when the node is ablated, with 95 % intervals: "
        f"the {LISTED} that help most, then the {HINDERING} that hinder most."
    )
    with widgets.panel("Strongest nodes", definition, run, "nodes.parquet"):
        effects = circuits.Effects(*(nodes[by + end][shown].astype(float) for end in ("", "_low", "_high")))
        names = [str(n) for n in nodes["node"][shown]]
        figure = circuits.node_bars(names, effects, session.theme(), f"{by} effect on the logit difference")
        st.plotly_chart(figure, key="bars", alt=f"Effects of {len(names)} nodes")


def _table(run: Run, nodes: readers.Columns, kept: np.ndarray) -> None:
    with widgets.panel(
        "Nodes of the circuit in view", "In the order in which they enter; heads lead to their attention patterns.", run, "nodes.parquet"
    ):
        rows = [
            (rank, element("code", nodes["node"][i]), *(f"{nodes[m][i]:+.3f}" for m in METHODS), _patterns(run, nodes, int(i)))
            for rank, i in enumerate(kept[:MOST], 1)
        ]
        st.html(table(("rank", "node", *METHODS, ""), rows, numeric=[0, 2, 3]))
        if len(kept) > MOST:
            st.html(element("p", f"The first {MOST} of {len(kept)}.", class_="quiet"))


def _agreement(run: Run, nodes: readers.Columns) -> None:
    exact, guess = nodes["exact"].astype(float), nodes["attribution"].astype(float)
    known = ~(np.isnan(exact) | np.isnan(guess))
    r = circuits.correlation(exact[known], guess[known])
    definition = (
        f"The fast estimate against the true effect of ablation: Pearson r = {r:.2f} over {int(known.sum())} nodes. On the line they agree."
    )
    with widgets.panel("Can the estimate be trusted?", definition, run, "nodes.parquet"):
        if not known.any():
            st.html(element("p", "No node has both scores.", class_="quiet"))
            return
        names = [str(n) for n in nodes["node"][known]]
        figure = circuits.agreement(names, exact[known], guess[known], session.theme())
        st.plotly_chart(figure, key="agreement", alt=f"Attribution against exact effect, r {r:.2f}")


def _prompts(run: Run) -> None:
    definition = (
        "The tokens that differ between the clean and the corrupt prompt are lit; the logit difference is answer minus wrong answer."
    )
    with widgets.panel("Prompts", definition, run, "prompts.parquet"):
        rows = session.read(readers.parquet, run, "prompts.parquet")
        vocab = session.read(readers.vocabulary, run)
        with readers.reading(run, "prompts.parquet"):
            lines = [_line(vocab, r) for r in rows.slice(0, PAIRS).to_pylist()]
        st.html(table(("pair", "clean, then corrupt", "answer", "wrong"), lines))
        st.html(element("p", f"{min(PAIRS, len(rows))} of {len(rows)} pairs.", class_="quiet"))


def _line(vocab: readers.Vocabulary, r: Mapping[str, Any]) -> tuple[object, ...]:
    """A pair of prompts with its answers."""
    pair = join(_prompt(vocab, r[side], r[other]) for side, other in (("clean", "corrupt"), ("corrupt", "clean")))
    return (r["pair"], pair, chip(vocab.text(r["answer"])), join(chip(vocab.text(t)) for t in r["wrong"]))


def _prompt(vocab: readers.Vocabulary, mine: list[int], other: list[int]) -> Html:
    differs = [i >= len(other) or t != other[i] for i, t in enumerate(mine)]
    return strip([Token(vocab.text(t), 0.35 * d, str(i)) for i, (t, d) in enumerate(zip(mine, differs, strict=True))], 1.0)
