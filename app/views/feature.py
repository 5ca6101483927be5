"""Feature: one latent. Statistics, logits, highlighted examples, neighbours; previous and next in the Explorer's order by keyboard."""

from typing import Any

import numpy as np
import streamlit as st

from app import examples, readers, session, widgets
from app.address import anchor, whole
from app.selection import DENSE, NEAR_DUPLICATE, ONE_TOKEN, Selection
from interp.runs import Run
from interp.viz import histograms
from interp.viz.html import Html, element, facts, meter, number, percent, table
from interp.viz.strip import chip

LISTED = 10


@widgets.page("feature", "Feature", "One latent of a dictionary: where it fires, what it promotes, what is near it.")
def page() -> None:
    """Draw the page."""
    if widgets.no_runs("describe"):
        return
    left, right = st.columns((5, 1), vertical_alignment="center")
    with left:
        run = widgets.pick_run("describe")
    with right:
        widgets.provenance(run)
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
    ids = chosen.latents(data, vocab)
    latent = _navigation(run, data, chosen, ids)
    _head(run, data, vocab, latent)
    left, right = st.columns((2, 3))
    with left:
        _activations(run, data, latent)
        _logits(run, data, vocab, latent)
        _neighbours(run, data, vocab, latent, chosen)
    with right:
        examples.draw(run, data, vocab, latent)
    session.remember("feature")


def _navigation(run: Run, data: readers.Columns, chosen: Selection, ids: np.ndarray) -> int:
    """The number field and the keys that walk the Explorer's list; without an address, the first live latent of the list."""
    live = ids[~data["dead"][ids]]
    session.default("f", int(next(iter(live), next(iter(ids), 0))))
    order = ids if len(ids) else data["latent"]
    first, second, third, fourth, fifth = st.columns((1.2, 1, 1, 1, 3.2), vertical_alignment="bottom")
    highest = len(data["latent"]) - 1
    latent = first.number_input("latent", 0, highest, value=None, step=1, key="f", bind="query-params", format="%d")
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


def _head(run: Run, data: readers.Columns, vocab: readers.Vocabulary, latent: int) -> None:
    """Badges and the figures of the latent, with the counts behind them."""
    one = {name: values[latent].item() for name, values in data.items()}
    tokens = session.read(readers.summary, run).get("tokens") or (round(one["n_active"] / one["density"]) if one["density"] else None)
    of = f" of {number(tokens)}" if tokens else ""
    rows: list[tuple[object, object]] = [
        ("active tokens", f"{one['n_active']:,}{of}"),
        ("density", number(one["density"])),
        ("max", number(one["max_act"])),
        *((name.replace("_act", ""), number(one[name])) for name in ("mean_act", "p50", "p90", "p99") if name in one),
        ("top token", chip(vocab.text(one["top_token"])) if not one["dead"] else "–"),
        ("its share", percent(one["top_token_share"]) if not one["dead"] else "–"),
        *(
            (label, number(one[name]))
            for label, name in (("token entropy", "token_entropy"), ("encoder · decoder", "enc_dec_cos"), ("decoder norm", "dec_norm"))
            if name in one
        ),
    ]
    st.html(
        element(
            "div",
            element("div", element("h2", f"Latent {latent}", style="padding:0;font-size:1.25rem"), *_badges(one), class_="panel"),
            facts(rows),
        )
    )
    st.html(element("p", f"{_subject(run)} · from ", element("code", f"{run.id}/latents.arrow"), class_="source"))
    if one["dead"]:
        near = one["nearest"]
        go = anchor("feature", f"latent {near}", run=run.id, f=near)
        st.html(
            element(
                "div",
                f"Dead: it never fired{f' in {number(tokens)} tokens' if tokens else ''}. The nearest decoder direction is ",
                go,
                f" (cosine {one['nearest_cos']:.2f}). Logits and neighbours need only weights, so they are shown.",
                class_="missing",
            )
        )


def _subject(run: Run) -> str:
    train = run.parent("dictionary")
    model, site = readers.config(session.tokens_run(run)).get("model", "?"), readers.config(train).get("site", "?")
    return f"{model} · {site} · {widgets.architecture(train)}"


