"""Explorer: all latents of a dictionary, filtered, sorted, page by page. Every filter is in the address."""

import numpy as np
import streamlit as st

from app import readers, session, widgets
from app.address import anchor, whole
from app.selection import LOWEST, PRESETS, SORTS, Selection
from interp.runs import Run
from interp.viz import histograms
from interp.viz.html import Html, element, meter, number, percent, table
from interp.viz.strip import chip
from saes.errors import InputError

ROWS = 25
MOST_POINTS = 20_000
TOKENS = 5


@widgets.page("explorer", "Explorer", "Every latent of a dictionary: filter, sort, open.")
def page() -> None:
    """Draw the page."""
    if widgets.no_runs("describe"):
        return
    left, right = st.columns((5, 1), vertical_alignment="center")
    with left:
        run = widgets.pick_run("describe")
    with right:
        widgets.provenance(run)
    st.html(widgets.subject(run))
    given = session.query()
    Selection.parse(session.parameters())
    whole(given.get("page"), "page", 1, 10**6)
    data = session.read(readers.latents, run)
    vocab = session.read(readers.vocabulary, session.tokens_run(run))
    _body(run, data, vocab)


@st.fragment
@widgets.guarded
def _body(run: Run, data: readers.Columns, vocab: readers.Vocabulary) -> None:
    chosen = _filters(data)
    ids = chosen.latents(data, vocab)
    left, right = st.columns(2)
    with left:
        _densities(run, data, chosen)
    with right:
        _scatter(run, data, ids)
    with widgets.panel(f"{len(ids):,} of {len(data['latent']):,} latents", PRESETS[chosen.preset].sentence, run, "latents.arrow"):
        if not len(ids):
            _nothing(run, chosen, data, vocab)
            return
        shown = _page_of(ids)
        st.html(_table(run, data, vocab, shown, chosen))
    session.remember("explorer")


def _filters(data: readers.Columns) -> Selection:
    first, second, third, fourth, fifth = st.columns((2, 2, 2, 1.4, 1.2), vertical_alignment="bottom")
    q = first.text_input("top token contains, or latent number", key="q", bind="query-params", max_chars=100, type="search")
    preset = second.selectbox(
        "preset", list(PRESETS), key="preset", bind="query-params", help="\n".join(f"- {k}: {p.sentence}" for k, p in PRESETS.items())
    )
    dens = third.slider("density (log10)", LOWEST, 0.0, (LOWEST, 0.0), 0.1, key="dens", bind="query-params")
    sort = fourth.selectbox("sort by", [s for s in SORTS if s in data], key="sort", bind="query-params")
    order = fifth.selectbox(
        "order", ("down", "up"), key="order", bind="query-params", help="Down: largest first; for the latent number, smallest first."
    )
    return Selection(q or "", preset, dens, sort, order)


def _densities(run: Run, data: readers.Columns, chosen: Selection) -> None:
    dead = int(data["dead"].sum())
    with widgets.panel(
        "Density", f"Share of tokens on which a latent is active. {dead:,} dead latents are not drawn.", run, "latents.arrow"
    ):
        bounds = chosen.dens if chosen.dens != (LOWEST, 0.0) else None
        figure = histograms.density_histogram(data["density"].astype(float), session.theme(), bounds)
        st.plotly_chart(figure, key="density", alt=f"Histogram of densities of {len(data['latent']) - dead} live latents")


