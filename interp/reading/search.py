"""Which codes mark what a regular expression marks: precision, recall and F1, chosen on one half and measured on the other."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Int

from interp.reading import intervals
from interp.reading.index import Index
from interp.reading.intervals import Shares
from interp.reading.text import Text, Which, captures

By = Literal["f1", "precision", "recall"]
BY: tuple[By, ...] = get_args(By)
# A code that fires once is 100 % precise: codes are ranked by precision from this recall on (codebook features, section 4).
FLOOR = 0.01


@dataclass(frozen=True)
class Scores:
    """What some codes are worth as detectors of the marked tokens."""

    hits: Int[np.ndarray, " code"]
    """Marked tokens on which the code is active."""
    active: Int[np.ndarray, " code"]
    """Tokens on which it is active."""
    precision: Shares
    recall: Shares
    f1: Shares


@dataclass(frozen=True, eq=False)
class Found:
    """Counts of every code against some marked tokens, by group."""

    hits: Int[np.ndarray, "group code"]
    active: Int[np.ndarray, "group code"]
    marked: Int[np.ndarray, " group"]

    @cached_property
    def everywhere(self) -> Scores:
        """Every code on all tokens."""
        return self._scores(slice(None))

    @cached_property
    def chosen(self) -> Scores:
        """Every code on the even groups, on which codes are chosen."""
        return self._scores(slice(0, None, 2))

    @cached_property
    def held_out(self) -> Scores:
        """Every code on the odd groups, which had no part in the choice."""
        return self._scores(slice(1, None, 2))

    def best(self, n: int, by: By = "f1", floor: float = FLOOR) -> Int[np.ndarray, " code"]:
        """The n best codes on the even groups, with at least one hit there; equal ones by hits, then by number."""
        scores = self.chosen
        worth = np.nan_to_num({"f1": scores.f1, "precision": scores.precision, "recall": scores.recall}[by].value)
        able = (scores.hits > 0) & ((np.nan_to_num(scores.recall.value) >= floor) | (by != "precision"))
        return np.lexsort((-scores.hits, -worth * able))[: min(n, int(able.sum()))]

    def _scores(self, groups: slice) -> Scores:
        hits, active, marked = self.hits[groups], self.active[groups], self.marked[groups, None]
        precision, recall = intervals.share(hits, active), intervals.share(hits, marked)
        return Scores(hits.sum(0), active.sum(0), precision, recall, intervals.f1(hits, active, marked))


def marks(text: Text, pattern: str, which: Which = "all") -> Bool[np.ndarray, " position"]:
    """The tokens that the capture group of a pattern covers. Raises InputError for a pattern that cannot be read."""
    return text.covered(captures(pattern, text.rows), which)


def compared(index: Index, marked: Bool[np.ndarray, " position"]) -> Found:
    """Every code against the marked tokens, as far as they count."""
    counted = marked & index.keep.ravel()
    return Found(index.hits(counted), index.active, index.grouped(counted))
