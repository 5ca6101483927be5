"""Latents of a task: which latents of a dictionary it needs, how faithful the first of them are, and how far the scores can be trusted."""

import numpy as np
import streamlit as st

from app import circuit_tables, circuits, readers, session, widgets
from app.address import anchor, whole
from app.circuit_panels import bracketed
from app.circuit_words import two
from interp.runs import Run
from interp.viz.circuit_curves import completeness_curve, faithfulness_curve
from interp.viz.circuits import Audited, agreement
from interp.viz.html import Html, element, facts, percent, table
from interp.viz.strip import chip

FIRST, MOST = 20, 200
ERROR = -1


@widgets.page(
    "latents", "Latents of a task", "Which latents or codes a task needs at one site, and how much of it they explain on their own."
)
def page() -> None:
    """Draw the page."""
    run = widgets.opened("latents")
    if run is None:
        return
    rows = session.read(latents_of, run)
    whole(session.query().get("n"), "n", 1, len(rows["latent"]))
    _lead(run)
    _body(run, rows)


def latents_of(run: Run) -> readers.Columns:
    """Columns of the latents, the most helpful first, with their names as `name`."""
    found = circuits.table(run, "latents.parquet")
    with readers.reading(run, "latents.parquet"):
        if not len(found["latent"]):
            raise ValueError("no rows")
        name = np.array(["error" if latent == ERROR else str(latent) for latent in found["latent"]])
        return {**{key: column.astype(float) for key, column in found.items()}, "latent": found["latent"], "name": name}


def _lead(run: Run) -> None:
    """What was asked, and what came out."""
    figures, about = readers.summary(run), circuits.about(run)
    words = widgets.dictionary(run.parent("dictionary"))
    unit, noun = about["metric_unit"], words.noun
    f, low, high, random = (two(figures.get(f"faithfulness{end}")) for end in ("", "_low", "_high", "_random"))
    clean, corrupt, every, error = (
        two(figures.get(name)) for name in ("metric_clean", "metric_corrupt", "effect_of_all", "effect_of_error")
    )
    needed, active = (figures.get(name, "–") for name in ("latents_for_80_percent", "active_latents"))
    st.html(facts([
        ("task", about["task"]), ("corrupt prompt", about["corruption"]), ("dictionary", words.name),
        (f"{about['metric']}, clean and corrupt", f"{clean} and {corrupt} {unit}"),
        (f"faithfulness of the first {figures.get('top', '–')}", f"{f} [{low}, {high}], at random {random}"),
        (f"{noun}s for 80 % of the effect", f"{needed} of {active} active ones"),
        ("ablating everything, and the error alone", f"{every} and {error} {unit}"),
    ]))  # fmt: skip


@st.fragment
@widgets.guarded
def _body(run: Run, rows: readers.Columns) -> None:
    session.default("n", min(FIRST, len(rows["latent"])))
    words = widgets.dictionary(run.parent("dictionary"))
    size = int(st.slider(f"{words.noun}s in the circuit", 1, min(MOST, len(rows["latent"])), key="n", bind="query-params"))
    left, right = st.columns((3, 2))
    with left:
        _table(run, rows, size, words.noun)
    with right:
        circuit_tables.prompts(run)
        _audit(run, rows, words.noun)
    _curves(run, size, words.noun)
    session.remember("latents")


def _table(run: Run, rows: readers.Columns, size: int, noun: str) -> None:
    definition = (
        f"The most helpful first. Score: first-order effect of ablating the {noun} alone, negative: it helps. Exact: it was ablated. "
        "Same sign: share of the prompts whose own score has the sign of the mean. Error: what the dictionary does not reconstruct."
    )
    with widgets.panel(f"The circuit in view ({size})", definition, run, "latents.parquet"):
        train = readers.parents(run)["dictionary"]
        described = session.newest_children("describe").get(train)
        lines = [
            (rank + 1, _linked(described, int(rows["latent"][rank])), *_token(described, int(rows["latent"][rank])),
             bracketed(rows, "score", rank), bracketed(rows, "exact", rank), percent(float(rows["same_sign"][rank])))
            for rank in range(size)
        ]  # fmt: skip
        heads = ("rank", noun, *(("top token",) if described else ()), "score", "exact effect", "same sign")
        st.html(table(heads, lines, numeric=[0, len(heads) - 3, len(heads) - 2, len(heads) - 1]))
        if described is None:
            widgets.missing(f"This command describes the {noun}s, so that they can be opened from here:", f"interp describe {train}")


def _linked(described: Run | None, latent: int) -> Html | str:
    """The way to a latent's own page."""
    if latent == ERROR:
        return element("b", "error")
    return str(latent) if described is None else anchor("feature", str(latent), run=described.id, f=latent)


def _token(described: Run | None, latent: int) -> tuple[Html | str, ...]:
    """The token that a latent is most often active on."""
    if described is None:
        return ()
    if latent == ERROR:
        return ("",)
    vocab = session.read(readers.vocabulary, session.tokens_run(described))
    return (chip(vocab.text(int(session.read(readers.latents, described)["top_token"][latent]))),)


def _audit(run: Run, rows: readers.Columns, noun: str) -> None:
    figures = readers.summary(run)
    with widgets.panel("Can the scores be trusted?", "", run, "latents.parquet"):
        known = ~np.isnan(rows["exact"])
        said = f"{int(known.sum())} of {len(known)} ablated in turn: Pearson r {two(figures.get('pearson'))}; "
        st.html(element("p", said + f"{percent(figures.get('same_sign'))} agree in sign. Dotted: both are equal.", class_="quiet"))
        error = rows["latent"] == ERROR
        parts = {f"{noun}s": known & ~error, "error": known & error}
        drawn = {
            kind: Audited(list(rows["name"][at]), rows["exact"][at], rows["score"][at]) for kind, at in parts.items() if at.any()
        }  # fmt: skip
        figure = agreement(drawn, session.theme(), circuits.about(run)["metric_unit"])
        st.plotly_chart(figure, key="agreement", alt=f"Score against exact effect of {int(known.sum())} {noun}s")


def _curves(run: Run, size: int, noun: str) -> None:
    definition = (
        f"Faithfulness: (metric of the circuit − everything ablated) / (whole model − everything ablated). Random orders are of {noun}s "
        "that are active on these prompts. Bands are 95 % intervals. Completeness: what is left of the metric without the circuit."
    )
    with widgets.panel("Faithfulness and completeness", definition, run, "curve.parquet"):
        ((scope, ablation), lines), *_ = session.read(circuits.curves_of, run).items()
        about = circuits.about(run)
        left, right = st.columns(2)
        with left:
            figure = faithfulness_curve(lines, session.theme(), f"{noun}s", size)
            st.plotly_chart(figure, key="curve", alt=f"Faithfulness against {noun}s kept, {ablation} ablation")
        with right:
            title = f"{about['metric']} ({about['metric_unit']})"
            figure = completeness_curve(lines, session.theme(), f"{noun}s", title, size)
            st.plotly_chart(figure, key="complement", alt=f"{about['metric']} against {noun}s taken away")
        kept = "The error runs in every circuit." if scope == "kept" else "The error enters like a latent."
        st.html(element("p", f"{kept} Ablation: {ablation}.", class_="quiet"))
