"""Explorer: all latents of a dictionary, filtered, sorted, page by page. Every filter is in the address."""

import numpy as np
import streamlit as st

from app import definitions, readers, session, widgets
from app.address import anchor, whole
from app.dictionaries import Dictionary
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
    run = widgets.opened("describe")
    if run is None:
        return
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
    words = widgets.dictionary(run.parent("dictionary"))
    chosen = _filters(data, words.noun)
    ids = chosen.latents(data, vocab)
    left, right = st.columns(2)
    with left:
        _densities(run, data, chosen, words.noun)
    with right:
        _scatter(run, data, ids, words)
    with widgets.panel(f"{len(ids):,} of {len(data['latent']):,} {words.noun}s", _sentence(chosen, data), run, "latents.arrow"):
        if not len(ids):
            _nothing(run, chosen, data, vocab)
            return
        shown = _page_of(ids)
        rows = [_row(run, data, vocab, int(latent), chosen, words) for latent in shown]
        heads = _filled(rows)
        numeric = [heads.index(name) for name in ("density", "max", "share", "kurtosis") if name in heads]
        st.html(table(heads, [[row.get(name, "–") for name in heads] for row in rows], numeric=numeric))
        widgets.legend((name, meaning) for name, meaning in definitions.LISTED if name in heads)
        widgets.lacks(run, "examples.parquet", "examples")
    session.remember("explorer")


def _sentence(chosen: Selection, data: readers.Columns) -> str:
    """What is listed; a column without any value cannot order it."""
    empty = chosen.sort in data and not _known(data, chosen.sort)
    order = f" Nothing here has a value of {SORTS[chosen.sort]}: they are in the order of their numbers." if empty else ""
    return PRESETS[chosen.preset].sentence + order


def _known(data: readers.Columns, name: str) -> bool:
    """Whether a column has any value: a transcoder has no cosine of encoder and decoder, some sites have no logits."""
    return name in data and not np.isnan(data[name].astype(float)).all()


def _filters(data: readers.Columns, noun: str) -> Selection:
    first, second, third, fourth, fifth = st.columns((2, 2, 2, 1.4, 1.2), vertical_alignment="bottom")
    q = first.text_input(f"top token contains, or {noun} number", key="q", bind="query-params", max_chars=100, type="search")
    preset = second.selectbox(
        "preset", list(PRESETS), key="preset", bind="query-params", help="\n".join(f"- {k}: {p.sentence}" for k, p in PRESETS.items())
    )
    dens = third.slider("density (log10)", LOWEST, 0.0, (LOWEST, 0.0), 0.1, key="dens", bind="query-params")
    sort = fourth.selectbox("sort by", [s for s in SORTS if s in data], key="sort", bind="query-params")
    order = fifth.selectbox(
        "order", ("down", "up"), key="order", bind="query-params", help="Down: largest first; for the latent number, smallest first."
    )
    return Selection(q or "", preset, dens, sort, order)


def _densities(run: Run, data: readers.Columns, chosen: Selection, noun: str) -> None:
    dead = int(data["dead"].sum())
    definition = f"Share of tokens on which a {noun} is active." + (f" Not drawn: {dead:,} dead." if dead else "")
    with widgets.panel("Density", definition, run, "latents.arrow"):
        bounds = chosen.dens if chosen.dens != (LOWEST, 0.0) else None
        figure = histograms.density_histogram(data["density"].astype(float), session.theme(), bounds)
        st.plotly_chart(figure, key="density", alt=f"Histogram of densities of {len(data['latent']) - dead} live latents")


