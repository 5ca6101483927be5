"""The panel of training curves: which metrics, over what, how smooth."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import streamlit as st

from app import definitions, encoding, readers, session, widgets
from app.address import choice
from app.trainings import Training
from interp.runs import Run
from interp.viz.curves import Curve, Look, training_curves
from interp.viz.html import element, join
from interp.viz.scales import ordered

FIRST = ("loss", "fvu", "l0", "dead_share")
Metrics = dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]


def check() -> None:
    """Raises InputError for bad parameters of the panel."""
    choice(session.query().get("x"), "x", ("tokens", "step"))


@st.fragment
@widgets.guarded
def draw(drawn: Sequence[Training], by: tuple[str, str, str]) -> None:
    """The panel; `by` are the fields of colour, dash and columns."""
    several = f"{len(drawn)} trainings. The colour of a value is the same in all panels; click it to hide its curves."
    definition = several if len(drawn) > 1 else "Figures of the training batches, as they were logged."
    with widgets.panel("Training curves", definition, drawn[0].run if len(drawn) == 1 else None, "metrics.parquet"):
        data = {t.id: session.read(metrics_of, t.run) for t in drawn}
        names = sorted({name for found in data.values() for name in found}, key=_place)
        session.default("m", [name for name in FIRST if name in names])
        chosen = st.multiselect("metrics", names, key="m", bind="query-params")
        look = _look(drawn, by)
        if not chosen:
            st.html(element("p", "Choose a metric above.", class_="quiet"))
            return
        curves = [_curve(t, m, data[t.id][m], look.x_title, by) for m in chosen for t in drawn if m in data[t.id]]
        figure = training_curves(curves, {m: definitions.title(m) for m in chosen}, session.theme(), look)
        st.plotly_chart(figure, key="curves", alt=f"Training curves of {', '.join(chosen)} for {len(drawn)} runs")
        meanings = (element("span", element("b", definitions.title(m)), f" {definitions.meaning(m)}") for m in chosen)
        st.html(element("p", join(meanings, " "), class_="quiet"))
    session.remember("runs")


def _place(name: str) -> tuple[int, str]:
    return (FIRST.index(name) if name in FIRST else len(FIRST), name)


def metrics_of(run: Run) -> Metrics:
    """Name of the metric to (step, tokens, value)."""
    table = readers.parquet(run, "metrics.parquet")
    with readers.reading(run, "metrics.parquet"):
        # A number for each name: comparing texts would take most of the time.
        names = table["name"].combine_chunks()
        names = names if pa.types.is_dictionary(names.type) else names.dictionary_encode()
        steps, tokens, values, which = (c.to_numpy() for c in (table["step"], table["tokens"], table["value"], names.indices))
        places = {name: np.flatnonzero(which == i) for i, name in enumerate(names.dictionary.to_pylist())}
        return {name: (steps[at], tokens[at], values[at]) for name, at in places.items()}


def _look(drawn: Sequence[Training], by: tuple[str, str, str]) -> Look:
    """The scales and the axes, with the controls of the axes."""
    colour, dash, columns = by
    first, second, third, fourth = st.columns((1.2, 2, 0.8, 0.8), vertical_alignment="bottom")
    axis = first.selectbox("over", ("tokens", "step"), key="x", bind="query-params")
    weight = second.slider("smoothing", 0.0, 0.99, 0.0, 0.01, key="smooth", bind="query-params")
    log_x, log_y = third.toggle("log x", key="logx", bind="query-params"), fourth.toggle("log y", key="logy", bind="query-params")
    parts = ordered(encoding.value(t.fields, columns) for t in drawn)
    return Look(encoding.colours(drawn, colour), encoding.dashes(drawn, dash), parts, weight, log_x, log_y, axis)


def _curve(t: Training, metric: str, data: tuple[np.ndarray, np.ndarray, np.ndarray], axis: str, by: tuple[str, str, str]) -> Curve:
    colour, dash, column = (encoding.value(t.fields, name) for name in by)
    return Curve(t.id, t.dictionary.name, metric, data[0] if axis == "step" else data[1], data[2], colour, dash, column)
