"""Panels of the Circuit page that are read line by line: the audit of the scores, nodes or edges, prompts."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import streamlit as st

from app import circuit_words, circuits, readers, session, widgets
from app.circuit_panels import bracketed, patterns
from app.circuit_view import View
from app.circuit_words import p_value, two
from interp.circuits.paths import owners
from interp.runs import Run
from interp.viz.circuits import Audited, agreement
from interp.viz.html import Html, element, join, percent, table
from interp.viz.strip import Token, chip, strip

MOST, WORST, PAIRS, MORE = 40, 5, 2, 12
ANY = "any node"
PROMPT = ("pair", "clean, then corrupt", "answer", "wrong")
SPLITS = {"train": "to score", "test": "to measure the curves", "mean": "only for the means of mean ablation"}


def audit(view: View) -> None:
    """Scores held against exact effects."""
    with widgets.panel("Can the scores be trusted?", "", view.run, view.file):
        score, exact = view.rows["score"], view.rows["exact"]
        known = np.flatnonzero(~(np.isnan(score) | np.isnan(exact)))
        if str(readers.summary(view.run).get("method")).startswith("exact"):
            st.html(element("p", "The scores are exact effects: each was ablated in turn.", class_="quiet"))
            return
        if not len(known):
            sentence = f"No {view.unit} of this run was ablated exactly. This command makes a run in which some are:"
            widgets.missing(sentence, f"{re.sub(r' --audit[ =][0-9]+', '', view.run.command)} --audit 200")
            return
        st.html(element("p", _verdict(view, len(known)), class_="quiet"))
        kind = circuits.kinds(view.unit, {name: values[known] for name, values in view.rows.items()})
        parts = {name: known[kind == name] for name in circuit_words.KINDS if (kind == name).any()}
        drawn = {circuit_words.KINDS[name]: Audited(list(view.rows["name"][at]), exact[at], score[at]) for name, at in parts.items()}
        figure = agreement(drawn, session.theme(), circuits.about(view.run)["metric_unit"])
        st.plotly_chart(figure, key="agreement", alt=f"Score against exact effect of {len(known)} {view.unit}s")
        worst = known[np.argsort(-np.abs(score[known] - exact[known]), kind="stable")][:WORST]
        rows = [(element("code", view.rows["name"][i]), *(bracketed(view.rows, by, int(i)) for by in circuits.BY)) for i in worst]
        st.html(table(("largest differences", "score", "exact effect"), rows, numeric=[1, 2]))


def _verdict(view: View, n: int) -> str:
    """The agreement that the run reports."""
    figures = readers.summary(view.run)
    which = "all nodes" if view.unit == "node" else f"a sample of {n} edges, drawn from every kind in each third of the model"
    parts = [f"Fast scores against the true effect of ablating {which}: Pearson r {two(figures.get('pearson'))}"]
    parts += [f"{percent(figures.get('same_sign'))} agree in sign"]
    own = [(kind, figures.get(f"pearson_{kind}")) for kind in circuit_words.KINDS]
    parts += [", ".join(f"{circuit_words.KINDS[kind]} {two(r)}" for kind, r in own if r is not None)]
    return "; ".join(part for part in parts if part) + ". On the dotted line both are equal; the axes are logarithmic away from zero."


def nodes(view: View) -> None:
    title = f"Nodes of the circuit in view ({view.size})"
    with widgets.panel(title, "In the order in which they enter; heads lead to their attention patterns.", view.run, "nodes.parquet"):
        rows = [
            (rank, element("code", name := str(view.nodes["name"][i])), *(bracketed(view.nodes, by, int(i)) for by in circuits.BY),
             patterns(view.run, name))
            for rank, i in enumerate(view.kept[:MOST], 1)
        ]  # fmt: skip
        st.html(table(("rank", "node", "score", "exact effect", ""), rows, numeric=[0, 2, 3]))
        _cut(len(view.kept), "nodes")


def edges(view: View) -> None:
    definition = (
        "In the order in which they enter. Same sign: share of the prompts whose own score has the sign of the mean. "
        "p: of a t-test of the mean against 0, corrected for all edges (Benjamini and Hochberg)."
    )
    with widgets.panel(f"Edges of the circuit in view ({view.size:,})", definition, view.run, "edges.parquet"):
        options = [ANY, "embed", *(str(name) for name in view.nodes["name"]), "logits"]
        node = st.selectbox("edges from or into", options, key="node", bind="query-params")
        kept = view.kept if node == ANY else view.kept[touching(view.rows, view.kept, node, options)]
        place = {int(i): rank for rank, i in enumerate(view.kept, 1)}
        rows = [
            (f"{place[int(i)]:,}", element("code", view.rows["source"][i]), element("code", view.rows["destination"][i]),
             bracketed(view.rows, "score", int(i)), bracketed(view.rows, "exact", int(i)), percent(float(view.rows["same_sign"][i])),
             p_value(float(view.rows["p_adjusted"][i])), patterns(view.run, str(view.rows["source"][i])))
            for i in kept[:MOST]
        ]  # fmt: skip
        names = ("rank", "from", "to", "score", "exact effect", "same sign", "p", "source's")
        st.html(table(names, rows, numeric=[0, 3, 4, 5, 6]))
        if not rows:
            st.html(element("p", f"No edge of the circuit in view touches {node}; take more edges.", class_="quiet"))
        _cut(len(kept), "edges")


def touching(rows: Mapping[str, np.ndarray], kept: np.ndarray, node: str, names: list[str]) -> np.ndarray:
    """Which of the kept edges start at a node, or end at it or at what it shares with its group."""
    ends = owners(names[1:-1], sorted(set(rows["destination"].tolist())))
    into = {to for to, behind in ends.items() if node in behind or to == node}
    return np.array([s == node or d in into for s, d in zip(rows["source"][kept], rows["destination"][kept], strict=True)], bool)


def knock_outs(view: View) -> None:
    """Units of the run's own circuit, each knocked out of it."""
    if not view.run.has("tests.parquet"):
        return
    definition = (
        "Each was taken out of the circuit that the run marks. Change: of the metric. p: how often random additions to the circuit "
        "change it as much, corrected for all that were tested (Benjamini and Hochberg)."
    )
    with widgets.panel("Is each needed?", definition, view.run, "tests.parquet"):
        found = session.read(readers.parquet, view.run, "tests.parquet")
        with readers.reading(view.run, "tests.parquet"):
            tested = [row for row in found.to_pylist() if row["kind"] == "knock-out"]
            rows = [
                (
                    row["rank"],
                    element("code", row["unit"]),
                    f"{row['value']:+.3f}",
                    p_value(row["p_adjusted"]),
                    "yes" if row["needed"] else "no",
                )
                for row in tested
            ]
        st.html(table(("rank", view.unit, "change", "p", "needed"), rows, numeric=[0, 2, 3]))


