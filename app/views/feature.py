"""Feature: one latent or code. Statistics, logits, examples, neighbours; previous and next in the Explorer's order by keyboard."""

import math
from typing import Any

import numpy as np
import streamlit as st

from app import definitions, examples, readers, session, widgets
from app.address import anchor, whole
from app.dictionaries import Dictionary
from app.selection import DENSE, NEAR_DUPLICATE, ONE_TOKEN, Selection
from interp.runs import Run
from interp.viz import histograms
from interp.viz.html import Html, element, facts, meter, number, percent, table
from interp.viz.strip import chip

LISTED = 10


@widgets.page("feature", "Feature", "One latent of a dictionary: where it fires, what it promotes, what is near it.")
def page() -> None:
    """Draw the page."""
    run = widgets.opened("describe")
    if run is None:
        return
    data = session.read(readers.latents, run)
    given = session.query()
    chosen = Selection.parse(session.parameters())
    whole(given.get("f"), "f", 0, len(data["latent"]) - 1)
    examples.check()
    _body(run, data, chosen)


@st.fragment
@widgets.guarded
def _body(run: Run, data: readers.Columns, chosen: Selection) -> None:
    vocab = session.read(readers.vocabulary, session.tokens_run(run))
    words = widgets.dictionary(run.parent("dictionary"))
    ids = chosen.latents(data, vocab)
    latent = _navigation(run, data, chosen, ids, words.noun)
    _head(run, data, vocab, latent, words)
    left, right = st.columns((2, 3))
    with left:
        _activations(run, data, latent, words)
        _logits(run, data, vocab, latent, words)
        _neighbours(run, data, vocab, latent, chosen, words)
    with right:
        examples.draw(run, data, vocab, latent, words)
    session.remember("feature")


def _navigation(run: Run, data: readers.Columns, chosen: Selection, ids: np.ndarray, noun: str) -> int:
    """The number field and the keys that walk the Explorer's list; without an address, the first live latent of the list."""
    live = ids[~data["dead"][ids]]
    session.default("f", int(next(iter(live), next(iter(ids), 0))))
    order = ids if len(ids) else data["latent"]
    first, second, third, fourth, fifth = st.columns((1.2, 1, 1, 1, 3.2), vertical_alignment="bottom")
    highest = len(data["latent"]) - 1
    latent = first.number_input(noun, 0, highest, value=None, step=1, key="f", bind="query-params", format="%d")
    second.button("Previous", shortcut="k", on_click=session.step, args=("f", order, -1), width="stretch")
    third.button("Next", shortcut="j", on_click=session.step, args=("f", order, 1), width="stretch")
    fourth.button("Random", shortcut="x", on_click=_random, args=(order,), width="stretch")
    latent = int(latent if latent is not None else order[0])
    where = int(np.flatnonzero(order == latent)[0]) + 1 if latent in order else None
    place = f"{where:,} of {len(order):,} in " if where else f"not among the {len(order):,} of "
    back = anchor("explorer", "this Explorer list", run=run.id, **chosen.parameters())
    with fifth:
        st.html(
            element(
                "p",
                place,
                back,
                ". Keys: ",
                element("code", "j"),
                " next, ",
                element("code", "k"),
                " previous, ",
                element("code", "x"),
                " random.",
                class_="quiet",
            )
        )
    return latent


def _random(order: np.ndarray) -> None:
    st.session_state["f"] = int(np.random.default_rng().choice(order))


def _head(run: Run, data: readers.Columns, vocab: readers.Vocabulary, latent: int, words: Dictionary) -> None:
    """Badges and the figures of the latent, with the counts behind them."""
    one = {name: values[latent].item() for name, values in data.items()}
    tokens = session.read(readers.summary, run).get("tokens") or (round(one["n_active"] / one["density"]) if one["density"] else None)
    title = element("h2", words.called(latent), style="padding:0;font-size:1.25rem")
    figures = _figures(one, vocab, tokens, words)
    st.html(element("div", element("div", title, *_badges(one), class_="panel"), facts(figures)))
    shown = {name for name, _ in figures}
    widgets.legend((names, meaning) for names, meaning in definitions.LATENT if names.split(",")[0] in shown)
    model = session.glance(readers.config, session.tokens_run(run)).get("model", "?")
    st.html(element("p", f"{model} · {words.name} · from ", element("code", f"{run.id}/latents.arrow"), class_="source"))
    if words.note(latent) == "none":
        st.html(
            element("div", "This latent reads nothing: it is the code of a token on which no other latent is active.", class_="missing")
        )
    if one["dead"]:
        _dead(run, one, tokens, words)


