"""The panel of training curves: which metrics, over what, and by which fields the curves are coloured, dashed and set apart."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from app import definitions, families, readers, session, widgets
from app.address import choice
from app.families import Fields
from app.trainings import Training
from interp.runs import Run
from interp.viz import scales
from interp.viz.curves import Curve, Look, training_curves
from interp.viz.html import element, join

FIRST = ("loss", "fvu", "l0", "dead_share")
AUTO, NOTHING = "auto", "nothing"
# More dashes cannot be told apart, and more columns are too narrow.
MOST_DASHES, MOST_COLUMNS = 4, 5
Metrics = dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]


def check(drawn: Sequence[Training]) -> None:
    """Raises InputError for bad parameters of the panel."""
    given = session.query()
    known = {name for t in drawn for name in t.fields}
    choice(given.get("x"), "x", ("tokens", "step"))
    choice(given.get("colour"), "colour", (AUTO, *sorted(known)))
    for name in ("dash", "columns"):
        choice(given.get(name), name, (AUTO, NOTHING, *sorted(known)))


@st.fragment
@widgets.guarded
def draw(drawn: Sequence[Training]) -> None:
    """The panel."""
    definition = f"{len(drawn)} trainings. The colour of a value is the same in all panels; click it to hide its curves."
    with widgets.panel("Training curves", definition, drawn[0].run if len(drawn) == 1 else None, "metrics.parquet"):
        data = {t.id: session.read(metrics_of, t.run) for t in drawn}
        names = sorted({name for found in data.values() for name in found}, key=_place)
        session.default("m", [name for name in FIRST if name in names])
        left, second, third, fourth = st.columns((5, 1.2, 1.2, 1.2), vertical_alignment="bottom")
        chosen = left.multiselect("metrics", names, key="m", bind="query-params")
        colour, dash, columns = _fields(drawn, (second, third, fourth))
        look = _look(drawn, colour, dash, columns)
        if not chosen:
            st.html(element("p", "Choose a metric above.", class_="quiet"))
            return
        curves = [_curve(t, m, data[t.id][m], look, columns) for m in chosen for t in drawn if m in data[t.id]]
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


def _fields(drawn: Sequence[Training], places: Sequence[DeltaGenerator]) -> tuple[str, str, str]:
    """The fields that colour, dash and column stand for; "" for none."""
    runs = [t.fields for t in drawn]
    options = list(
        dict.fromkeys(["architecture", *families.differing(runs), *(session.query().get(n, AUTO) for n in ("colour", "dash", "columns"))])
    )
    options = [name for name in options if name not in (AUTO, NOTHING)]
    helps = (
        "The field that gives curves their colour.",
        "The field that gives curves their dash.",
        "The field whose values get a column of panels each.",
    )
    asked = [
        str(place.selectbox(name, (AUTO, *([] if name == "colour" else [NOTHING]), *options), key=name, bind="query-params", help=text))
        for name, place, text in zip(("colour", "dash", "columns"), places, helps, strict=True)
    ]
    return automatic(runs, *asked)


def automatic(runs: Sequence[Fields], colour: str, dash: str, columns: str) -> tuple[str, str, str]:
    """What stands for "auto": sites in columns where they are few, architecture as the colour, the next field as the dash."""
    rest = [name for name in families.differing(runs) if name not in (colour, dash, columns)]
    rest.sort(key=lambda name: (name != "architecture", name in (families.ACTIVATIONS, *families.REPEATS)))
    if columns == AUTO:
        columns = "sites" if "sites" in rest and count(runs, "sites") <= MOST_COLUMNS and len(rest) > 1 else NOTHING
    rest = [name for name in rest if name != columns]
    if colour == AUTO:
        colour = rest.pop(0) if rest else "architecture"
    if dash == AUTO:
        dash = next((name for name in rest if count(runs, name) <= MOST_DASHES), NOTHING)
    return colour, "" if dash == NOTHING else dash, "" if columns == NOTHING else columns


def count(runs: Sequence[Fields], name: str) -> int:
    """How many values a field has."""
    return len({run[name] for run in runs if name in run})


def value(fields: Fields, name: str) -> str:
    """The value of a field for a scale; a dash where the run has no such field, nothing where no field was asked for."""
    return (families.shown(fields[name]) if name in fields else "–") if name else ""


def colours(drawn: Sequence[Training], name: str) -> scales.Scale:
    """Colours of a field: shades where its values are numbers."""
    numbers = all(isinstance(t.fields.get(name), (int, float)) and not isinstance(t.fields.get(name), bool) for t in drawn)
    return scales.colours(name, (value(t.fields, name) for t in drawn), session.theme(), families.KINDS, numbers)


def _look(drawn: Sequence[Training], colour: str, dash: str, columns: str) -> Look:
    """The scales and the axes, with the controls of the axes."""
    first, second, third, fourth = st.columns((1.2, 2, 0.8, 0.8), vertical_alignment="bottom")
    axis = first.selectbox("over", ("tokens", "step"), key="x", bind="query-params")
    weight = second.slider("smoothing", 0.0, 0.99, 0.0, 0.01, key="smooth", bind="query-params")
    log_x, log_y = third.toggle("log x", key="logx", bind="query-params"), fourth.toggle("log y", key="logy", bind="query-params")
    dashes = scales.dashes(dash, (value(t.fields, dash) for t in drawn))
    parts = scales.ordered(value(t.fields, columns) for t in drawn)
    return Look(colours(drawn, colour), dashes, parts, weight, log_x, log_y, axis)


def _curve(t: Training, metric: str, data: tuple[np.ndarray, np.ndarray, np.ndarray], look: Look, columns: str) -> Curve:
    x = data[0] if look.x_title == "step" else data[1]
    told = t.dictionary.name
    by = (value(t.fields, name) for name in (look.colours.title, look.dashes.title, columns))
    return Curve(t.id, told, metric, x, data[2], *by)