def truth(view: View) -> None:
    """The scores against a published circuit."""
    if not view.run.has("truth.parquet"):
        return
    definition = "How well the scores tell the units of a published circuit from the others: 1 does so without a mistake, .5 by chance."
    with widgets.panel("Against the published circuit", definition, view.run, "truth.parquet"):
        found = session.read(readers.parquet, view.run, "truth.parquet")
        with readers.reading(view.run, "truth.parquet"):
            rows = [
                (row["unit"], row["among"], row["ranking"], f"{row['n_true']:,} of {row['n_scored']:,}", two(row["auroc"]),
                 two(row["average_precision"]))
                for row in found.to_pylist()
            ]  # fmt: skip
        st.html(table(("unit", "among", "ranked by", "true", "AUROC", "average precision"), rows, numeric=[3, 4, 5]))


def _cut(n: int, what: str) -> None:
    if n > MOST:
        st.html(element("p", f"The first {MOST} of {n:,} {what}.", class_="quiet"))


def prompts(run: Run) -> None:
    name = circuits.about(run)["metric"]
    definition = f"What differs between the clean and the corrupt prompt is lit. The {name} sets the answer against the wrong ones."
    with widgets.panel("Prompts", definition, run, "prompts.parquet"):
        if widgets.lacks(run, "prompts.parquet", "prompts"):
            return
        rows = session.read(readers.parquet, run, "prompts.parquet")
        vocab = session.read(readers.vocabulary, run)
        with readers.reading(run, "prompts.parquet"):
            splits = rows["split"].to_pylist()
            lines = [_line(vocab, r) for r in rows.slice(0, PAIRS + MORE).to_pylist()]
        st.html(table(PROMPT, lines[:PAIRS]))
        if len(lines) > PAIRS:
            with st.expander(f"{len(lines) - PAIRS} more pairs"):
                st.html(table(PROMPT, lines[PAIRS:]))
        counts = ", ".join(f"{splits.count(split)} {use}" for split, use in SPLITS.items() if split in splits)
        st.html(element("p", f"{len(rows)} pairs in all: {counts}.", class_="quiet"))


def _line(vocab: readers.Vocabulary, r: Mapping[str, Any]) -> tuple[object, ...]:
    """A pair of prompts with its answers."""
    pair = join(_prompt(vocab, r[side], r[other]) for side, other in (("clean", "corrupt"), ("corrupt", "clean")))
    return (r["pair"], pair, chip(vocab.text(r["answer"])), join(chip(vocab.text(t)) for t in r["wrong"]))


def _prompt(vocab: readers.Vocabulary, mine: list[int], other: list[int]) -> Html:
    differs = [i >= len(other) or t != other[i] for i, t in enumerate(mine)]
    return strip([Token(vocab.text(t), 0.35 * d, str(i)) for i, (t, d) in enumerate(zip(mine, differs, strict=True))], 1.0)