def _scatter(run: Run, data: readers.Columns, ids: np.ndarray, words: Dictionary) -> None:
    """Density against strength; where all are equally strong, against how much one token has of it."""
    live = ids[~data["dead"][ids]]
    # A regular sample: the same latents for the same filters.
    shown = live[:: max(1, -(-len(live) // MOST_POINTS))]
    title, height, shade = (
        ("top token", "top_token_share", "token_entropy") if words.constant else ("strength", "max_act", "top_token_share")
    )
    shade = shade if shade in data else "density"
    sentence = f"{len(shown):,} of {len(live):,} live {words.noun}s in the list; click a point to open it."
    with widgets.panel(f"Density against {title}", sentence, run, "latents.arrow"):
        x, y, colour = (data[name][shown].astype(float) for name in ("density", height, shade))
        figure = histograms.latent_scatter(shown, (x, y, colour), (SORTS[height], SORTS[shade]), session.theme())
        alt = f"{len(shown)} {words.noun}s by density and {SORTS[height]}"
        event = st.plotly_chart(figure, key="map", on_select="rerun", selection_mode="points", alt=alt)
        for point in event["selection"]["points"][:1]:
            latent = int(point["customdata"][0])
            goal = anchor("feature", f"{words.noun} {latent}", run=run.id, f=latent)
            st.html(element("p", "Chosen: ", goal, f", max {number(float(data['max_act'][latent]))}"))


def _page_of(ids: np.ndarray) -> np.ndarray:
    pages = -(-len(ids) // ROWS)
    if pages > 1:
        if int(st.session_state.get("page") or st.query_params.get("page") or 1) > pages:
            st.session_state["page"] = pages
        left, middle, right = st.columns((6, 1, 1), vertical_alignment="center")
        with left:
            page = st.pagination(pages, key="page", bind="query-params")
        middle.button("Previous", shortcut="Left", on_click=session.step, args=("page", range(1, pages + 1), -1), width="stretch")
        right.button("Next", shortcut="Right", on_click=session.step, args=("page", range(1, pages + 1), 1), width="stretch")
    else:
        page = 1
    return ids[(page - 1) * ROWS : page * ROWS]


def _filled(rows: list[dict[str, object]]) -> list[str]:
    """Columns in their order, without those that this dictionary cannot fill."""
    return [name for name in dict.fromkeys(name for row in rows for name in row) if any(row.get(name, "–") != "–" for row in rows)]


def _row(run: Run, data: readers.Columns, vocab: readers.Vocabulary, i: int, chosen: Selection, words: Dictionary) -> dict[str, object]:
    """Column to cell; an en dash where there is nothing."""
    dead = bool(data["dead"][i])
    density, near = float(data["density"][i]), int(data["nearest"][i])
    bar = meter((np.log10(density) - LOWEST) / -LOWEST if density > 0 else 0, number(density))
    goal = {**chosen.parameters(), "run": run.id}
    nearest = Html(f"<span style='white-space:nowrap'>{anchor('feature', near, f=near, **goal)} {data['nearest_cos'][i]:.2f}</span>")
    return {
        words.noun: anchor("feature", i, f=i, **goal),
        "place": element("span", words.note(i), style="white-space:nowrap") if words.note(i) else "–",
        "density": element("span", "dead", class_="badge warn") if dead else bar,
        "max": number(float(data["max_act"][i])) if not words.constant else "–",
        "top token": chip(vocab.text(int(data["top_token"][i]))) if not dead else "–",
        "share": percent(float(data["top_token_share"][i])) if not dead else "–",
        "kurtosis": number(float(data["logit_kurtosis"][i])),
        "nearest": nearest if near >= 0 else "–",
        "raises": _raised(run, vocab, i),
        "one example" if words.constant else "strongest example": _example(run, vocab, i) if not dead else "never fired",
    }


def _raised(run: Run, vocab: readers.Vocabulary, latent: int) -> Html | str:
    if not run.has("logits.safetensors"):
        return "–"
    ids = readers.row(run, "logits.safetensors", "top_ids", latent)[:TOKENS]
    return Html(" ".join(chip(vocab.text(int(t))) for t in ids))


def _example(run: Run, vocab: readers.Vocabulary, latent: int) -> Html | str:
    """The strongest example, eleven tokens before and four after."""
    if not run.has("examples.parquet"):
        return "–"
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
