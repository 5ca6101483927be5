"""Runs: training curves, the trade-off between sparsity and fidelity, evaluations, differences of configs, trainings in progress."""

from collections.abc import Sequence

import numpy as np
import pyarrow.compute as pc
import streamlit as st

from app import definitions, readers, session, widgets
from app.address import anchor, choice
from interp.runs import Run
from interp.stages.base import duration
from interp.viz import curves
from interp.viz.html import element, facts, join, number, table

COLUMNS = ("fvu", "l0", "dead_share", "ce_recovered_mean", "kl")
AXES = ("fvu", "ce_recovered_mean", "ce_recovered_zero", "ce_recon", "kl", "dead_share")
FIRST = ("loss", "fvu", "l0", "dead_share")
MOST = 8


@widgets.page("runs", "Runs", "Training curves of dictionaries, and what they cost and keep.")
def page() -> None:
    """Draw the page."""
    _live()
    found = session.all_runs("train")
    if not found:
        widgets.missing("No finished training under the root.", "interp train --help")
        return
    chosen = _choose(found)
    _curves(chosen)
    left, right = st.columns(2)
    with left:
        _pareto(found)
    with right:
        _differences(chosen)
    _table(found)
    for run in chosen[:1]:
        widgets.provenance(run)


def _choose(found: list[Run]) -> list[Run]:
    """The runs that the address names, checked first; without any, the newest four."""
    for name in st.query_params.get_all("sel"):
        session.open_run(name, "train")
    names = [run.id for run in found]
    session.default("sel", names[:4])
    titles = {run.id: widgets.architecture(run) for run in found}
    picked = st.multiselect(
        "runs to draw", names, key="sel", bind="query-params", max_selections=MOST, help="At most eight, so that colours stay apart."
    )
    st.html(element("p", join((element("span", f"{name}: {titles[name]}") for name in picked), " · "), class_="quiet"))
    return [session.open_run(name, "train") for name in picked]


@st.fragment(run_every=5)
def _live() -> None:
    """Trainings in progress, read again every five seconds."""
    for folder in session.running():
        total, rows = readers.progress(folder)
        with st.container(border=True):
            st.html(
                element(
                    "div",
                    element("h3", "Running: ", folder.name.removesuffix(".part")),
                    element("p", _remaining(total, rows)),
                    class_="panel",
                )
            )
            last = rows[-1] if rows else {}
            st.progress(min(1.0, last.get("step", 0) / total) if total else 0.0)
            st.html(facts([(definitions.title(k), number(v)) for k, v in last.items() if isinstance(v, (int, float))]))


def _remaining(total: int, rows: Sequence[dict[str, float]]) -> str:
    """Step and remaining time, from tokens per second and the tokens of a step."""
    if not rows or not rows[-1].get("step"):
        return "starting"
    last = rows[-1]
    text = f"step {number(last['step'])} of {number(total)}"
    speed = last.get("tokens_per_s", 0)
    if speed <= 0 or "tokens" not in last or total <= 0:
        return text
    return f"{text}, about {duration((total - last['step']) * last['tokens'] / last['step'] / speed)} left"


