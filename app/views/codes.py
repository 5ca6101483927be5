"""Codes: how evenly the codes of a dictionary are used, which of them mark what a regular expression marks, and what one stands for."""

import numpy as np
import streamlit as st

from app import examples, readers, reading, session, widgets
from app.address import anchor, choice, whole
from app.dictionaries import Dictionary
from interp.features.codes import INDEX, KEPT
from interp.reading.intervals import Shares
from interp.reading.search import BY, By, Found
from interp.reading.text import LONGEST, WHICH, Which
from interp.reading.usage import usage
from interp.reading.words import LEAST, Words
from interp.runs import Run
from interp.viz.html import Html, element, meter, number, percent, table
from interp.viz.strip import chip
from interp.viz.usage import rank_plot

LISTED, BEST, MOST_BOOKS = 12, 20, 12
EXAMPLE = r"(?:not|never)( \w+)"


@widgets.page("codes", "Codes", "How the codes of a dictionary are used, what a regular expression finds among them, what one stands for.")
def page() -> None:
    """Draw the page."""
    run = widgets.opened("describe")
    if run is None:
        return
    st.html(widgets.subject(run))
    data = session.read(readers.latents, run)
    given = session.query()
    whole(given.get("c"), "c", 0, len(data["latent"]) - 1)
    choice(given.get("which"), "which", WHICH)
    choice(given.get("by"), "by", BY)
    examples.check()
    _body(run, data)


@st.fragment
@widgets.guarded
def _body(run: Run, data: readers.Columns) -> None:
    vocab = session.read(readers.vocabulary, session.tokens_run(run))
    words = widgets.dictionary(run.parent("dictionary"))
    session.default("c", int(data["n_active"].argmax()))
    left, right = st.columns((2, 3))
    with left:
        _usage(run, data, words)
    with right:
        _search(run, data, vocab, words)
    code = int(st.number_input(words.noun, 0, len(data["latent"]) - 1, value=None, step=1, key="c", bind="query-params", format="%d") or 0)
    title = element("h2", words.called(code), style="padding:0;font-size:1.25rem")
    st.html(element("div", title, anchor("feature", f"statistics and logits of this {words.noun}", run=run.id, f=code), class_="panel"))
    left, right = st.columns((2, 3))
    with left:
        _tokens(run, data, vocab, code, words)
        _beside(run, data, vocab, code, words)
    with right:
        examples.draw(run, data, vocab, code, words)
    session.remember("codes")


def _usage(run: Run, data: readers.Columns, words: Dictionary) -> None:
    n_active = data["n_active"].astype(np.int64)
    books = reading.books(words, len(n_active))
    definition = (
        f"Active tokens of each live {words.noun}, the most used first. Perplexity: so many equally used {words.noun}s are as even."
    )
    with widgets.panel("Usage", definition, run, "latents.arrow"):
        st.plotly_chart(rank_plot(list(n_active.reshape(books, -1)), session.theme()), key="ranks", alt=f"Use of {words.noun}s by rank")
        found = usage(n_active, books)
        rows = [
            (
                i,
                f"{book.codes:,}",
                f"{book.dead:,} ({percent(book.dead / book.codes)})",
                meter(book.perplexity / book.codes, f"{book.perplexity:,.1f}"),
                percent(book.top_share),
            )
            for i, book in enumerate(found[:MOST_BOOKS])
        ]
        st.html(table(("book", f"{words.noun}s", "dead", "perplexity", "most used 1 %"), rows, numeric=(0, 1, 2, 3, 4)))
        if len(found) > MOST_BOOKS:
            st.html(element("p", f"The first {MOST_BOOKS} of {len(found)} books.", class_="quiet"))


def _lacks_index(run: Run) -> bool:
    """Draw the command that makes an index where there is none; true when it did."""
    if run.has(f"{INDEX}/{KEPT}"):
        return False
    sentence = "This description was made without an index of its codes. This command describes the dictionary with one."
    widgets.missing(sentence, f"interp describe {run.parent('dictionary').id}")
    return True


