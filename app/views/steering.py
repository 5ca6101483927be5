"""Steering: how often and how fluently generations come to a topic, arm by arm; their texts; and the command for another try."""

import shlex
from collections.abc import Sequence
from typing import Any

import streamlit as st

from app import readers, session, widgets
from app.address import choice, real, whole
from interp.runs import Run
from interp.viz.html import Html, element, join, meter, number, table
from interp.viz.strip import Token, strip

ARMS = {
    "none": ("none", "no steering"),
    "one": ("one slot", "the best code of the topic in one slot, or the best latent added"),
    "all": ("all slots", "the best codes of the topic in all slots, or all chosen latents added"),
    "random_one": ("random, one", "a code of equal use in one slot"),
    "random_all": ("random, all", "codes of equal use in all slots"),
    "sae_one": ("SAE, one", "the best latent of the second dictionary, as far at every position as one slot goes"),
    "sae_all": ("SAE, all", "the best latents of the second dictionary, as far at every position as all slots go"),
}
# Nats at which a token is drawn in the strongest colour: one in 3,000.
SURPRISING = 8.0
SHOWN = 12
STRENGTH = 1.0, 100.0


@widgets.page("steering", "Steering", "Text generated with chosen codes forced or latents added: how often on the topic, and how fluent.")
def page() -> None:
    """Draw the page."""
    run = widgets.opened("steer")
    if run is None:
        return
    arms = session.read(arm_rows, run)
    topics = list(dict.fromkeys(row["topic"] for row in arms))
    names = list(dict.fromkeys(row["arm"] for row in arms))
    given = session.query()
    choice(given.get("topic"), "topic", topics)
    choice(given.get("arm"), "arm", names)
    real(given.get("s"), "s", 0.0, STRENGTH[1])
    latents = [row for row in session.read(latent_rows, run) if row["dictionary"] == readers.parents(run)["dictionary"]]
    session.default("topic", topics[0])
    session.default("arm", "all" if "all" in names else names[0])
    first, second = st.columns(2)
    topic = first.selectbox("topic", topics, index=None, key="topic", bind="query-params") or topics[0]
    arm = second.selectbox("arm", names, index=None, key="arm", bind="query-params") or names[0]
    _arms(run, [row for row in arms if row["topic"] == topic], arm)
    _texts(run, topic, arm)
    left, right = st.columns((3, 2))
    with left:
        _latents(run, topic)
    with right:
        _probe(run)
    _again(run, topic, [row for row in latents if row["topic"] == topic])
    session.remember("steering")


def arm_rows(run: Run) -> list[dict[str, Any]]:
    """The rows of arms.parquet; raises InputError where there are none."""
    return _rows(run, "arms.parquet")


def latent_rows(run: Run) -> list[dict[str, Any]]:
    """The rows of latents.parquet."""
    return _rows(run, "latents.parquet")


def probe_rows(run: Run) -> list[dict[str, Any]]:
    """The rows of probe.parquet."""
    return _rows(run, "probe.parquet")


def generations(run: Run) -> list[dict[str, Any]]:
    """The rows of generations.parquet."""
    return _rows(run, "generations.parquet")


def _rows(run: Run, name: str) -> list[dict[str, Any]]:
    rows = readers.parquet(run, name).to_pylist()
    with readers.reading(run, name):
        if not rows:
            raise ValueError("no rows")
        return rows


def _arms(run: Run, rows: Sequence[dict[str, Any]], picked: str) -> None:
    said = (
        "Rate: share of generations that the judge gives the topic. Loss: nats a token under the unsteered model. Brackets: 95 % intervals."
    )
    with widgets.panel("Arms", said, run, "arms.parquet"):
        lines = []
        for row in rows:
            name = ARMS[row["arm"]][0]
            lines.append((
                element("b", name) if row["arm"] == picked else name,
                meter(row["rate"], f"{row['rate']:.0%}"), _interval(row, "rate"), number(row["loss"]), _interval(row, "loss"),
                number(row["distinct"]), row["n"], ", ".join(map(str, row["latents"])),
            ))  # fmt: skip
        heads = ("arm", "rate", "interval", "loss", "interval", "distinct", "n", "latents")
        st.html(table(heads, lines, numeric=[1, 2, 3, 4, 5, 6]))
        widgets.legend(
            [*(ARMS[row["arm"]] for row in rows), ("distinct", "share of neighbouring pairs of tokens that are new in their text")]
        )


