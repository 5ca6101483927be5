"""Which trainings the Runs page draws: some runs, and all that differ from one of them only in certain fields.

Both are in the address, as `sel` and `vary`. So a grid is cited by one of its members and the fields that it varies, and what finishes
later joins it.
"""

from collections.abc import Mapping, Sequence

import streamlit as st

from app import families, readers, session
from app.address import choice
from app.trainings import Training, in_order
from interp.runs import find_run
from interp.viz.html import element

# More lines than this take seconds to draw and show nothing.
MOST = 100


def draw(found: Mapping[str, Training]) -> tuple[list[Training], list[Training]]:
    """The controls; returns the chosen runs, and all that are to be drawn. Raises InputError for a bad address."""
    for name in st.query_params.get_all("sel"):
        session.open_run(name, "train")
    if "sel" not in st.query_params:
        newest = next(iter(found.values()))
        session.default("sel", [newest.id])
        session.default("vary", _varied(found, newest.activations))
    now = [found[name] for name in st.session_state.get("sel", st.query_params.get_all("sel")) if name in found]
    _shortcuts(found, now)
    left, right = st.columns((3, 4), vertical_alignment="bottom")
    picked = left.multiselect("runs", list(found), key="sel", bind="query-params")
    label, options = "and all runs that differ from one of them only in", _options(found, now)
    vary = right.pills(label, options, selection_mode="multi", key="vary", bind="query-params") if options else []
    drawn = [found[name] for name in families.relatives(picked, {name: t.fields for name, t in found.items()}, vary)]
    if drawn:
        _sentence([found[name] for name in picked], drawn)
    drawn.sort(key=lambda t: t.id not in picked)
    return [found[name] for name in picked], in_order(drawn[:MOST])


def _options(found: Mapping[str, Training], now: Sequence[Training]) -> list[str]:
    """Fields that can be let free: those in which the runs on the same activations differ, those of the address, the activations."""
    asked = st.query_params.get_all("vary")
    known = dict.fromkeys(name for t in found.values() for name in t.fields)
    for name in asked:
        choice(name, "vary", known)
    caches = {t.activations for t in now}
    near = families.differing([t.fields for t in found.values() if t.activations in caches])
    far = [families.ACTIVATIONS] if len({t.activations for t in found.values()}) > 1 else []
    return list(dict.fromkeys([*near, *far, *asked]))


def _varied(found: Mapping[str, Training], activations: str) -> list[str]:
    """The fields in which the runs on the same activations differ."""
    return families.differing([t.fields for t in found.values() if t.activations == activations])


def _shortcuts(found: Mapping[str, Training], now: Sequence[Training]) -> None:
    """Pick a family by its activations, or add a run by its words: both change only what is chosen below them."""
    caches = list(dict.fromkeys(t.activations for t in found.values()))
    st.session_state["_cache"] = here = now[0].activations if now else caches[0]
    counts = {cache: sum(t.activations == cache for t in found.values()) for cache in caches}
    titles = {cache: f"{_cache(cache)} · {n} {'dictionary' if n == 1 else 'dictionaries'}" for cache, n in counts.items()}
    near = in_order([t for t in found.values() if t.activations == here])
    words = {t.id: f"{_words(t)} · {t.id}" for t in near}
    left, right = st.columns((3, 4), vertical_alignment="bottom")
    left.selectbox("trained on", caches, key="_cache", format_func=titles.__getitem__, on_change=_change, args=(found,))
    right.selectbox("add a run", words, index=None, key="_add", format_func=words.__getitem__, on_change=_add, placeholder="by its name")


def _change(found: Mapping[str, Training]) -> None:
    cache = st.session_state["_cache"]
    st.session_state["sel"] = [next(t.id for t in found.values() if t.activations == cache)]
    st.session_state["vary"] = _varied(found, cache)


def _add() -> None:
    name, chosen = st.session_state["_add"], st.session_state["sel"]
    st.session_state["_add"] = None
    if name and name not in chosen:
        st.session_state["sel"] = [*chosen, name]


def _cache(name: str) -> str:
    """Model and text of a cache run."""
    found = find_run(session.root(), name) if name else None
    if found is None:
        return f"{name or 'unknown activations'} (gone)"
    config = session.glance(readers.config, found)
    return f"{config.get('model', '?')} · {config.get('text', '?')} · {name}"


def _words(t: Training) -> str:
    """A training in words, its seed told where it is not the first."""
    seed = t.fields.get("seed")
    return t.dictionary.name + (f" · seed {seed}" if seed else "")


def _sentence(picked: Sequence[Training], drawn: Sequence[Training]) -> None:
    """What was chosen, how many there are with its relatives, how they differ, and what they share."""
    runs = [t.fields for t in drawn]
    names = families.differing(runs)
    chosen = " and ".join(_words(t) for t in picked[:2]) + (f" and {len(picked) - 2} more" if len(picked) > 2 else "")
    many = f"{len(drawn)} runs" + (f", which differ in {families.spread(runs, names)}." if names else ", equal in every field.")
    shared = [n for n in (*families.FIRST, "epochs", "batch_size") if n not in names and runs[0].get(n)]
    same = families.told(runs[0], shared)
    text = f" In view: {many}" + (f" All of them: {same}." if same else "") if len(drawn) > 1 else ""
    over = f" Drawn are the newest {MOST}: switch a field off to see fewer." if len(drawn) > MOST else ""
    st.html(element("p", element("b", chosen), ".", text, over, class_="quiet"))