def _metrics(run: Run) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Name of the metric to (step, tokens, value)."""
    table = readers.parquet(run, "metrics.parquet")
    names = table["name"].cast("string")
    out = {}
    for name in pc.unique(names).to_pylist():  # pyright: ignore[reportAttributeAccessIssue]
        rows = table.filter(pc.equal(names, name))  # pyright: ignore[reportAttributeAccessIssue]
        out[name] = (rows["step"].to_numpy(), rows["tokens"].to_numpy(), rows["value"].to_numpy())
    return out


def _curves(chosen: Sequence[Run]) -> None:
    with widgets.panel("Training curves", "", chosen[0] if len(chosen) == 1 else None, "metrics.parquet"):
        if not chosen:
            st.html(element("p", "Choose a run above.", class_="quiet"))
            return
        data = {run.id: session.read(_metrics, run) for run in chosen}
        names = sorted({name for metrics in data.values() for name in metrics})
        choice(session.query().get("x"), "x", ("tokens", "step"))
        session.default("m", [name for name in FIRST if name in names])
        left, middle, right, last = st.columns((5, 1, 1.2, 0.8), vertical_alignment="bottom")
        metrics = left.multiselect("metrics", names, key="m", bind="query-params")
        axis = middle.selectbox("over", ("tokens", "step"), key="x", bind="query-params")
        weight = right.slider("smoothing", 0.0, 0.99, 0.0, 0.01, key="smooth", bind="query-params")
        log_x = last.toggle("log x", key="logx", bind="query-params")
        if not metrics:
            st.html(element("p", "Choose a metric above.", class_="quiet"))
            return
        place = 0 if axis == "step" else 1
        lines = [
            curves.Curve(
                run.id,
                f"{run.id} {readers.config(run).get('architecture', {}).get('kind', '')}",
                m,
                data[run.id][m][place],
                data[run.id][m][2],
            )
            for m in metrics
            for run in chosen
            if m in data[run.id]
        ]
        figure = curves.training_curves(lines, {m: definitions.title(m) for m in metrics}, session.theme(), weight, log_x, axis)
        st.plotly_chart(figure, key="curves", alt=f"Training curves of {', '.join(metrics)} for {len(chosen)} runs")
        st.html(
            element(
                "p",
                join((element("span", element("b", definitions.title(m)), f" {definitions.meaning(m)}") for m in metrics), " "),
                class_="quiet",
            )
        )


def _evaluations(run: Run) -> dict[str, tuple[float, float, float]]:
    """Metric to (value, low, high) from the newest evaluation, otherwise from the summary of the training."""
    values = {k: (float(v), float(v), float(v)) for k, v in session.read(readers.summary, run).items() if isinstance(v, (int, float))}
    for evaluation in session.children(run.id, "evaluate")[:1]:
        rows = session.read(readers.parquet, evaluation, "metrics.parquet").to_pylist()
        values |= {r["name"]: (r["value"], _or(r["low"], r["value"]), _or(r["high"], r["value"])) for r in rows}
    return values


def _or(value: float | None, instead: float) -> float:
    return instead if value is None else value


def _pareto(found: Sequence[Run]) -> None:
    with widgets.panel("Sparsity against fidelity", "Each point is a dictionary; bars are 95 % intervals of its evaluation."):
        choice(session.query().get("y"), "y", AXES)
        metric = st.selectbox("fidelity", AXES, key="y", bind="query-params", format_func=str)
        data = {run: _evaluations(run) for run in found}
        usable = {run: v for run, v in data.items() if "l0" in v and metric in v}
        if not usable:
            widgets.missing(f"No dictionary has {definitions.title(metric)} yet.", f"interp eval {found[0].id}")
            return
        points = [curves.Point(run.id, widgets.architecture(run).split(" · ")[0], v["l0"][0], *v[metric]) for run, v in usable.items()]
        better = "high" if metric in definitions.HIGHER_IS_BETTER else "low"
        figure = curves.pareto(points, "L0", definitions.title(metric), session.theme(), better)
        st.plotly_chart(figure, key="pareto", alt=f"{len(points)} dictionaries by L0 and {metric}")
        st.html(element("p", definitions.meaning(metric), f" {better.title()}er is better.", class_="quiet"))


def _differences(chosen: Sequence[Run]) -> None:
    with widgets.panel("What differs", "Fields of the configurations that are not equal in all chosen runs."):
        flat = {run.id: {**widgets.flatten(readers.config(run)), **run.config.get("parents", {})} for run in chosen}
        names = sorted({name for fields in flat.values() for name in fields})
        rows = [
            (element("code", n), *(fields.get(n, "–") for fields in flat.values()))
            for n in names
            if len({f.get(n) for f in flat.values()}) > 1
        ]
        if not rows:
            st.html(element("p", "Nothing: fewer than two runs, or equal configurations.", class_="quiet"))
            return
        st.html(table(("field", *flat), rows))


def _table(found: Sequence[Run]) -> None:
    with widgets.panel("All dictionaries", "Values from the newest evaluation of each, from the end of its training where there is none."):
        rows = []
        for run in found:
            values = _evaluations(run)
            described = next(iter(session.children(run.id, "describe")), None)
            goal = anchor("explorer", "explore features", run=described.id) if described else element("code", f"interp describe {run.id}")
            rows.append(
                (
                    anchor("runs", run.id, sel=run.id),
                    widgets.architecture(run),
                    *(number(values[c][0]) if c in values else "–" for c in COLUMNS),
                    goal,
                )
            )
        heads = [definitions.title(c) for c in COLUMNS]
        st.html(table(("run", "architecture", *heads, "features"), rows, numeric=range(2, 2 + len(COLUMNS))))
