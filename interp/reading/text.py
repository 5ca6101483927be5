"""The text of cached sequences, and which tokens a match in it covers, exact to the byte.

A token need not be whole characters: `é` may be two tokens, and a sequence may begin in the middle of an emoji. Bytes that are no UTF-8
stand in the text as one lone surrogate each (PEP 383), so every character knows its bytes, and a token belongs to a match that shares a
byte with it.
"""

import itertools
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import regex
from jaxtyping import Bool, Int

from saes.errors import InputError

Which = Literal["all", "first", "last"]
WHICH: tuple[Which, ...] = get_args(Which)
LONGEST = 500
# A pattern that backtracks without end is given up after so many seconds.
PATIENCE = 10.0


@dataclass(frozen=True, eq=False)
class Text:
    """The text of a token matrix, one string a sequence."""

    rows: tuple[str, ...]
    token_bytes: Int[np.ndarray, " token"]
    """Bytes of each token, all sequences one after the other."""

    @staticmethod
    def of(tokens: Int[np.ndarray, "seq context"], raw: Sequence[bytes]) -> "Text":
        """From token ids and the exact bytes of every id."""
        lengths = np.fromiter(map(len, raw), np.int64, len(raw))
        joined = (b"".join(map(raw.__getitem__, row)) for row in tokens.tolist())
        return Text(tuple(row.decode("utf-8", "surrogateescape") for row in joined), lengths[tokens.ravel()])

    @cached_property
    def char_starts(self) -> Int[np.ndarray, " char_and_one"]:
        """The byte at which each character begins; at the end, all bytes."""
        codes = np.frombuffer("".join(self.rows).encode("utf-32-le", "surrogatepass"), np.uint32)
        sizes = 1 + (codes >= 0x80).astype(np.int8) + (codes >= 0x800) + (codes >= 0x10000)
        sizes[(codes >= 0xDC80) & (codes <= 0xDCFF)] = 1  # a byte that is no UTF-8
        return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])

    @cached_property
    def token_starts(self) -> Int[np.ndarray, " token"]:
        """The byte at which each token begins."""
        return np.cumsum(self.token_bytes) - self.token_bytes

    def covered(self, spans: Int[np.ndarray, "span 2"], which: Which = "all") -> Bool[np.ndarray, " token"]:
        """The tokens that share a byte with one of the spans of characters; of each span all of them, the first or the last."""
        spans = spans[spans[:, 0] < spans[:, 1]]
        starts, stops = self.char_starts[spans].T
        first = np.searchsorted(self.token_starts, starts, "right") - 1
        last = np.searchsorted(self.token_starts, stops - 1, "right") - 1
        if which != "all":
            mask = np.zeros(len(self.token_bytes), bool)
            mask[first if which == "first" else last] = True
            return mask
        n = len(self.token_bytes) + 1
        depth = np.cumsum(np.bincount(first, minlength=n) - np.bincount(last + 1, minlength=n))[:-1]
        return (depth > 0) & (self.token_bytes > 0)  # an id without bytes shares none


def compiled(pattern: str) -> regex.Pattern:
    """A pattern with one capture group, or none: then the whole match counts. Raises InputError for any other."""
    if len(pattern) > LONGEST:
        raise InputError(f"the regular expression has {len(pattern)} characters, at most {LONGEST} are read; search for less at once")
    try:
        found = regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError, MemoryError) as error:
        what = str(error) or type(error).__name__
        raise InputError(f"{pattern!r} is no regular expression ({what}); write one as Python's re reads them, like '(\\w+)ing'") from None
    if found.groups > 1:
        raise InputError(f"{pattern!r} has {found.groups} capture groups; keep the one that marks the tokens and write the others as (?:…)")
    return found


def captures(pattern: str, rows: Sequence[str], patience: float = PATIENCE) -> Int[np.ndarray, "n 2"]:
    """Spans of the capture group in all matches, sequence by sequence, in characters of all sequences joined.

    A group that took no part in a match gives none. Raises InputError for a pattern that cannot be read, or is not done in time.
    """
    found, end = compiled(pattern), time.monotonic() + patience
    flat, counts = array("q"), []
    try:
        for row in rows:
            before = len(flat)
            matches = found.finditer(row, timeout=max(1e-3, end - time.monotonic()))
            flat.extend(itertools.chain.from_iterable(match.span(found.groups) for match in matches))
            counts.append((len(flat) - before) // 2)
    except TimeoutError:
        raise InputError(f"{pattern!r} takes more than {patience:g} s; write it without repeats inside repeats") from None
    spans = np.array(flat, np.int64).reshape(-1, 2)
    starts = np.cumsum([0, *map(len, rows)])[:-1]
    return (spans + np.repeat(starts, counts)[:, None])[spans[:, 0] >= 0]