def _figures(one: dict[str, Any], vocab: readers.Vocabulary, tokens: int | None, words: Dictionary) -> list[tuple[str, object]]:
    """Name and value. Where all activations are equal, one stands for all; a cosine needs one space to be measured in."""
    quantiles = ("mean_act", "p50", "p90", "p99")
    strengths = [("max", "max_act"), *((name.replace("_act", ""), name) for name in quantiles if name in one)]
    shown = [("value", "max_act")] if words.constant else strengths
    apart = f"It reads {words.reads[0]} and writes {words.writes[0]}: there is no angle between vectors of two sites."
    cosine = element("span", "– (two sites)", title=apart) if words.transcoder else number(one.get("enc_dec_cos"))
    return [
        ("active tokens", f"{one['n_active']:,}" + (f" of {number(tokens)}" if tokens else "")),
        ("density", number(one["density"])),
        *((label, number(one[name])) for label, name in shown),
        ("top token", chip(vocab.text(one["top_token"])) if not one["dead"] else "–"),
        ("its share", percent(one["top_token_share"]) if not one["dead"] else "–"),
        *([("token entropy", number(one["token_entropy"]))] if "token_entropy" in one else []),
        *([("encoder · decoder", cosine)] if "enc_dec_cos" in one and words.kind != "Codebook" else []),
        *([("decoder norm", number(one["dec_norm"]))] if "dec_norm" in one else []),
    ]


def _dead(run: Run, one: dict[str, Any], tokens: int | None, words: Dictionary) -> None:
    near = one["nearest"]
    go = anchor("feature", f"{words.noun} {near}", run=run.id, f=near)
    nearest = element("span", " The nearest direction is ", go, f" (cosine {one['nearest_cos']:.2f}).") if near >= 0 else ""
    never = f"Dead: it never fired{f' in {number(tokens)} tokens' if tokens else ''}."
    st.html(element("div", never, nearest, " Logits and neighbours need only weights, so they are shown.", class_="missing"))


def _badges(one: dict[str, Any]) -> list[Html]:
    marks = [
        (one["dead"], "dead"), (one["density"] > DENSE, "dense"), (not one["dead"] and one["top_token_share"] > ONE_TOKEN, "one token"),
        (one["nearest_cos"] > NEAR_DUPLICATE, f"near duplicate of {one['nearest']} at {one['nearest_cos']:.2f}"),
    ]  # fmt: skip
    return [element("span", text, class_="badge warn") for condition, text in marks if condition]


def _activations(run: Run, data: readers.Columns, latent: int, words: Dictionary) -> None:
    highest, active = float(data["max_act"][latent]), int(data["n_active"][latent])
    same = active > 0 and "mean_act" in data and math.isclose(float(data["mean_act"][latent]), highest, rel_tol=1e-5)
    definition = "" if same else "Active tokens by strength, logarithmic; dotted lines bound the five bands."
    with widgets.panel("Activations", definition, run, "histograms.safetensors"):
        if widgets.lacks(run, "histograms.safetensors", "histograms"):
            return
        counts = readers.row(run, "histograms.safetensors", "acts", latent)
        if same:
            st.html(_constant(active, highest, words))
        elif counts.any():
            figure = histograms.activation_histogram(counts, highest, session.theme())
            st.plotly_chart(figure, key="activations", alt=histograms.spoken(counts, 0.0, highest, "Activation histogram"))
        else:
            st.html(element("p", "No active token.", class_="quiet"))


