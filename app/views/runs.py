"""Runs: trainings in progress, the training curves of a grid, what sparsity costs, and the figures of every dictionary."""

from collections.abc import Sequence

import streamlit as st

from app import curves, definitions, encoding, families, live, picking, tradeoffs, widgets
from app.address import anchor
from app.trainings import Training, all_trainings, with_figures
from interp.viz.html import Html, element, number, percent, table

COLUMNS = {"fvu": number, "l0": number, "dead_share": percent, "dense_share": percent, "ce_recovered_mean": percent, "kl": number}
NOTE = "Figures of the newest evaluation; those with a star are from the end of the training, on tokens that it was trained on."


@widgets.page("runs", "Runs", "Training curves of dictionaries, and what they cost and keep.")
def page() -> None:
    """Draw the page."""
    live.draw()
    found = all_trainings()
    if not found:
        widgets.missing("No finished training under the root.", "interp train --help")
        return
    chosen, drawn = picking.draw(found)
    if not drawn:
        st.html(element("p", "Choose a run above.", class_="quiet"))
        return
    by, runs = encoding.controls(found, drawn), [t.fields for t in drawn]
    curves.check()
    tradeoffs.check()
    drawn = with_figures(drawn)
    curves.draw(drawn, encoding.of_curves(runs, by))
    tradeoffs.draw(drawn, encoding.of_points(runs, by))
    _table(drawn)
    widgets.provenance(chosen[0].run, f"Provenance of {chosen[0].id}")


def _table(drawn: Sequence[Training]) -> None:
    """What differs, and every figure: the legend and the curves as a table."""
    names = families.differing([t.fields for t in drawn]) or ["architecture"]
    shown = [name for name in COLUMNS if any(name in t.figures for t in drawn)]
    limits = ["threshold"] if any("threshold_p50" in t.figures for t in drawn) else []
    with widgets.panel("Dictionaries", NOTE):
        heads = ("run", *names, *map(definitions.title, shown), *limits, "features")
        first = 1 + len(names)
        st.html(table(heads, [_row(t, names, shown, limits) for t in drawn], numeric=range(first, first + len(shown) + len(limits))))
        widgets.legend((definitions.title(name), definitions.meaning(name)) for name in shown)
        bare = [t for t in drawn if t.described is None]
        if bare:
            st.html(
                element("p", f"{len(bare)} of {len(drawn)} have no feature statistics. This command computes those of one:", class_="quiet")
            )
            st.code(f"interp describe {bare[0].id}", language="bash")


def _row(t: Training, names: Sequence[str], shown: Sequence[str], limits: Sequence[str]) -> list[object]:
    goal = anchor("explorer", "explore", run=t.described.id) if t.described else "–"
    fields = [families.shown(t.fields[n]) if n in t.fields else "–" for n in names]
    run = anchor("runs", t.id, title=t.dictionary.name, sel=t.id)
    return [run, *fields, *(_figure(t, name) for name in shown), *(_limits(t) for _ in limits), goal]


def _figure(t: Training, name: str) -> Html | str:
    if name not in t.figures:
        return "–"
    return COLUMNS[name](t.figures[name].value) + ("" if t.held_out(name) else "*")


def _limits(t: Training) -> Html | str:
    """Thresholds of the latents: the median, with the first and the last decile."""
    found = [t.figures[f"threshold_p{p}"].value for p in (10, 50, 90) if f"threshold_p{p}" in t.figures]
    if len(found) != 3:
        return "–"
    return element("span", number(found[1]), element("small", f" {number(found[0])} – {number(found[2])}", class_="quiet"))
