"""`interp search`: which codes or latents mark what a regular expression marks. Reads run folders, loads no model."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from interp.reading import described
from interp.reading.index import Index
from interp.reading.search import FLOOR, By, Found, compared, marks
from interp.reading.text import Which, compiled
from interp.reading.topics import labels, topic_codes
from interp.reading.words import Lexicon
from interp.runs import Run
from interp.stages.base import Context
from saes.errors import InputError

_FIGURES = ("precision", "recall", "f1")
_WORDS = 5


@dataclass(frozen=True)
class Search:
    """Precision, recall and F1 of every code or latent as a detector of what a regular expression captures.

    The capture group marks tokens: those that share a byte with it. Codes are chosen on one half of the text and measured on the other,
    with 95 % intervals that allow for tokens of a text being alike. With `--within source` the group names the topic of a document instead.
    """

    run: tyro.conf.Positional[str]
    """A describe run; or a dictionary, or a cache run: then all that was described of it is searched."""
    regex: tyro.conf.Positional[str]
    """A regular expression as Python's re reads them, with one capture group, or none for the whole match."""
    within: Literal["text", "source"] = "text"
    """text: mark tokens. source: what is captured of where a document comes from is its topic, for example '^([^/]+)/'."""
    which: Which = "all"
    """Which tokens of a capture count."""
    by: By = "f1"
    """What the best codes are best at."""
    floor: float = FLOOR
    """Recall that a code must have to be ranked by precision."""
    top: int = 20
    """Codes to list; with `--within source`, of each topic."""

    def __post_init__(self) -> None:
        if self.top < 1:
            raise InputError(f"--top {self.top} lists nothing; give 1 or more")
        if not 0 <= self.floor <= 1:
            raise InputError(f"--floor {self.floor:g} is no recall; give a number from 0 to 1")
        compiled(self.regex)

    def __call__(self, ctx: Context) -> dict[str, Any] | None:
        started = time.monotonic()
        opened = [_Opened.of(run) for run in described.runs_of(ctx.root, self.run)]
        rows = self._topics(opened) if self.within == "source" else self._text(opened)
        tokens = max(each.index.n_tokens for each in opened)
        head = {"regex": self.regex, "runs": [each.run.id for each in opened], "tokens": tokens, **rows}
        answer = {**head, "seconds": round(time.monotonic() - started, 3)}
        if ctx.json:
            return answer
        _print(answer, self)
        return None

    def _text(self, opened: "list[_Opened]") -> dict[str, Any]:
        """How many tokens are marked, and the best codes of all dictionaries together."""
        rows, marked, masks = [], 0, {}
        for each in opened:
            if each.text not in masks:
                masks[each.text] = marks(described.text_of(each.run, len(each.index.keep)), self.regex, self.which)
            found = compared(each.index, masks[each.text])
            rows, marked = rows + list(self._rows(each, found)), max(marked, int(found.marked.sum()))
        return {"marked": marked, "best": self._best(rows)}

    def _topics(self, opened: "list[_Opened]") -> dict[str, Any]:
        """The best codes of each topic, of all dictionaries together."""
        rows: dict[str, list[dict[str, Any]]] = {}
        for each in opened:
            doc_of = described.tokens_of(each.run, len(each.index.keep), "doc_of").ravel()
            for topic, found in topic_codes(each.index, doc_of, labels(described.sources_of(each.run), self.regex)).items():
                rows.setdefault(topic, []).extend({"topic": topic, "marked": int(found.marked.sum()), **r} for r in self._rows(each, found))
        return {"topics": len(rows), "best": [row for found in rows.values() for row in self._best(found)]}

    def _rows(self, each: "_Opened", found: Found) -> "Iterator[dict[str, Any]]":
        """The best codes of one dictionary, each with its figures on the half that did not choose it."""
        chosen, measured, everywhere = found.chosen, found.held_out, found.everywhere
        for code in found.best(self.top, self.by, self.floor).tolist():
            row = {"run": each.run.id, "site": each.site, "code": code, "chosen": float(getattr(chosen, self.by).value[code])}
            row |= {"hits": int(measured.hits[code]), "active": int(measured.active[code])}
            row |= {"hits_all": int(everywhere.hits[code]), "active_all": int(everywhere.active[code])}
            for name in _FIGURES:
                shares = getattr(measured, name)
                row |= {f"{name}{end}": _finite(getattr(shares, part)[code]) for end, part in _ENDS.items()}
            yield row | {"words": each.words(code)}

    def _best(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return sorted(rows, key=lambda row: -row["chosen"])[: self.top]


_ENDS = {"": "value", "_low": "low", "_high": "high"}


@dataclass(frozen=True, eq=False)
class _Opened:
    """A describe run with its index."""

    run: Run
    index: Index
    lexicon: Lexicon

    @staticmethod
    def of(run: Run) -> "_Opened":
        index = Index.open(run)
        return _Opened(run, index, Lexicon(described.tokens_of(run, len(index.keep)).ravel(), index.keep.ravel()))

    @property
    def text(self) -> tuple[str, int]:
        """What names the text: dictionaries of one cache share it."""
        return described.cache_of(self.run).id, len(self.index.keep)

    @property
    def site(self) -> str:
        return str(self.run.parent("dictionary").config["config"].get("site", ""))

    def words(self, code: int) -> list[str]:
        """The tokens with the highest lift under a code."""
        words, texts = self.lexicon.under(self.index.codes.latents(code, code + 1)[0]), described.words_of(self.run)
        return [texts[int(token)].as_py() for token in words.ids[words.by_lift(_WORDS)]]


def _finite(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _print(answer: dict[str, Any], search: Search) -> None:
    """The best codes as a table under a sentence."""
    console, rows = Console(), answer["best"]
    console.width = max(console.width, 140)  # in a narrow terminal lines wrap; figures cut short would say nothing
    what = f"{answer['topics']} topics" if "topics" in answer else f"{answer['marked']:,} of {answer['tokens']:,} tokens marked"
    console.print(
        Text(f"{what} by {search.regex!r} in {answer['seconds']:.2f} s; chosen by {search.by} on one half, measured on the other")
    )
    if not rows:
        console.print("no code is active there")
        return
    table = Table(box=None)
    columns = [*(["topic"] if "topics" in answer else []), "code", *(["site"] if len({row["site"] for row in rows}) > 1 else [])]
    for column in (columns := [*columns, "hits", "active", *_FIGURES, "tokens by lift"]):
        table.add_column(column, justify="right" if column in ("hits", "active") else "left", no_wrap=True, overflow="ellipsis")
    for row in rows:
        cells = {**row, "code": f"{row['run']}:f:{row['code']}", "tokens by lift": " ".join(map(repr, row["words"]))}
        cells |= {name: _interval(row, name) for name in _FIGURES} | {name: f"{row[name]:,}" for name in ("hits", "active")}
        table.add_row(*(Text(str(cells[column])) for column in columns))
    console.print(table)


def _interval(row: dict[str, Any], name: str) -> str:
    value, low, high = (row[f"{name}{end}"] for end in _ENDS)
    return "–" if value is None else f"{value:.3f} [{low:.2f}, {high:.2f}]"