def _interval(row: dict[str, Any], name: str) -> str:
    return f"[{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]"


def _texts(run: Run, topic: str, arm: str) -> None:
    said = "A token is lit by its loss under the unsteered model: brighter is less likely. The prompt stands in front."
    with widgets.panel(f"Generations, {ARMS[arm][0]}", said, run, "generations.parquet"):
        vocab = session.read(readers.vocabulary, run)
        prompt = [Token(vocab.text(token)) for token in readers.summary(run).get("prompt", [])]
        mine = [row for row in session.read(generations, run) if (row["topic"], row["arm"]) == (topic, arm)]
        for row in mine[:SHOWN]:
            tokens = [Token(vocab.text(t), loss, f"{i}") for i, (t, loss) in enumerate(zip(row["tokens"], row["loss"], strict=True))]
            badge = element("span", row["said"], class_="badge")
            st.html(element("div", badge, strip([*prompt, *tokens], SURPRISING)))
        if len(mine) > SHOWN:
            st.html(element("p", f"The first {SHOWN} of {len(mine)}.", class_="quiet"))


def _latents(run: Run, topic: str) -> None:
    said = "Phi: correlation with the topic over tokens of training texts. Shares: held-out tokens on which the latent is active."
    with widgets.panel("Latents of the topic", said, run, "latents.parquet"):
        rows = [
            (row["dictionary"], row["latent"], number(row["phi"]), f"{row['share_topic']:.1%}", f"{row['share_other']:.1%}")
            for row in session.read(latent_rows, run)
            if row["topic"] == topic
        ]
        st.html(table(("dictionary", "latent", "phi", "in the topic", "elsewhere"), rows, numeric=[1, 2, 3, 4]))


def _probe(run: Run) -> None:
    accuracy = readers.summary(run).get("probe_accuracy")
    said = f"A logistic regression on bags of tokens; held-out accuracy {number(accuracy)}."
    with widgets.panel("The judge", said, run, "probe.parquet"):
        rows = [(row["topic"], f"{row['recall']:.0%}", f"{row['false_rate']:.1%}", row["n_test"]) for row in session.read(probe_rows, run)]
        st.html(table(("class", "recall", "false rate", "texts"), rows, numeric=[1, 2, 3]))


def _again(run: Run, topic: str, rows: Sequence[dict[str, Any]]) -> None:
    """Latents, strength and prompt of another run, as its command."""
    with widgets.panel(
        "Try others", "Choose codes or latents, a strength and a prompt; the command makes the run that this page shows.", run
    ):
        config, parents = readers.config(run), readers.parents(run)
        session.default("f", " ".join(str(row["latent"]) for row in rows))
        session.default("s", float(config.get("strength", STRENGTH[0])))
        session.default("t", str(config.get("prompt", "")))
        first, second, third = st.columns((2, 1, 3))
        text = first.text_input("latents, between blanks", key="f", bind="query-params")
        strength = second.number_input("strength", 0.0, STRENGTH[1], value=None, step=0.5, key="s", bind="query-params")
        prompt = third.text_input("prompt", key="t", bind="query-params")
        latents = [whole(part, "f", 0, 999_999_999) for part in (text or "").split()]
        topics = [one for one in config.get("topics", []) if one.partition("=")[0] == topic]
        words = ["interp", "steer", parents["dictionary"], *(["--sae", parents["sae"]] if "sae" in parents else []), "--topics", *topics]
        words += ["--latents", *map(str, latents)] if latents else []
        words += ["--strength", f"{strength if strength is not None else STRENGTH[0]:g}", "--prompt", prompt or ""]
        st.code(shlex.join(words), language="bash")
        st.html(element("p", join([Html("A run of this command opens here by itself: "), element("code", "interp app")]), class_="quiet"))
