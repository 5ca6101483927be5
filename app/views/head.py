"""Head: the attention pattern of one head on the stored examples, a chosen query lighting its keys, and the other heads of the layer."""

import numpy as np
import streamlit as st

from app import definitions, readers, session, widgets
from app.address import anchor, head_name, whole
from app.views.heads import Scores, interval, score, scores_of, shape
from interp.runs import Run
from interp.viz import patterns
from interp.viz.html import Html, element, facts, join, meter, table
from interp.viz.strip import Token, chip, strip

KEYS = 8
# From this score on a head counts as looking for repetitions.
SEEKING = 0.3


@widgets.page("head", "Head", "Where one attention head looks, token by token.")
def page() -> None:
    """Draw the page."""
    run = widgets.opened("heads")
    if run is None:
        return
    scores = session.read(scores_of, run)
    layers, heads = shape(scores)
    titles = session.read(_titles, run)
    given = session.query()
    asked = head_name(given.get("h"), layers, heads)
    whole(given.get("ex"), "ex", 0, len(titles) - 1)
    names = [f"{layer}.{head}" for layer in range(layers) for head in range(heads)]
    session.default("h", asked or _best(scores))
    _body(run, scores, names, titles)


def _best(scores: Scores) -> str:
    """The head with the strongest known pattern: the one worth a first look."""
    known = {key: row["value"] for key, row in scores.items() if key[0] in ("induction", "previous_token")} or {
        key: row["value"] for key, row in scores.items()
    }
    _, layer, head = max(known, key=lambda key: known[key])
    return f"{layer}.{head}"


def _titles(run: Run) -> list[str]:
    table = readers.parquet(run, "examples.parquet")
    with readers.reading(run, "examples.parquet"):
        return [str(t) for t in table.sort_by("example")["title"].to_pylist()]


@st.fragment
@widgets.guarded
def _body(run: Run, scores: Scores, names: list[str], titles: list[str]) -> None:
    first, second, third, fourth, fifth = st.columns((1.2, 1, 1, 2.4, 2), vertical_alignment="bottom")
    picked = first.selectbox("head", names, index=None, key="h", bind="query-params") or names[0]
    second.button("Previous", shortcut="k", on_click=session.step, args=("h", names, -1), width="stretch")
    third.button("Next", shortcut="j", on_click=session.step, args=("h", names, 1), width="stretch")
    session.default("ex", _first(scores, picked, titles))
    example = (
        fourth.selectbox(
            "example",
            range(len(titles)),
            index=None,
            key="ex",
            bind="query-params",
            help="Their titles stand below.",
        )
        or 0
    )
    layer, head = (int(part) for part in picked.split("."))
    length = int(readers.tensor(run, "patterns.safetensors", "lengths")[example])
    tokens = readers.row(run, "patterns.safetensors", "tokens", example)[:length]
    vocab = session.read(readers.vocabulary, run)
    texts = [vocab.text(int(t)) for t in tokens]
    weights = readers.row(run, "patterns.safetensors", "patterns", example)[:, :, :length, :length].astype(np.float32)
    whole(st.query_params.get("q"), "q", 0, length - 1)
    session.default("q", length - 1)
    query = fifth.number_input(
        f"query token, 0 to {length - 1}", 0, length - 1, value=None, step=1, key="q", bind="query-params", format="%d"
    )
    query = int(query if query is not None else length - 1)
    _facts(scores, layer, head)
    _examples(run, picked, titles, example)
    left, right = st.columns((3, 2))
    with left:
        _pattern(run, weights[layer, head], texts, query)
    with right:
        _keys(run, weights[layer, head], texts, query)
        _layer(run, weights[layer], layer, head, example)
    session.remember("head")


def _first(scores: Scores, picked: str, titles: list[str]) -> int:
    """The example to begin with: repeated tokens for a head that looks for repetitions."""
    layer, head = (int(part) for part in picked.split("."))
    seeks = max(scores.get((metric, layer, head), {"value": 0.0})["value"] for metric in ("induction", "duplicate_token"))
    repeated = next((i for i, title in enumerate(titles) if title.startswith("Repeated")), 0)
    return repeated if seeks > SEEKING else 0


def _examples(run: Run, picked: str, titles: list[str], example: int) -> None:
    """The titles of the examples, each a link; the one in view is bold."""
    names = [
        element("b", f"{i} {title}") if i == example else anchor("head", f"{i} {title}", run=run.id, h=picked, ex=i)
        for i, title in enumerate(titles)
    ]
    st.html(element("p", "Examples: ", join(names, " · "), class_="quiet"))


def _facts(scores: Scores, layer: int, head: int) -> None:
    rows: list[tuple[object, object]] = []
    for metric in definitions.HEAD_METRICS:
        if row := scores.get((metric, layer, head)):
            rows.append((definitions.title(metric), Html(f"{score(row['value'])} <small class='quiet'>{interval(row)}</small>")))
    st.html(facts(rows))
    widgets.legend(value for metric, value in definitions.HEAD_METRICS.items() if (metric, layer, head) in scores)


def _pattern(run: Run, pattern: np.ndarray, texts: list[str], query: int) -> None:
    definition = "Row: the token that attends; column: the token that it attends to. Rows sum to 1; the chosen query is outlined."
    with widgets.panel("Attention pattern", definition, run, "patterns.safetensors"):
        st.plotly_chart(
            patterns.attention(pattern, texts, session.theme(), query), key="pattern", alt=f"Attention pattern of {len(texts)} tokens"
        )


def _keys(run: Run, pattern: np.ndarray, texts: list[str], query: int) -> None:
    with widgets.panel(
        f"What token {query} attends to",
        "The query is outlined; the other tokens are lit by the weight they get.",
        run,
        "patterns.safetensors",
    ):
        row = pattern[query].astype(float)
        st.html(strip([Token(t, float(row[i]) if i <= query else 0.0, f"{i}", i == query) for i, t in enumerate(texts)], 1.0))
        best = np.argsort(-row[: query + 1], kind="stable")[:KEYS]
        st.html(
            table(
                ("key", "token", "weight"), [(int(k), chip(texts[k]), meter(float(row[k]), f"{row[k]:.3f}")) for k in best], numeric=[0, 2]
            )
        )
    with widgets.panel(
        "Attention received", "Mean weight from all queries at or after the token: sinks stand out.", run, "patterns.safetensors"
    ):
        mean = patterns.received(pattern)
        st.html(strip([Token(t, float(mean[i]), f"{i}") for i, t in enumerate(texts)], 1.0))


def _layer(run: Run, weights: np.ndarray, layer: int, head: int, example: int) -> None:
    with widgets.panel(f"All heads of layer {layer}", "The same example; click one to open it.", run, "patterns.safetensors"):
        pictures = [
            anchor(
                "head",
                Html(patterns.thumbnail(weights[other], session.theme()) + f"{layer}.{other}"),
                class_="on" if other == head else None,
                run=run.id,
                h=f"{layer}.{other}",
                ex=example,
            )
            for other in range(len(weights))
        ]
        st.html(element("div", *pictures, class_="thumbs"))
