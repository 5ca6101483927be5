"""Heads: a layer by head grid of one metric; a click on a cell shows all metrics of the head and the way to its patterns."""

import numpy as np
import streamlit as st

from app import definitions, readers, session, widgets
from app.address import anchor, choice, head_name
from interp.runs import Run
from interp.viz import grids
from interp.viz.html import Html, element, meter, number, table

LISTED = 12


@widgets.page(
    "heads",
    "Heads",
    "How strongly every attention head shows a known pattern. A score is no name: read it with its interval and its baseline.",
)
def page() -> None:
    """Draw the page."""
    if widgets.no_runs("heads"):
        return
    left, middle, right = st.columns((3, 2, 1), vertical_alignment="center")
    with left:
        run = widgets.pick_run("heads")
    with right:
        widgets.provenance(run)
    scores = session.read(scores_of, run)
    metrics = sorted(
        {m for m, _, _ in scores}, key=lambda m: (list(definitions.HEAD_METRICS).index(m) if m in definitions.HEAD_METRICS else 99, m)
    )
    given = session.query()
    layers, heads = shape(scores)
    choice(given.get("metric"), "metric", metrics)
    head_name(given.get("h"), layers, heads)
    session.default("metric", "induction" if "induction" in metrics else metrics[0])
    with middle:
        metric = st.selectbox("metric", metrics, index=None, key="metric", bind="query-params", label_visibility="collapsed") or metrics[0]
    _body(run, metric)


Row = dict[str, float]
Scores = dict[tuple[str, int, int], Row]


def scores_of(run: Run) -> Scores:
    """(metric, layer, head) to value, low, high, n, baseline."""
    rows = readers.parquet(run, "scores.parquet").to_pylist()
    with readers.reading(run, "scores.parquet"):
        if not rows:
            raise ValueError("no scores")
        return {(r["metric"], r["layer"], r["head"]): {k: r[k] for k in ("value", "low", "high", "n", "baseline")} for r in rows}


def shape(scores: Scores) -> tuple[int, int]:
    """Numbers of layers and of heads in a layer."""
    return 1 + max(layer for _, layer, _ in scores), 1 + max(head for _, _, head in scores)


def _body(run: Run, metric: str) -> None:
    scores = session.read(scores_of, run)
    layers, heads = shape(scores)
    mine = {(layer, head): row for (name, layer, head), row in scores.items() if name == metric}
    values = np.full((layers, heads), np.nan)
    for place, row in mine.items():
        values[place] = row["value"]
    ranked = sorted(mine, key=lambda place: -mine[place]["value"])
    picked = head_name(session.query().get("h"), layers, heads) or "{}.{}".format(*ranked[0])
    left, right = st.columns((3, 2))
    with left:
        _grid(run, metric, values, picked)
    with right:
        _card(run, scores, picked)
        _ranking(run, metric, mine, ranked)


def _grid(run: Run, metric: str, values: np.ndarray, picked: str) -> None:
    with widgets.panel(definitions.title(metric), f"{definitions.meaning(metric)} Click a cell.", run, "scores.parquet"):
        top = max(1.0, float(np.nanmax(values, initial=0.0)))
        grid = grids.head_grid(values, session.theme(), top, picked)
        highest = number(float(np.nanmax(values)))
        alt = f"{metric} of {values.size} heads, largest {highest}"
        st.echarts_chart(grid.option, height=grid.height, key="grid", on_select=lambda: _pick(grid.cells), alt=alt)


def _pick(cells: tuple[str, ...]) -> None:
    """A click on a cell (a callback, so that one click counts once)."""
    index = session.clicked(st.session_state["grid"])
    if index is not None:
        st.query_params["h"] = cells[index]


def _card(run: Run, scores: Scores, picked: str) -> None:
    layer, head = (int(part) for part in picked.split("."))
    with widgets.panel(
        f"Head {picked}",
        "All metrics of this head; the bracket is the 95 % interval, the baseline is what a head without any mechanism would score, "
        "n is how many sequences (for copying, tokens) the value is the mean of.",
        run,
        "scores.parquet",
    ):
        rows = []
        for metric in dict.fromkeys(name for name, _, _ in scores):
            row = scores.get((metric, layer, head))
            if row:
                rows.append(
                    (
                        definitions.title(metric),
                        meter(row["value"] or 0.0, score(row["value"])),
                        interval(row),
                        score(row["baseline"]),
                        number(row["n"]),
                    )
                )
        st.html(table(("metric", "value", "interval", "baseline", "n"), rows, numeric=[1, 2, 3, 4]))
        widgets.legend(definitions.HEAD_METRICS[name] for name in definitions.HEAD_METRICS if (name, layer, head) in scores)
        st.html(element("p", anchor("head", f"Open the attention patterns of head {picked} →", run=run.id, h=picked)))


def score(value: float | None) -> str:
    """Three decimals, so that columns can be compared; an en dash where there is none."""
    return "–" if value is None or value != value else f"{value:.3f}"


def interval(row: Row) -> str:
    """The interval of a score, or nothing."""
    return "–" if score(row["low"]) == "–" or score(row["high"]) == "–" else f"[{grids.short(row['low'])}, {grids.short(row['high'])}]"


def _ranking(run: Run, metric: str, mine: dict[tuple[int, int], Row], ranked: list[tuple[int, int]]) -> None:
    with widgets.panel(f"Highest {definitions.title(metric).lower()}", "Above baseline: the whole interval is.", run, "scores.parquet"):
        rows = []
        for layer, head in ranked[:LISTED]:
            row = mine[layer, head]
            above = row["low"] is not None and row["baseline"] is not None and row["low"] > row["baseline"]
            mark: Html | str = element("span", "above baseline", class_="badge") if above else ""
            rows.append(
                (
                    anchor("head", f"{layer}.{head}", run=run.id, h=f"{layer}.{head}"),
                    score(row["value"]),
                    interval(row),
                    score(row["baseline"]),
                    mark,
                )
            )
        st.html(table(("head", "value", "interval", "baseline", ""), rows, numeric=[1, 2, 3]))
