"""Compare: two circuits of one model on the same prompts: which units they share, how their scores agree, which does better."""

import numpy as np
import streamlit as st

from app import circuits, readers, session, widgets
from app.circuit_words import p_value, two
from interp.runs import Run
from interp.viz.circuits import Audited, agreement
from interp.viz.html import element, facts, number, table

LISTED = 15
# Points of a picture: of all edges those that some circuit has, and the strongest others.
DRAWN = 3000
NEEDED = ("unit", "score_a", "score_b", "in_a", "in_b")


@widgets.page(
    "compare", "Compare", "Two circuits of one model: what they share, how their scores agree, which does better on the same prompts."
)
def page() -> None:
    """Draw the page."""
    run = widgets.opened("compare")
    if run is None:
        return
    units = session.read(units_of, run)
    _lead(run)
    left, right = st.columns((3, 2))
    with left:
        _scores(run, units)
    with right:
        _prompts(run)
    for column, (title, chosen) in zip(st.columns(3), parts(units).items(), strict=False):
        with column:
            _listed(run, units, title, chosen)
    session.remember("compare")


def units_of(run: Run) -> readers.Columns:
    """Columns of all units; raises InputError where some are missing."""
    found = readers.parquet(run, "units.parquet")
    with readers.reading(run, "units.parquet"):
        return {name: _numbers(found[name].to_numpy()) for name in NEEDED}


def examples_of(run: Run) -> readers.Columns:
    """The metric of both circuits on every prompt."""
    return readers.columns(readers.parquet(run, "examples.parquet"))


def _numbers(column: np.ndarray) -> np.ndarray:
    return column.astype(float) if column.dtype.kind == "f" else column


def parts(units: readers.Columns) -> dict[str, np.ndarray]:
    """Units of both circuits, of one alone, and of none, the strongest first."""
    a, b = units["in_a"].astype(bool), units["in_b"].astype(bool)
    order = np.argsort(-np.maximum(np.abs(units["score_a"]), np.abs(units["score_b"])), kind="stable")
    chosen = {"in both": a & b, "only in A": a & ~b, "only in B": b & ~a, "in neither": ~a & ~b}
    return {title: order[mask[order]] for title, mask in chosen.items()}


def _lead(run: Run) -> None:
    """Both runs in words, and the figures."""
    figures = readers.summary(run)
    sides = {side: run.parent(name) for side, name in (("A", "a"), ("B", "b"))}
    words = [(side, f"{widgets.title(one)} · {one.id}") for side, one in sides.items()]
    unit = f"{figures.get('unit', 'unit')}s"
    chance = f"by chance {number(figures.get('shared_by_chance'))}, p {p_value(figures.get('p_shared'))}"
    gap = f"{two(figures.get('difference'))} [{two(figures.get('difference_low'))}, {two(figures.get('difference_high'))}]"
    st.html(facts([
        *words,
        (f"{unit} of A and of B", f"{figures.get('size_a', 0):,} and {figures.get('size_b', 0):,}"),
        ("shared", f"{figures.get('shared', 0):,}; {chance}"),
        ("rank correlation of scores", two(figures.get("spearman"))),
        ("faithfulness of A and of B", f"{two(figures.get('faithfulness_a'))} and {two(figures.get('faithfulness_b'))}"),
        (f"metric of A − B on {figures.get('prompts', 0)} prompts", f"{gap}, p {p_value(figures.get('p_difference_t'))}"),
    ]))  # fmt: skip


def _scores(run: Run, units: readers.Columns) -> None:
    definition = "Each unit by its score in both runs. On the dotted line both are equal; the axes are logarithmic away from zero."
    with widgets.panel("Scores", definition, run, "units.parquet"):
        drawn, left = {}, DRAWN
        for title, chosen in parts(units).items():
            shown, left = chosen[:left], max(0, left - len(chosen))
            if len(shown):
                drawn[title] = Audited(list(units["unit"][shown]), units["score_a"][shown], units["score_b"][shown])
        figure = agreement(drawn, session.theme(), "", ("score in A", "score in B"))
        st.plotly_chart(figure, key="scores", alt=f"Scores of {len(units['unit'])} units in both runs")
        if not left:
            st.html(element("p", f"The strongest {DRAWN:,} of {len(units['unit']):,}.", class_="quiet"))


def _prompts(run: Run) -> None:
    definition = "The metric of both circuits on every prompt; on the dotted line they do equally well."
    with widgets.panel("Prompts", definition, run, "examples.parquet"):
        rows = session.read(examples_of, run)
        metric = circuits.about(run.parent("a"))
        names = [f"pair {pair}" for pair in rows["pair"].tolist()]
        points = {"prompts": Audited(names, rows["circuit_a"].astype(float), rows["circuit_b"].astype(float))}
        figure = agreement(points, session.theme(), metric["metric_unit"], (f"{metric['metric']} of A", f"{metric['metric']} of B"))
        st.plotly_chart(figure, key="prompts", alt=f"{metric['metric']} of both circuits on {len(names)} prompts")


def _listed(run: Run, units: readers.Columns, title: str, chosen: np.ndarray) -> None:
    with widgets.panel(f"{title} ({len(chosen):,})", "", run, "units.parquet"):
        if not len(chosen):
            st.html(element("p", "None.", class_="quiet"))
            return
        rows = [
            (element("code", units["unit"][i]), *(f"{units[name][i]:+.3f}" for name in ("score_a", "score_b"))) for i in chosen[:LISTED]
        ]
        st.html(table(("unit", "A", "B"), rows, numeric=[1, 2]))
        if len(chosen) > LISTED:
            st.html(element("p", f"The strongest {LISTED} of {len(chosen):,}.", class_="quiet"))