def _badges(one: dict[str, Any]) -> list[Html]:
    marks = [
        (one["dead"], "dead"), (one["density"] > DENSE, "dense"), (not one["dead"] and one["top_token_share"] > ONE_TOKEN, "one token"),
        (one["nearest_cos"] > NEAR_DUPLICATE, f"near duplicate of {one['nearest']} at {one['nearest_cos']:.2f}"),
    ]  # fmt: skip
    return [element("span", text, class_="badge warn") for condition, text in marks if condition]


def _activations(run: Run, data: readers.Columns, latent: int) -> None:
    with widgets.panel(
        "Activations", "Active tokens by strength, logarithmic; dotted lines bound the five bands.", run, "histograms.safetensors"
    ):
        counts = readers.row(run, "histograms.safetensors", "acts", latent)
        highest = float(data["max_act"][latent])
        if not counts.any():
            st.html(element("p", "No active token.", class_="quiet"))
            return
        figure = histograms.activation_histogram(counts, highest, session.theme())
        st.plotly_chart(figure, key="activations", alt=histograms.spoken(counts, 0.0, highest, "Activation histogram"))


def _logits(run: Run, data: readers.Columns, vocab: readers.Vocabulary, latent: int) -> None:
    definition = "Decoder direction through the unembedding: what the latent raises and lowers directly."
    with widgets.panel("Logit weights", definition, run, "logits.safetensors"):
        if not run.has("logits.safetensors"):
            st.html(
                element(
                    "p",
                    "This site does not write to the residual stream, so its latents have no direct effect on the logits.",
                    class_="quiet",
                )
            )
            return
        ids, values = {}, {}
        for side in ("top", "bottom"):
            ids[side] = readers.row(run, "logits.safetensors", f"{side}_ids", latent)
            values[side] = readers.row(run, "logits.safetensors", side, latent).astype(float)
        bound = max(1e-9, max(float(np.abs(v).max()) for v in values.values()))
        rows = [
            (_token(vocab, ids["bottom"][i]), _bar(values["bottom"][i], bound), _token(vocab, ids["top"][i]), _bar(values["top"][i], bound))
            for i in range(min(LISTED, len(ids["top"])))
        ]
        st.html(table(("lowers", "", "raises", ""), rows, numeric=[1, 3]))
        counts = readers.row(run, "histograms.safetensors", "logits", latent)
        low, high = (float(v) for v in readers.row(run, "histograms.safetensors", "logit_range", latent))
        figure = histograms.logit_histogram(counts, low, high, session.theme())
        st.plotly_chart(figure, key="logits", alt=histograms.spoken(counts, low, high, "Logit weights"))
        shape = [(name, number(float(data[f"logit_{name}"][latent]))) for name in ("skew", "kurtosis") if f"logit_{name}" in data]
        st.html(facts(shape))


def _token(vocab: readers.Vocabulary, token: int) -> Html:
    return chip(vocab.text(int(token)))


def _bar(value: float, bound: float) -> Html:
    return meter(abs(value) / bound, f"{value:+.2f}", "var(--pos)" if value >= 0 else "var(--neg)")


def _neighbours(run: Run, data: readers.Columns, vocab: readers.Vocabulary, latent: int, chosen: Selection) -> None:
    with widgets.panel("Neighbours", "Latents whose decoder directions are most alike (cosine).", run, "neighbours.safetensors"):
        ids = readers.row(run, "neighbours.safetensors", "ids", latent)[:LISTED]
        cosines = readers.row(run, "neighbours.safetensors", "cos", latent)[:LISTED].astype(float)
        rows = []
        for other, cosine in zip(ids.tolist(), cosines, strict=True):
            dead = bool(data["dead"][other])
            token = "dead" if dead else chip(vocab.text(int(data["top_token"][other])))
            goal = anchor("feature", other, run=run.id, f=other, **chosen.parameters())
            rows.append((goal, _bar(cosine, 1.0), number(float(data["density"][other])), token))
        st.html(table(("latent", "cosine", "density", "top token"), rows, numeric=[1, 2]))
