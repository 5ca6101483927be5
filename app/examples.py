"""The stored examples of a latent as lines of highlighted tokens."""

import numpy as np
import streamlit as st

from app import definitions, readers, session, widgets
from app.address import choice
from app.dictionaries import Dictionary
from interp.runs import Run
from interp.viz.html import element, number, table
from interp.viz.strip import Token, strip

WIDTHS = {"short": 12, "medium": 32, "full": 10**6}
MOST_ROWS = 40


def check() -> None:
    """Raises InputError for bad parameters of the panel."""
    given = session.query()
    choice(given.get("group"), "group", definitions.GROUPS)
    choice(given.get("width"), "width", WIDTHS)


def draw(run: Run, data: readers.Columns, vocab: readers.Vocabulary, latent: int, words: Dictionary) -> None:
    strong = "darker" if session.theme().name == "light" else "brighter"
    alike = f"All are equally strong: “random” is the fair sample of a {words.noun} with one value."
    strength = alike if words.constant else f"{strong.capitalize()} and underlined thicker is stronger."
    definition = f"The outlined token is the sampled one. {strength}"
    with widgets.panel("Examples", definition, run, "examples.parquet"):
        if widgets.lacks(run, "examples.parquet", "examples"):
            return
        with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
            group = (
                st.segmented_control("sample", list(definitions.GROUPS), default="top", key="group", bind="query-params", required=True)
                or "top"
            )
            width = (
                st.segmented_control("context", list(WIDTHS), default="medium", key="width", bind="query-params", required=True) or "medium"
            )
            folded = st.toggle("fold equal windows", value=True, key="fold", bind="query-params")
        buckets, sentence = definitions.GROUPS[group]
        st.html(element("p", sentence, class_="quiet"))
        rows = session.example_rows(run, latent)
        picked = ordered(rows, buckets, folded) if rows else []
        if not picked:
            st.html(element("p", "No example of this kind is stored for this latent.", class_="quiet"))
            return
        scale = float(data["max_act"][latent])
        lines = [_line(run, vocab, rows, i, scale, WIDTHS[width], copies) for i, copies in picked[:MOST_ROWS]]
        st.html(table(("value", "at", "text"), lines, numeric=[0], class_="grid examples"))
        widgets.legend(definitions.EXAMPLE)


def ordered(rows: readers.Columns, buckets: tuple[int, ...], folded: bool) -> list[tuple[int, int]]:
    """Rows of the buckets in their order, as (row, number of equal windows that it stands for)."""
    wanted = [
        int(i) for b in buckets for i in np.flatnonzero(rows["bucket"] == b)[np.argsort(rows["rank"][rows["bucket"] == b], kind="stable")]
    ]
    if not folded:
        return [(i, 1) for i in wanted]
    counts: dict[tuple[int, int], list[int]] = {}
    for i in wanted:
        counts.setdefault((int(rows["bucket"][i]), int(rows["fold"][i])), []).append(i)
    return [(same[0], len(same)) for same in counts.values()]


def _line(run: Run, vocab: readers.Vocabulary, rows: readers.Columns, i: int, scale: float, width: int, copies: int) -> list[object]:
    """One example: its value, its place, its tokens. Outside the stored window tokens are shown without activations."""
    seq, pos, start, bucket = (int(rows[name][i]) for name in ("seq", "pos", "start", "bucket"))
    tokens = readers.row(session.tokens_run(run), "tokens.safetensors", "tokens", seq)
    acts = np.zeros(len(tokens))
    acts[start : start + rows["acts"].shape[1]] = rows["acts"][i][: len(tokens) - start]
    first, last = _cut(len(tokens), start, rows["acts"].shape[1], pos, width)
    drawn = [Token(vocab.text(int(tokens[p])), float(acts[p]), f"{seq}:{p}", p == pos) for p in range(first, last)]
    kind = definitions.BUCKETS.get(bucket, str(bucket)) + (f" ×{copies}" if copies > 1 else "")
    return [
        number(float(rows["act"][i])),
        element("span", f"{seq}:{pos} ", element("small", kind), class_="quiet", style="white-space:nowrap"),
        strip(drawn, scale),
    ]


def _cut(length: int, start: int, stored: int, pos: int, width: int) -> tuple[int, int]:
    """First and last token to draw: the whole sequence, the stored window, or a few tokens around the sampled one."""
    if width >= length:
        return 0, length
    if width >= stored:
        return start, min(length, start + stored)
    first = max(start, pos - width * 3 // 4)
    return first, min(length, start + stored, first + width)
