"""Circuit: which nodes a task needs, how well the estimate agrees with ablation, and how faithful a circuit of each size is."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import streamlit as st

from app import readers, session, widgets
from app.address import anchor, choice, whole
from interp.runs import Run
from interp.viz import circuits, grids
from interp.viz.html import Html, element, facts, join, number, table
from interp.viz.strip import Token, chip, strip

METHODS = ("exact", "attribution")
LISTED = 20
PAIRS = 6


def page() -> None:
    """Draw the page."""
    with widgets.page("circuit", "Circuit", "Which heads and MLPs a task needs, and how much of the behaviour they explain on their own."):
        if widgets.no_runs("circuit"):
            return
        left, right = st.columns((5, 1), vertical_alignment="center")
        with left:
            run = widgets.pick_run("circuit")
        with right:
            widgets.provenance(run)
        nodes = session.read(_nodes, run)
        given = session.query()
        choice(given.get("by"), "by", METHODS)
        whole(given.get("n"), "n", 0, len(nodes["node"]))
        _body(run, nodes)


def _nodes(run: Run) -> readers.Columns:
    nodes = readers.columns(readers.parquet(run, "nodes.parquet"))
    with readers.reading(run, "nodes.parquet"):
        for name in ("node", "kind", "layer", "head", *METHODS, *(f"{m}_{end}" for m in METHODS for end in ("low", "high"))):
            nodes[name]
        return nodes


@st.fragment
def _body(run: Run, nodes: readers.Columns) -> None:
    left, right = st.columns((1, 3), vertical_alignment="bottom")
    by = left.selectbox(
        "rank nodes by",
        METHODS,
        key="by",
        bind="query-params",
        help="exact: each node ablated in turn; attribution: gradient times difference, one pass.",
    )
    total = len(nodes["node"])
    session.default("n", min(12, total))
    size = right.slider("nodes in the circuit", 0, total, key="n", bind="query-params")
    # Negative means that ablating the node lowers the logit difference: the node helps, so the most negative comes first.
    order = np.argsort(nodes[by], kind="stable")
    _figures(run, by, size)
    kept = set(order[:size].tolist())
    first, second = st.columns((3, 2))
    with first:
        _curve(run, size)
        _grid(run, nodes, by, kept)
    with second:
        _bars(run, nodes, by, order, size)
        _agreement(run, nodes)
    _prompts(run)
    session.remember("circuit")


def _figures(run: Run, by: str, size: int) -> None:
    """The figures of the run, and the faithfulness of the circuit in view."""
    given = [
        (k.replace("_", " "), number(v) if isinstance(v, (int, float)) else v)
        for k, v in session.read(readers.summary, run).items()
        if not isinstance(v, (dict, list))
    ]
    task = readers.config(run).get("task")
    name = " ".join(widgets.flatten(task).values()) if isinstance(task, Mapping) else task
    st.html(facts([("task", name or "–"), ("circuit in view", f"{size} nodes by {by}"), *given]))


def _series(run: Run) -> dict[str, list[circuits.Series]]:
    """Ablation to its curves; runs with several seeds are averaged, their spread is the band."""
    rows = readers.parquet(run, "curve.parquet").to_pylist()
    out: dict[str, list[circuits.Series]] = {}
    with readers.reading(run, "curve.parquet"):
        for ablation, name in dict.fromkeys((r["ablation"], r["series"]) for r in rows):
            mine = [r for r in rows if (r["ablation"], r["series"]) == (ablation, name)]
            out.setdefault(ablation, []).append(_average(name, mine))
    return out


def _average(name: str, rows: list[dict[str, Any]]) -> circuits.Series:
    sizes = sorted({r["n_nodes"] for r in rows})
    at = [[r for r in rows if r["n_nodes"] == n] for n in sizes]
    mean = np.array([np.mean([r["faithfulness"] for r in group]) for group in at], float)
    low = np.array([min(_first(r["low"], r["faithfulness"]) for r in group) for group in at], float)
    high = np.array([max(_first(r["high"], r["faithfulness"]) for r in group) for group in at], float)
    seeds = len({r["seed"] for r in rows})
    return circuits.Series(f"{name} ({seeds} seeds)" if seeds > 1 else name, np.array(sizes), mean, low, high)


def _first(value: float | None, instead: float) -> float:
    return instead if value is None else value


def _curve(run: Run, size: int) -> None:
    definition = "(logit difference of the circuit − all ablated) / (whole model − all ablated): 1 keeps the behaviour, 0 loses it. Random circuits are the baseline."
    with widgets.panel("Faithfulness", definition, run, "curve.parquet"):
        series = session.read(_series, run)
        choice(session.query().get("ablation"), "ablation", series)
        names = sorted(series, reverse=True)
        ablation = (
            st.segmented_control(
                "ablated nodes are replaced by", names, default=names[0], key="ablation", bind="query-params", required=True
            )
            or names[0]
        )
        figure = circuits.faithfulness_curve(series[ablation], session.theme(), size)
        st.plotly_chart(figure, key="curve", alt=f"Faithfulness against nodes, {ablation} ablation")
        rows = [
            (line.name, *(f"{np.interp(n, line.n_nodes, line.faithfulness):.2f}" for n in (size, *line.n_nodes)))
            for line in series[ablation]
        ]
        sizes = series[ablation][0].n_nodes
        if all(np.array_equal(line.n_nodes, sizes) for line in series[ablation]):
            st.html(table(("nodes", f"{size} (in view)", *sizes), rows, numeric=range(1, 2 + len(sizes))))


def _grid(run: Run, nodes: readers.Columns, by: str, kept: set[int]) -> None:
    definition = "Blue: ablating the node hurts the task, so it helps. Orange: ablating it improves the task. Click a cell for its numbers."
    with widgets.panel("Effects by layer", definition, run, "nodes.parquet"):
        heads = int(np.nanmax(np.where(nodes["kind"] == "head", nodes["head"].astype(float), -1))) + 1
        layers = int(nodes["layer"].max()) + 1
        values, names = np.full((layers, heads + 1), np.nan), [[""] * (heads + 1) for _ in range(layers)]
        for i, name in enumerate(nodes["node"]):
            column = heads if nodes["kind"][i] == "mlp" else int(nodes["head"][i])
            values[nodes["layer"][i], column], names[nodes["layer"][i]][column] = nodes[by][i], str(name)
        grid = grids.node_grid(
            values, [*(str(h) for h in range(heads)), "MLP"], names, session.theme(), frozenset(str(nodes["node"][i]) for i in kept)
        )
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
    if nodes["kind"][i] != "head":
        return Html("")
    model = readers.config(run).get("model")
    found = next((r for r in session.all_runs("heads") if readers.config(r).get("model") == model), None)
    h = f"{nodes['layer'][i]}.{int(nodes['head'][i])}"
    return anchor("head", "patterns", run=found.id, h=h) if found else Html("")


def _bars(run: Run, nodes: readers.Columns, by: str, order: np.ndarray, size: int) -> None:
    shown = np.concatenate([order[:LISTED], order[len(order) - 3 :]]) if len(order) > LISTED + 3 else order
    definition = f"Change of the logit difference when the node is ablated, {by}, 95 % intervals: the {LISTED} that help most, and the three that hurt most."
    with widgets.panel("Strongest nodes", definition, run, "nodes.parquet"):
        effects = circuits.Effects(*(nodes[by + end][shown].astype(float) for end in ("", "_low", "_high")))
        names = [str(n) for n in nodes["node"][shown]]
        st.plotly_chart(
            circuits.node_bars(names, effects, session.theme(), f"{by} effect on the logit difference"),
            key="bars",
            alt=f"Effects of {len(names)} nodes",
        )
        rows = []
        for rank, i in enumerate(order[: max(size, 1)][:60], 1):
            cells = [f"{nodes[m][i]:+.3f}" for m in METHODS]
            rows.append((rank, element("code", nodes["node"][i]), *cells, _patterns(run, nodes, int(i))))
        with st.expander(f"Table of the {len(rows)} nodes in the circuit"):
            st.html(table(("rank", "node", *METHODS, ""), rows, numeric=[0, 2, 3]))


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
        st.plotly_chart(
            circuits.agreement(names, exact[known], guess[known], session.theme()),
            key="agreement",
            alt=f"Attribution against exact effect, r {r:.2f}",
        )


def _prompts(run: Run) -> None:
    definition = (
        "The tokens that differ between the clean and the corrupt prompt are lit; the logit difference is answer minus wrong answer."
    )
    with widgets.panel("Prompts", definition, run, "prompts.parquet"):
        rows = session.read(readers.parquet, run, "prompts.parquet")
        vocab = session.read(readers.vocabulary, run)
        lines = []
        for r in rows.slice(0, PAIRS).to_pylist():
            pair = join(_prompt(vocab, r[side], r[other]) for side, other in (("clean", "corrupt"), ("corrupt", "clean")))
            lines.append((r["pair"], pair, chip(vocab.text(r["answer"])), chip(vocab.text(r["wrong"]))))
        st.html(table(("pair", "clean, then corrupt", "answer", "wrong"), lines))
        st.html(element("p", f"{min(PAIRS, len(rows))} of {len(rows)} pairs.", class_="quiet"))


def _prompt(vocab: readers.Vocabulary, mine: list[int], other: list[int]) -> Html:
    differs = [i >= len(other) or t != other[i] for i, t in enumerate(mine)]
    return strip([Token(vocab.text(t), 0.35 * d, str(i)) for i, (t, d) in enumerate(zip(mine, differs, strict=True))], 1.0)
