"""The circuit in view of the Circuit page, and what its run did in words."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import streamlit as st

from app import circuit_words, circuits, readers, session, widgets
from interp.circuits.names import parse
from interp.runs import Run
from interp.viz.html import Html, element, facts, join, table

SCOPES = {"all": "heads and MLPs may be ablated", "heads": "only heads may be ablated, every MLP runs"}


@dataclass(frozen=True)
class View:
    """The circuit in view."""

    run: Run
    nodes: readers.Columns
    rows: readers.Columns
    """What the method scores: the nodes again, or the edges."""
    unit: str
    """node or edge."""
    by: str
    scope: str
    order: np.ndarray
    """Rows in the order in which they enter."""
    size: int

    @property
    def config(self) -> dict[str, Any]:
        return readers.config(self.run)

    @property
    def kept(self) -> np.ndarray:
        return self.order[: self.size]

    @property
    def file(self) -> str:
        return f"{self.unit}s.parquet"

    @property
    def measure(self) -> str:
        """The unit of the scores that are shown; nothing where a score is no change of the metric."""
        said = circuits.about(self.run)
        return said["metric_unit"] if said["effects"] or self.by == "exact" else ""

    @property
    def axis(self) -> str:
        """What a score is, for the title of an axis."""
        name = circuits.about(self.run)["metric"]
        return f"change of {name} ({self.measure})" if self.measure else f"score of {method(self.run)} (no unit)"


def method(run: Run) -> str:
    return str(readers.summary(run).get("method", "?"))


def lead(run: Run, nodes: readers.Columns, rows: readers.Columns, unit: str) -> None:
    """What the run did, in sentences, and how its names are read."""
    config, summary = readers.config(run), session.read(readers.summary, run)
    said = circuits.about(run)
    name, measure, way, effects = (said[part] for part in ("metric", "metric_unit", "method", "effects"))
    ablation = str(config.get("ablation", "resample"))
    sentences = [
        said["task"],
        f"Corrupt prompts: {said['corruption']}.",
        f"Ablated {unit}s write {circuit_words.ABLATIONS.get(ablation, ablation)} ({ablation}).",
    ]
    score = f"A score is the change of the {name}, in {measure}, when the {unit} is ablated: " if effects else "Scores have no unit: "
    helps, hinders = element("b", "negative (blue)"), element("b", "positive (orange)")
    signs = join((helps, f" where the {unit} helps the task, ", hinders, " where it works against it."))
    said = element("p", element("b", method(run)), f" {way}. {score}", signs)
    st.html(element("div", element("p", " ".join(sentences)), said, element("p", names(nodes, rows)), class_="lead"))
    groups = circuit_words.grouped(summary, measure)
    st.html(element("div", *(_card(group, figures) for group, figures in groups.items()), class_="cards figures"))
    with st.expander("What these figures mean"):
        st.html(element("p", "Brackets are 95 % intervals over prompts.", class_="quiet"))
        for group, figures in groups.items():
            st.html(element("h4", group))
            widgets.legend((row.title, row.meaning) for row in figures)


def _card(group: str, figures: list[circuit_words.Row]) -> Html:
    """A group of figures; where some are measured for several orders, a column for each."""
    series = [name for name in circuit_words.SERIES if any(name in row.values for row in figures)]
    if not series:
        return element("div", element("h4", group), facts((row.title, row.values[""]) for row in figures), class_="card")
    rows = [(row.title, *(_value(row.values.get(name, "–")) for name in series)) for row in figures]
    head = ("", *(circuit_words.SERIES[name] for name in series))
    return element("div", element("h4", group), table(head, rows, numeric=range(1, len(head))), class_="card")


def _value(text: str) -> Html:
    """A figure, its interval small beneath it."""
    value, sign, interval = text.partition(" [")
    return join((value, element("small", "[" + interval) if sign else ""))


def names(nodes: readers.Columns, rows: readers.Columns) -> Html:
    """How the nodes of a run, and the inputs that its edges lead to, are written: its strongest ones as examples."""
    strong = nodes["node"][np.argsort(-np.abs(nodes["score"]), kind="stable")]
    name = dict(zip(nodes["node"].tolist(), nodes["name"].tolist(), strict=True))
    parts = {str(n): parse(name[n]) for n in strong}
    head = next((name[n] for n in strong if parts[n].kind == "head"), None)
    mlp = next((name[n] for n in strong if parts[n].kind == "mlp"), None)
    told = []
    if head:
        told.append((head, f"is head {head.split('.')[1]} of layer {head.split('.')[0]}"))
    if mlp:
        told.append((mlp, f"the MLP of layer {mlp[1:]}"))
    if "destination" in rows:
        shared = next((str(d) for d in rows["destination"][::-1] if ".g" in d), None)
        told += [(f"{head}.q", "what the queries of that head read; k its keys, v its values")] if head else []
        told += [(shared, f"the {'keys' if shared.endswith('k') else 'values'} that a group of heads shares")] if shared else []
    told += [("embed", "the token embedding"), ("logits", "the output, from which the metric is read")]
    written = join((join((element("code", name), f" {text}")) for name, text in told), ", ")
    return join(("Names: ", written, ". All count from 0."))
