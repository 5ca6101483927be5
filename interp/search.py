"""`interp search`: which codes or latents mark what a regular expression marks. Reads run folders, loads no model."""

import dataclasses
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text as Line

from interp import runs
from interp.reading.index import Index, cache_of, described_text, described_tokens, vocabulary_of
from interp.reading.search import FLOOR, By, Found, Scores, compared, marks
from interp.reading.text import Text, Which, compiled
from interp.reading.topics import labels, topic_codes
from interp.reading.words import Lexicon
from interp.runs import Run
from interp.stages.base import Context
from saes.errors import InputError

_FIGURES = ("precision", "recall", "f1")


@dataclass(frozen=True)
class Search:
    """Precision, recall and F1 of every code or latent as a detector of what a regular expression captures.

    `interp search RUN '(?:not|never) (\\w+)'`: the capture group marks tokens, all those that share a byte with it. Codes are chosen on one half of
    the text and measured on the other, with intervals that allow for tokens of a text being alike. With `--within source` the group names
    the topic of a document, from where it came: the codes of each topic.
    """

    run: tyro.conf.Positional[str]
    """A describe run; or what was described: a dictionary, or a cache run with all its dictionaries."""
    regex: tyro.conf.Positional[str]
    """A regular expression as Python's `re` reads it, with one capture group, or none for the whole match."""
    within: Literal["text", "source"] = "text"
    """Search the text, or take what the regex captures of a document's source as its topic, for example '^([^/]+)/'."""
    which: Which = "all"
    """Which tokens of a capture count."""
    by: By = "f1"
    """What the best codes are best at."""
    floor: float = FLOOR
    """Recall that a code must have to be ranked by precision."""
    top: int = 20
    """Codes to list, in all; of every topic with `--within source`."""

    def __post_init__(self) -> None:
        if self.top < 1:
            raise InputError(f"--top {self.top} lists nothing; give 1 or more")
        if not 0 <= self.floor <= 1:
            raise InputError(f"--floor {self.floor:g} is no recall; give a number from 0 to 1")
        compiled(self.regex)

    def __call__(self, ctx: Context) -> dict[str, Any] | None:
        started = time.monotonic()
        described = described_runs(ctx, self.run)
        found = self._topics(described) if self.within == "source" else self._text(described)
        head = {"regex": self.regex, "within": self.within, "which": self.which, "by": self.by, "runs": [run.id for run in described]}
        answer = {**head, **found, "seconds": round(time.monotonic() - started, 3)}
        if ctx.json:
            return answer
        _print(answer)
        return None

    def _text(self, described: list[Run]) -> dict[str, Any]:
        """Counts of marked tokens, and the best codes of all runs together."""
        rows, texts, counted = [], {}, {}
        for run in described:
            index = Index.open(run)
            key = (cache_of(run).id, len(index.keep))
            if key not in texts:
                text = texts[key] = described_text(run, len(index.keep))
                counted[key] = marks(text, self.regex, self.which)
            found = compared(index, counted[key])
            rows += list(_rows(run, index, found, self))
        marked = sum(int((mask & index.keep.ravel()).sum()) for mask in list(counted.values())[:1])
        return {"tokens": index.n_tokens, "marked": marked, "best": _sorted(rows, self)}

    def _topics(self, described: list[Run]) -> dict[str, Any]:
        """The best codes of each topic."""
        best: dict[str, list[dict[str, Any]]] = {}
        sizes: dict[str, int] = {}
        for run in described:
            index, topics = Index.open(run), labels(run, self.regex)
            for topic, found in topic_codes(run, index, topics).items():
                sizes[topic] = int(found.marked.sum())
                best.setdefault(topic, []).extend(_rows(run, index, found, self))
        rows = [{"topic": topic, "topic_tokens": sizes[topic], **row} for topic in best for row in _sorted(best[topic], self)]
        return {"tokens": index.n_tokens, "topics": len(best), "best": rows}


def described_runs(ctx: Context, name: str) -> list[Run]:
    """The describe runs that a name stands for: itself, or the newest of every dictionary that was made from it, at any distance."""
    run = runs.open_run(ctx.root, name)
    if run.stage == "describe":
        return [run]
    newest = {d.config["parents"]["dictionary"]: d for d in reversed(runs.list_runs(ctx.root, "describe")) if _descends(d, run.id)}
    if not newest:
        made = "`interp train` makes dictionaries of it, `interp describe` describes them" if run.stage == "cache" else f"run `interp describe {run.id}`"
        raise InputError(f"nothing that was made from {run.id} is described; {made}")
    return sorted(newest.values(), key=lambda found: found.id)


def _descends(run: Run, ancestor: str) -> bool:
    parents = run.config["parents"].values()
    found = (runs.find_run(run.path.parent, name) for name in parents)
    return ancestor in parents or any(_descends(parent, ancestor) for parent in found if parent)