def _constant(active: int, value: float, words: Dictionary) -> Html:
    """Instead of a histogram with one bar."""
    tokens = f"On all {active:,} active tokens the value is " if active > 1 else "On its only active token the value is "
    why = f": {words.constant}. What it means is told by where it is chosen, not by how strongly." if words.constant else "."
    return element("p", tokens, element("b", number(value)), why)


def _logits(run: Run, data: readers.Columns, vocab: readers.Vocabulary, latent: int, words: Dictionary) -> None:
    last, several = words.writes[-1], len(words.writes) > 1
    where = f" It writes to {len(words.writes)} sites; this is its effect at {last}." if several else ""
    definition = f"Decoder direction through the unembedding: what an activation of 1 adds to each logit directly.{where}"
    with widgets.panel("Logit weights", definition, run, "logits.safetensors"):
        if not run.has("logits.safetensors") and np.isnan(data["logit_kurtosis"].astype(float)).all():
            why = f"{last} does not write to the residual stream, so nothing here has a direct effect on the logits."
            st.html(element("p", why, class_="quiet"))
            return
        if widgets.lacks(run, "logits.safetensors", "logits"):
            return
        ids, values = {}, {}
        for side in ("top", "bottom"):
            ids[side] = readers.row(run, "logits.safetensors", f"{side}_ids", latent)
            values[side] = readers.row(run, "logits.safetensors", side, latent).astype(float)
        bound = max(float(np.abs(v).max()) for v in values.values())
        if not bound:
            st.html(element("p", f"The direction of this {words.noun} is 0: it writes nothing.", class_="quiet"))
            return
        rows = [
            (_token(vocab, ids["bottom"][i]), _bar(values["bottom"][i], bound), _token(vocab, ids["top"][i]), _bar(values["top"][i], bound))
            for i in range(min(LISTED, len(ids["top"])))
        ]
        st.html(table(("lowers", "", "raises", ""), rows, numeric=[1, 3]))
        if run.has("histograms.safetensors"):
            counts = readers.row(run, "histograms.safetensors", "logits", latent)
            low, high = (float(v) for v in readers.row(run, "histograms.safetensors", "logit_range", latent))
            figure = histograms.logit_histogram(counts, low, high, session.theme())
            st.plotly_chart(figure, key="logits", alt=histograms.spoken(counts, low, high, "Logit weights"))
        shape = [(name, number(float(data[f"logit_{name}"][latent]))) for name in ("skew", "kurtosis") if f"logit_{name}" in data]
        st.html(facts(shape))
        widgets.legend(definitions.SHAPE)


def _token(vocab: readers.Vocabulary, token: int) -> Html:
    return chip(vocab.text(int(token)))


def _bar(value: float, bound: float) -> Html:
    return meter(abs(value) / bound, f"{value:+.2f}", "var(--pos)" if value >= 0 else "var(--neg)")


def _neighbours(run: Run, data: readers.Columns, vocab: readers.Vocabulary, latent: int, chosen: Selection, words: Dictionary) -> None:
    with widgets.panel("Neighbours", "Those whose decoder directions are most alike (cosine).", run, "neighbours.safetensors"):
        if widgets.lacks(run, "neighbours.safetensors", "neighbours"):
            return
        ids = readers.row(run, "neighbours.safetensors", "ids", latent)[:LISTED]
        cosines = readers.row(run, "neighbours.safetensors", "cos", latent)[:LISTED].astype(float)
        rows = []
        # A dictionary with few latents has fewer neighbours: -1.
        for other, cosine in zip(ids[ids >= 0].tolist(), cosines[ids >= 0], strict=True):
            dead = bool(data["dead"][other])
            token = "dead" if dead else chip(vocab.text(int(data["top_token"][other])))
            goal = anchor("feature", other, run=run.id, f=other, **chosen.parameters())
            note = [words.note(other)] if words.note(latent) else []
            rows.append((goal, *note, _bar(cosine, 1.0), number(float(data["density"][other])), token))
        place = [""] if words.note(latent) else []
        st.html(table((words.noun, *place, "cosine", "density", "top token"), rows, numeric=[1 + len(place), 2 + len(place)]))