def _scatter(run: Run, data: readers.Columns, ids: np.ndarray) -> None:
    live = ids[~data["dead"][ids]]
    # A regular sample: the same latents for the same filters.
    shown = live[:: max(1, -(-len(live) // MOST_POINTS))]
    with widgets.panel(
        "Density against strength",
        f"{len(shown):,} of {len(live):,} live latents in the list; click a point to open it.",
        run,
        "latents.arrow",
    ):
        density, highest, share = (data[name][shown].astype(float) for name in ("density", "max_act", "top_token_share"))
        figure = histograms.latent_scatter(shown, density, highest, share, "top token share", session.theme())
        event = st.plotly_chart(
            figure, key="map", on_select="rerun", selection_mode="points", alt=f"{len(shown)} latents by density and maximal activation"
        )
        for point in event["selection"]["points"][:1]:
            latent = int(point["customdata"][0])
            st.html(
                element(
                    "p",
                    "Chosen: ",
                    anchor("feature", f"latent {latent}", run=run.id, f=latent),
                    f", max {number(float(data['max_act'][latent]))}",
                )
            )


def _page_of(ids: np.ndarray) -> np.ndarray:
    pages = -(-len(ids) // ROWS)
    if pages > 1:
        st.session_state["page"] = min(int(st.session_state.get("page") or st.query_params.get("page") or 1), pages)
        left, middle, right = st.columns((6, 1, 1), vertical_alignment="center")
        with left:
            page = st.pagination(pages, key="page", bind="query-params")
        middle.button("Previous", shortcut="Left", on_click=session.step, args=("page", range(1, pages + 1), -1), width="stretch")
        right.button("Next", shortcut="Right", on_click=session.step, args=("page", range(1, pages + 1), 1), width="stretch")
    else:
        page = 1
    return ids[(page - 1) * ROWS : page * ROWS]


def _table(run: Run, data: readers.Columns, vocab: readers.Vocabulary, shown: np.ndarray, chosen: Selection) -> Html:
    rows = [_row(run, data, vocab, int(latent), chosen) for latent in shown]
    heads = ("latent", "density", "max", "top token", "share", "kurtosis", "nearest", "raises", "strongest example")
    return table(heads, rows, numeric=[1, 2, 4, 5])


def _row(run: Run, data: readers.Columns, vocab: readers.Vocabulary, i: int, chosen: Selection) -> list[object]:
    dead = bool(data["dead"][i])
    density, near = float(data["density"][i]), int(data["nearest"][i])
    bar = meter((np.log10(density) - LOWEST) / -LOWEST if density > 0 else 0, number(density))
    goal = {**chosen.parameters(), "run": run.id}
    return [
        anchor("feature", i, f=i, **goal),
        element("span", "dead", class_="badge warn") if dead else bar,
        number(float(data["max_act"][i])),
        chip(vocab.text(int(data["top_token"][i]))) if not dead else "–",
        percent(float(data["top_token_share"][i])) if not dead else "–",
        number(float(data["logit_kurtosis"][i])),
        Html(f"<span style='white-space:nowrap'>{anchor('feature', near, f=near, **goal)} {data['nearest_cos'][i]:.2f}</span>"),
        _raised(run, vocab, i),
        _example(run, vocab, i) if not dead else "never fired",
    ]


def _raised(run: Run, vocab: readers.Vocabulary, latent: int) -> Html | str:
    if not run.has("logits.safetensors"):
        return "–"
    ids = readers.row(run, "logits.safetensors", "top_ids", latent)[:TOKENS]
    return Html(" ".join(chip(vocab.text(int(t))) for t in ids))


def _example(run: Run, vocab: readers.Vocabulary, latent: int) -> Html | str:
    """The strongest example, eleven tokens before and four after."""
    try:
        rows = session.example_rows(run, latent)
    except InputError as error:
        return str(error)
    top = np.flatnonzero((rows["bucket"] == 0) & (rows["rank"] == 0)) if rows else np.zeros(0, int)
    if not len(top):
        return "–"
    at, start, seq = (int(rows[name][top[0]]) for name in ("pos", "start", "seq"))
    first, last = max(0, at - start - 11), at - start + 5
    tokens = readers.row(session.tokens_run(run), "tokens.safetensors", "tokens", seq)[start + first : start + last]
    texts = [vocab.text(int(t)) for t in tokens]
    return widgets.window(texts, rows["acts"][top[0]][first:last], float(rows["act"][top[0]]), seq, start + first, at)


def _nothing(run: Run, chosen: Selection, data: readers.Columns, vocab: readers.Vocabulary) -> None:
    """Say which filter removed most, and how to drop them all."""
    kept = {name: int(mask.sum()) for name, mask in chosen.masks(data, vocab).items()}
    worst = min(kept, key=lambda name: kept[name])
    clear = anchor("explorer", "clear all filters", run=run.id)
    st.html(
        element(
            "div",
            f"No latent passes all filters. The strictest one, {worst}, keeps {kept[worst]:,} of {len(data['latent']):,}: ",
            clear,
            class_="missing",
        )
    )