def _search(run: Run, data: readers.Columns, vocab: readers.Vocabulary, words: Dictionary) -> None:
    definition = (
        f"The capture group marks tokens. {words.noun.capitalize()}s are chosen on one half of the text and measured on the other half; "
        "95 % intervals allow for tokens of a text being alike."
    )
    with widgets.panel("Regular expression", definition, run, INDEX):
        if _lacks_index(run):
            return
        first, second, third = st.columns((4, 2, 2.4), vertical_alignment="bottom")
        asked = first.text_input("regular expression with one group", key="rx", bind="query-params", max_chars=LONGEST, placeholder=EXAMPLE)
        which: Which = second.segmented_control("tokens", WHICH, default="all", key="which", bind="query-params", required=True) or "all"
        by: By = third.segmented_control("best by", BY, default="f1", key="by", bind="query-params", required=True) or "f1"
        if not asked:
            goal = anchor("codes", EXAMPLE, run=run.id, rx=EXAMPLE)
            st.html(element("p", "For example ", goal, ": the word after a negation.", class_="quiet"))
            return
        found = reading.search(run, asked, which)
        marked, tokens = int(found.marked.sum()), reading.index(run).n_tokens
        st.html(element("p", f"{marked:,} of {tokens:,} tokens marked, {int(found.marked[1::2].sum()):,} of them in the measured half."))
        best = found.best(BEST, by)
        if not len(best):
            st.html(element("div", f"No {words.noun} is active on a marked token of the half that chooses.", class_="missing"))
            return
        rows = [_found(run, data, vocab, found, int(code), (asked, which, by)) for code in best]
        heads = (words.noun, "marked", "active", "precision", "recall", "F1", "top token")
        st.html(table(heads, rows, numeric=(1, 2, 3, 4, 5)))


def _found(
    run: Run, data: readers.Columns, vocab: readers.Vocabulary, found: Found, code: int, asked: tuple[str, Which, By]
) -> tuple[object, ...]:
    pattern, which, by = asked
    scores = found.held_out
    figures = (_interval(shares, code) for shares in (scores.precision, scores.recall, scores.f1))
    goal = anchor("codes", code, run=run.id, rx=pattern, which=which, by=by, c=code)
    return goal, f"{scores.hits[code]:,}", f"{scores.active[code]:,}", *figures, chip(vocab.text(int(data["top_token"][code])))


def _interval(shares: Shares, code: int) -> Html:
    """A share with its interval in small print."""
    value = float(shares.value[code])
    if np.isnan(value):
        return Html("–")
    return Html(f"{value:.3f} {element('small', f'{shares.low[code]:.2f} to {shares.high[code]:.2f}', class_='quiet')}")


def _tokens(run: Run, data: readers.Columns, vocab: readers.Vocabulary, code: int, words: Dictionary) -> None:
    definition = f"Lift: how many times more often than in the whole text, of tokens with {LEAST} places or more under the {words.noun}."
    with widgets.panel("Tokens", definition, run, INDEX):
        if _lacks_index(run):
            return
        if data["dead"][code]:
            st.html(element("div", f"Dead: this {words.noun} was never active.", class_="missing"))
            return
        under = reading.words(run, code)
        left, right = st.columns(2)
        with left:
            st.html(element("h4", "by count"))
            _listed(vocab, under, under.by_count(LISTED))
        with right:
            st.html(element("h4", "by lift"))
            _listed(vocab, under, under.by_lift(LISTED))


def _listed(vocab: readers.Vocabulary, under: Words, places: np.ndarray) -> None:
    rows = [
        (chip(vocab.text(int(under.ids[i]))), f"{under.count[i]:,}", percent(float(under.share[i])), number(float(under.lift[i])))
        for i in places
    ]
    if rows:
        st.html(table(("token", "places", "share", "lift"), rows, numeric=(1, 2, 3)))
    else:
        st.html(element("p", f"No token has {LEAST} places.", class_="quiet"))


def _beside(run: Run, data: readers.Columns, vocab: readers.Vocabulary, code: int, words: Dictionary) -> None:
    definition = f"{words.noun.capitalize()}s active on the same token, and on the next one; phi is the correlation over all tokens."
    with widgets.panel("Together", definition, run, INDEX):
        if _lacks_index(run):
            return
        for column, title, later in zip(st.columns(2), ("same token", "next token"), (0, 1), strict=True):
            near = reading.beside(run, code, later)
            places = near.nearest(code, LISTED)
            rows = [
                (anchor("codes", i, run=run.id, c=i), chip(vocab.text(int(data["top_token"][i]))), f"{near.n[i]:,}", f"{near.phi[i]:.2f}")
                for i in map(int, places)
            ]
            with column:
                st.html(element("h4", title))
                st.html(table((words.noun, "top token", "tokens", "phi"), rows, numeric=(2, 3)) if rows else element("p", "none"))
